"""Keeps the promise of api.Orchestrator over the orchestrator's Unix socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

import httpx
import msgspec

from htagweb_orchestrator.errors import OrchestratorError, OrchestratorUnavailable, from_problem
from htagweb_orchestrator.model import AppName, Change, Ending, Route, SandboxId, Seen, UserId

T = TypeVar("T")
ANSWER_S = 10.0  # on top of what a call itself may wait
HEARTBEAT_S = 15.0  # a watch that says nothing for so long is dead; the orchestrator says something every 5 s
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

    async def release(self, user: UserId, app: AppName, ending: Ending) -> bool:
        return await self._post("release", {"user": user, "app": app, "ending": ending}, bool)

    async def activity(self, gateway: str, seen: Mapping[SandboxId, Seen]) -> None:
        await self._send("activity", {"gateway": gateway, "seen": dict(seen)}, 0.0)

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
        if answer.is_success:
            return answer
        try:
            raise from_problem(msgspec.json.decode(answer.content, type=dict[str, Any]))
        except msgspec.MsgspecError as error:
            raise OrchestratorError(f"the orchestrator answered {answer.status_code}") from error
