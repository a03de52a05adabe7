"""The orchestrator's two sockets: one for gateways with their few verbs, one for operators with the others.

Who may speak is decided by the kernel: the peer's uid is looked at when a connection is made, before a byte is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .control import ControlPlane
from .model import AppName, Ending, Refusal, SandboxId, Seen, Struct, UserId
from .operators import Operators
from .wire import application, json_answer, problem_answer, read_body

log = logging.getLogger(__name__)

_HEX = re.compile("[0-9a-f]{1,32}")
HEARTBEAT_S = 5.0  # a watch says at least this often that it lives
MAX_WAIT_S = 30.0


class LeaseRequest(Struct, frozen=True):
    user: UserId
    app: AppName
    query: str = ""
    wait_s: float = 0.0
    client: str = ""


class FindRequest(Struct, frozen=True):
    user: UserId
    app: AppName


class RunningRequest(Struct, frozen=True):
    user: UserId


class ReleaseRequest(Struct, frozen=True):
    user: UserId
    app: AppName
    ending: Ending


class ActivityRequest(Struct, frozen=True):
    gateway: str
    seen: dict[SandboxId, Seen]
    refused: list[Refusal] = msgspec.field(default_factory=list)


class PruneRequest(Struct, frozen=True, forbid_unknown_fields=True):
    yes: bool = False


class ReapRequest(Struct, frozen=True, forbid_unknown_fields=True):
    ids: list[SandboxId]
    ending: Literal["operator", "updated"] = "operator"


class DrainRequest(Struct, frozen=True, forbid_unknown_fields=True):
    on: bool


class DataRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """None: of every user, of every app."""

    user: UserId | None = None
    app: AppName | None = None


def gateway_api(
    control: ControlPlane, session: Sequence[BaseRoute] = (), *, metrics: Callable[[], bytes] | None = None
) -> Starlette:
    """lease, find, running, activity, release, icon, watch, metrics where they are kept, and below `session` what
    session_routes has: all that a gateway may ask for, in the model's structs."""

    async def lease(request: Request) -> Response:
        asked = await read_body(request, LeaseRequest)
        route = await control.lease(
            asked.user,
            asked.app,
            query=asked.query,
            wait_s=min(max(asked.wait_s, 0.0), MAX_WAIT_S),
            client=asked.client,
        )
        return json_answer(route)

    async def find(request: Request) -> Response:
        asked = await read_body(request, FindRequest)
        return json_answer(await control.find(asked.user, asked.app))

    async def running(request: Request) -> Response:
        asked = await read_body(request, RunningRequest)
        return json_answer(await control.running(asked.user))

    async def release(request: Request) -> Response:
        asked = await read_body(request, ReleaseRequest)
        # A gateway ends a sandbox for its visitor; the other words are the orchestrator's own.
        return json_answer(await control.release(asked.user, asked.app, Ending.VISITOR))

    async def activity(request: Request) -> Response:
        asked = await read_body(request, ActivityRequest)
        await control.activity(asked.gateway, asked.seen, asked.refused)
        return Response(status_code=204)

    async def icon(request: Request) -> Response:
        return json_answer(await control.icon(AppName(request.query_params.get("app", ""))))

    async def watch(request: Request) -> Response:
        gateway = request.query_params.get("gateway", "")

        async def lines() -> AsyncIterator[bytes]:
            async with contextlib.aclosing(_beating(control, gateway)) as changes:
                async for line in changes:
                    yield line

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return application(
        [
            HttpRoute("/v1/lease", lease, methods=["POST"]),
            HttpRoute("/v1/find", find, methods=["POST"]),
            HttpRoute("/v1/running", running, methods=["POST"]),
            HttpRoute("/v1/release", release, methods=["POST"]),
            HttpRoute("/v1/activity", activity, methods=["POST"]),
            HttpRoute("/v1/icon", icon),
            HttpRoute("/v1/watch", watch),
            *_told(metrics),
            *session,
        ]
    )


async def _beating(control: ControlPlane, gateway: str) -> AsyncGenerator[bytes, None]:
    """The watch as lines of JSON, with an empty line where nothing happened for a while."""
    changes = control.watch(gateway)
    upcoming: asyncio.Future[Any] | None = None
    try:
        while True:
            if upcoming is None:
                upcoming = asyncio.ensure_future(anext(changes, None))
            done, _ = await asyncio.wait({upcoming}, timeout=HEARTBEAT_S)
            if not done:
                yield b"\n"
                continue
            change, upcoming = upcoming.result(), None
            if change is None:
                return
            yield msgspec.json.encode(change) + b"\n"
    finally:
        if upcoming is not None:
            upcoming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await upcoming
        await changes.aclose()


