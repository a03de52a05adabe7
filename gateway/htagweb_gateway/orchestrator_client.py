"""Keeps the promises of api.Orchestrator and api.SessionVerbs over the orchestrator's Unix socket."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import httpx
import msgspec

from htagweb_orchestrator.errors import NotAnOperator, OrchestratorError, OrchestratorUnavailable, from_problem
from htagweb_orchestrator.model import (
    AppName,
    Change,
    Ending,
    Icon,
    OperatorAnswer,
    Person,
    Refusal,
    Route,
    SandboxId,
    Seen,
    UserId,
    Welcome,
)

T = TypeVar("T")
ANSWER_S = 10.0  # on top of what a call itself may wait
OPERATE_S = 60.0  # an engine may take its time over ending many sandboxes
METRICS_S = 3.0  # whoever asks for them waits 10 s at most
HEARTBEAT_S = 15.0  # a watch that says nothing for so long is dead; the orchestrator says something every 5 s
_TOKEN = re.compile("[A-Za-z0-9_-]{1,200}")
_GONE = "The part of the server that starts apps does not answer. What runs goes on; try again in a moment."


class OrchestratorClient:
    """`path` is the socket. Every call raises OrchestratorUnavailable when nobody answers there."""

    def __init__(self, path: str) -> None:
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=path, limits=httpx.Limits(max_connections=None)),
            base_url="http://orchestrator",
            timeout=httpx.Timeout(ANSWER_S, connect=2.0),
            trust_env=False,
        )

    async def lease(
        self, user: UserId, app: AppName, *, query: str = "", wait_s: float = 0.0, client: str = ""
    ) -> Route:
        asked = {"user": user, "app": app, "query": query, "wait_s": wait_s, "client": client}
        return await self._post("lease", asked, Route, wait_s=wait_s)

    async def find(self, user: UserId, app: AppName) -> Route | None:
        return await self._post("find", {"user": user, "app": app}, Route | None)  # type: ignore[arg-type]

    async def running(self, user: UserId) -> list[Route]:
        return await self._post("running", {"user": user}, list[Route])

    async def release(self, user: UserId, app: AppName, ending: Ending) -> bool:
        return await self._post("release", {"user": user, "app": app, "ending": ending}, bool)

    async def activity(self, gateway: str, seen: Mapping[SandboxId, Seen], refused: Sequence[Refusal] = ()) -> None:
        await self._send("activity", {"gateway": gateway, "seen": dict(seen), "refused": list(refused)}, 0.0)

    async def icon(self, app: AppName) -> Icon | None:
        try:
            answer = await self._http.get("/v1/icon", params={"app": app})
        except httpx.HTTPError as error:
            raise OrchestratorUnavailable(_GONE) from error
        if not answer.is_success:
            self._raise(answer)
        return msgspec.json.decode(answer.content, type=Icon | None)

    async def metrics(self) -> bytes:
        """What the orchestrator counts, as Prometheus reads it."""
        try:
            answer = await self._http.get("/v1/metrics", timeout=METRICS_S)
        except httpx.HTTPError as error:
            raise OrchestratorUnavailable(_GONE) from error
        if not answer.is_success:
            self._raise(answer)
        return answer.content

    async def watch(self, gateway: str) -> AsyncGenerator[Change, None]:
        """Ends when the orchestrator ends it; raises OrchestratorUnavailable when it is not there or falls silent."""
        decoder: msgspec.json.Decoder[Change] = msgspec.json.Decoder(Change)
        timeout = httpx.Timeout(HEARTBEAT_S, connect=2.0)
        try:
            async with self._http.stream("GET", "/v1/watch", params={"gateway": gateway}, timeout=timeout) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if line:
                        yield decoder.decode(line)
        except httpx.HTTPError as error:
            raise OrchestratorUnavailable(_GONE) from error

    # -- api.SessionVerbs ----------------------------------------------------------------------------------------

    async def session(self, user: UserId, app: AppName) -> dict[str, Any]:
        return await self._post("session/get", {"user": user, "app": app}, dict[str, Any])

    async def patch_session(
        self, user: UserId, app: AppName, changed: Mapping[str, Any], deleted: Sequence[str]
    ) -> None:
        asked = {"user": user, "app": app, "set": dict(changed), "del": list(deleted)}
        await self._send("session/patch", asked, 0.0)

    async def sign_in(
        self, name: str, password: str, *, client: str = "", sid: str = "", visitor: UserId | None = None
    ) -> Welcome:
        asked = {"name": name, "password": password, "client": client, "sid": sid, "visitor": visitor}
        return await self._post("session/sign-in", asked, Welcome)

    async def admit(
        self, person: Person, method: str, *, client: str = "", sid: str = "", visitor: UserId | None = None
    ) -> Welcome:
        asked = {"person": person, "method": method, "client": client, "sid": sid, "visitor": visitor}
        return await self._post("session/admit", asked, Welcome)

    async def redeem(self, token: str, *, client: str = "", sid: str = "", visitor: UserId | None = None) -> Welcome:
        asked = {"token": token, "client": client, "sid": sid, "visitor": visitor}
        return await self._post("session/redeem", asked, Welcome)

    async def spend(self, mark: str, life_s: float) -> bool:
        return await self._post("session/spend", {"mark": mark, "life_s": life_s}, bool)

    async def sign_out(self, sid: str, *, everywhere: bool = False) -> None:
        await self._send("session/sign-out", {"sid": sid, "everywhere": everywhere}, 0.0)

    async def operate(
        self, token: str, method: str, path: str, *, query: str = "", body: bytes = b"", client: str = ""
    ) -> OperatorAnswer:
        if not _TOKEN.fullmatch(token):
            raise NotAnOperator("This is no operator's token.")
        try:
            answer = await self._http.request(
                method,
                httpx.URL(path=f"/v1/session/operate{path}", query=query.encode()),
                content=body,
                headers={"Authorization": f"Bearer {token}", "X-Htagweb-Client": client},
                timeout=httpx.Timeout(OPERATE_S, connect=2.0),
            )
        except (httpx.HTTPError, ValueError) as error:
            raise OrchestratorUnavailable(_GONE) from error
        if answer.status_code == NotAnOperator.status:
            self._raise(answer)
        return OperatorAnswer(
            status=answer.status_code, media_type=answer.headers.get("content-type", ""), body=answer.content
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def _post(self, verb: str, asked: dict[str, Any], kind: type[T], *, wait_s: float = 0.0) -> T:
        return msgspec.json.decode((await self._send(verb, asked, wait_s)).content, type=kind)

    async def _send(self, verb: str, asked: dict[str, Any], wait_s: float) -> httpx.Response:
        try:
            answer = await self._http.post(
                f"/v1/{verb}",
                content=msgspec.json.encode(asked),
                timeout=httpx.Timeout(ANSWER_S + wait_s, connect=2.0),
            )
        except httpx.HTTPError as error:
            raise OrchestratorUnavailable(_GONE) from error
        if not answer.is_success:
            self._raise(answer)
        return answer

    @staticmethod
    def _raise(answer: httpx.Response) -> NoReturn:
        try:
            raise from_problem(msgspec.json.decode(answer.content, type=dict[str, Any]))
        except msgspec.MsgspecError as error:
            raise OrchestratorError(f"the orchestrator answered {answer.status_code}") from error
