"""The process that the workers of one server share: their orchestrator. They start it; see fellows.py.

python -m htagweb._control FOLDER
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from htagweb_orchestrator.service import gateway_api, listen, server
from htagweb_orchestrator.session_routes import PatchRequest, SessionRequest
from htagweb_orchestrator.wire import json_answer, read_body

from .fellows import HAS_UNIX, NextDoor, Startup, new_secret
from .own_platform import OwnPlatform, opened
from .source import Source

log = logging.getLogger(__name__)

ALONE_S = 5.0  # after the last worker has left
FIRST_S = 30.0  # until the first one comes
LOOK_S = 0.25


async def serve(next_door: NextDoor, startup: Startup) -> None:
    """Until SIGTERM, or until it has been alone for long enough."""
    stopped = asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    folder = next_door.folder
    with contextlib.ExitStack() as ending:  # from the last answer until nothing is left, no worker may start another
        async with opened(folder, startup.options) as platform:
            app = gateway_api(platform.control, _routes(platform))
            if HAS_UNIX:
                service, sock = server(app, allowed_uids={os.getuid()}), listen(next_door.socket_path, mode=0o600)
            else:
                service, sock = _on_loopback(app, next_door)
            service.config.load()
            service.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
            serving = asyncio.create_task(service.serve(sockets=[sock]))
            try:
                await _until_alone(platform, stopped)
            finally:
                ending.enter_context(next_door.closing())
                service.should_exit = True
                await asyncio.wait({serving})
                for path in (next_door.socket_path, next_door.port_path):
                    path.unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _until_alone(platform: OwnPlatform, stopped: asyncio.Event) -> None:
    until = time.monotonic() + FIRST_S
    while time.monotonic() < until and not stopped.is_set():
        if platform.control.watched:
            until = time.monotonic() + ALONE_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await stopped.wait()


def _routes(platform: OwnPlatform) -> list[Route]:
    belongings = platform.sessions

    async def get(request: Request) -> Response:
        asked = await read_body(request, SessionRequest)
        return json_answer(await belongings.session(asked.user, asked.app))

    async def patch(request: Request) -> Response:
        asked = await read_body(request, PatchRequest)
        await belongings.patch_session(asked.user, asked.app, asked.set, asked.delete)
        return Response(status_code=204)

    async def publish(request: Request) -> Response:
        return json_answer(await platform.publish(await read_body(request, Source)))

    return [
        Route("/v1/session/get", get, methods=["POST"]),
        Route("/v1/session/patch", patch, methods=["POST"]),
        Route("/v1/publish", publish, methods=["POST"]),
    ]


def _on_loopback(app: ASGIApp, next_door: NextDoor) -> tuple[uvicorn.Server, Any]:
    """Where who connects can't be asked: whoever can read the folder knows the secret."""
    secret = new_secret()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        said = [value for name, value in scope["headers"] if name == b"x-htagweb-secret"]
        if len(said) == 1 and hmac.compare_digest(said[0], secret.encode()):
            await app(scope, receive, send)
        else:
            await PlainTextResponse("this is not yours", 403)(scope, receive, send)

    config = uvicorn.Config(
        guarded, host="127.0.0.1", port=0, ws="none", lifespan="off", log_config=None, access_log=False
    )
    sock = config.bind_socket()
    partial = next_door.port_path.with_suffix(".new")
    partial.write_text(f"{sock.getsockname()[1]} {secret}")
    os.replace(partial, next_door.port_path)
    return uvicorn.Server(config), sock


def main() -> int:
    folder = Path(sys.argv[1])
    startup = msgspec.json.decode((folder / "startup.json").read_bytes(), type=Startup)
    sys.path[:] = startup.sys_path
    os.environ.pop("PYTHONPATH", None)
    if startup.pythonpath is not None:
        os.environ["PYTHONPATH"] = startup.pythonpath
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(NextDoor.of(folder), startup))
    return 0


if __name__ == "__main__":
    sys.exit(main())