def operator_api(
    operators: Operators, people: Sequence[BaseRoute] = (), *, metrics: Callable[[], bytes] | None = None
) -> Starlette:
    """What the `htagweb` command asks for; docs/operators.md lists the fields."""

    async def sandboxes(request: Request) -> Response:
        return json_answer(await operators.rows())

    async def sandbox(request: Request) -> Response:
        prefix = request.path_params["prefix"]
        return _only(prefix, {row["id"]: row for row in await operators.inspect(prefix)}, json_answer)

    async def logs(request: Request) -> Response:
        prefix = request.path_params["prefix"]
        if not _HEX.fullmatch(prefix):
            return problem_answer(404, "not-found", f"{prefix!r} is no sandbox id")
        return _only(prefix, operators.logs(prefix), PlainTextResponse)

    async def reap(request: Request) -> Response:
        asked = await read_body(request, ReapRequest)
        request.state.about = " ".join(each[:12] for each in asked.ids)
        return json_answer(await operators.reap(asked.ids, Ending(asked.ending)))

    async def apps(request: Request) -> Response:
        return json_answer(operators.apps())

    async def build_log(request: Request) -> Response:
        return PlainTextResponse(operators.build_log(request.path_params["name"]))

    async def build(request: Request) -> Response:
        if not operators.build(request.path_params["name"]):
            return problem_answer(
                409, "no-build", "There is nothing to do: it names no packages, and was not tried out."
            )
        return Response(status_code=204)

    async def prune(request: Request) -> Response:
        asked = await read_body(request, PruneRequest)
        return json_answer(await operators.prune(really=asked.yes))

    async def drained(request: Request) -> Response:
        return json_answer(operators.drained())

    async def drain(request: Request) -> Response:
        asked = await read_body(request, DrainRequest)
        request.state.about = "on" if asked.on else "off"
        return json_answer(operators.drain(asked.on))

    async def pool(request: Request) -> Response:
        return json_answer(operators.pool())

    async def data(request: Request) -> Response:
        return json_answer(await operators.data())

    async def remove_data(request: Request) -> Response:
        asked = await read_body(request, DataRequest)
        return json_answer(await operators.remove_data(asked.user, asked.app))

    async def warnings(request: Request) -> Response:
        return json_answer(operators.warnings)

    async def configuration(request: Request) -> Response:
        return json_answer(operators.configuration)

    async def doctor(request: Request) -> Response:
        return json_answer(await operators.doctor())

    async def readyz(request: Request) -> Response:
        return json_answer({"ready": operators.ready}, 200 if operators.ready else 503)

    return application(
        [
            HttpRoute("/v1/sandboxes", sandboxes),
            HttpRoute("/v1/sandboxes/{prefix}", sandbox),
            HttpRoute("/v1/logs/{prefix}", logs),
            HttpRoute("/v1/reap", reap, methods=["POST"]),
            HttpRoute("/v1/apps", apps),
            HttpRoute("/v1/apps/{name}/log", build_log),
            HttpRoute("/v1/apps/{name}/build", build, methods=["POST"]),
            HttpRoute("/v1/prune", prune, methods=["POST"]),
            HttpRoute("/v1/drain", drained, methods=["GET"]),
            HttpRoute("/v1/drain", drain, methods=["POST"]),
            HttpRoute("/v1/pool", pool),
            HttpRoute("/v1/data", data),
            HttpRoute("/v1/data/remove", remove_data, methods=["POST"]),
            HttpRoute("/v1/warnings", warnings),
            HttpRoute("/v1/configuration", configuration),
            HttpRoute("/v1/doctor", doctor, methods=["POST"]),
            HttpRoute("/v1/readyz", readyz),
            *_told(metrics),
            *people,
        ]
    )


def _told(metrics: Callable[[], bytes] | None) -> list[BaseRoute]:
    async def answer(request: Request) -> Response:
        assert metrics is not None
        return PlainTextResponse(metrics())

    return [HttpRoute("/v1/metrics", answer)] if metrics is not None else []


def _only(prefix: str, found: dict[SandboxId, Any], answer: Any) -> Response:
    """The one match, or the problem with there being none or several."""
    if len(found) == 1:
        return answer(next(iter(found.values())))  # type: ignore[no-any-return]
    if not found:
        return problem_answer(404, "not-found", f"no sandbox's id begins with {prefix!r}")
    return problem_answer(409, "ambiguous", f"{len(found)} sandboxes' ids begin with {prefix!r}: give more digits")


def listen(path: Path, *, mode: int, gid: int | None = None) -> socket.socket:
    """A listening Unix socket at `path`, replacing what an earlier run left there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    os.chmod(path, mode)
    if gid is not None:
        os.chown(path, 0, gid)
    listener.listen(1024)
    return listener


def server(app: ASGIApp, *, allowed_uids: set[int]) -> uvicorn.Server:
    """A uvicorn server that hangs up on peers of other uids."""

    class PeerChecked(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            peer: socket.socket = transport.get_extra_info("socket")
            _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            super().connection_made(transport)
            if uid not in allowed_uids:
                log.warning("connection refused", extra={"peer_uid": uid})
                transport.abort()

    config = uvicorn.Config(
        app, http=PeerChecked, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        date_header=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    return uvicorn.Server(config)
