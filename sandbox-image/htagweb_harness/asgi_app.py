"""Serves an app that is no htag class but an ASGI application: Starlette, FastAPI, NiceGUI and the like.

It sees what it would see behind a proxy that serves it below a prefix and is believed: `root_path`, and the visitor's
scheme and address. Its documents get the platform's script; its sockets, and all else of it, are its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import Any

from .asgi import ASGIApp, Message, Receive, Scope, Send
from .documents import Document, document_script
from .loading import LoadFailed


class StartupFailed(Exception):
    """The application said so in its lifespan. `trace` is what else it said, usually a traceback."""

    def __init__(self, said: str) -> None:
        lines = said.strip().splitlines()
        super().__init__(lines[-1] if lines else "the startup in its lifespan failed")
        self.trace = said


def check_asgi(app: Any, entry: str) -> None:
    """Raises LoadFailed for what can't be called as ASGI 3 says."""
    call = app if inspect.isfunction(app) or inspect.ismethod(app) else getattr(app, "__call__", None)  # noqa: B004
    if inspect.isclass(app) or call is None:
        raise LoadFailed(f"{entry} is no ASGI application: it can't be called")
    if not inspect.iscoroutinefunction(call):
        raise LoadFailed(f"{entry} is no ASGI application: calling it gives no coroutine (is it one of WSGI?)")


class AsgiApp:
    def __init__(self, app: ASGIApp, *, name: str) -> None:
        self._app = app
        self._script = document_script(name)
        self._lifespan = Lifespan(app)

    async def start(self) -> None:
        """Its lifespan's startup. Raises StartupFailed."""
        await self._lifespan.start()

    async def close(self, timeout_s: float) -> None:
        """Its lifespan's shutdown, as far as the time allows."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._lifespan.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        is_http = scope["type"] == "http"
        if is_http and scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b""):
            # Nothing could be put into a document that comes compressed.
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
        prefix = headers.get(b"x-forwarded-prefix", b"")  # none where the app has a host of its own
        # Once only: some (NiceGUI) put the two together.
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"x-forwarded-prefix"]
        scope["root_path"] = prefix.decode("latin-1")
        scope["path"] = scope["root_path"] + scope["path"]
        scope["raw_path"] = prefix + scope["raw_path"]
        if headers.get(b"x-forwarded-proto") == b"https":
            scope["scheme"] = "https" if is_http else "wss"
        visitor = headers.get(b"x-forwarded-for", b"").split(b",")[0].strip().decode("latin-1")
        scope["client"] = (visitor, 0) if visitor else None
        scope["state"] = self._lifespan.state.copy()
        if is_http and scope["method"] != "HEAD":
            send = Document(send, self._script)
        await self._app(scope, receive, send)


class Lifespan:
    """The ASGI lifespan protocol, from the server's side. An application that knows nothing of it is left alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="lifespan")
        answer = await self._ask("lifespan.startup")
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            raise StartupFailed(str(answer.get("message", "")))

    async def close(self) -> None:
        if self._task is not None and not self._task.done():
            await self._ask("lifespan.shutdown")
            await asyncio.wait({self._task})

    async def _ask(self, what: str) -> Message | None:
        """The application's answer; None if it ends without one."""
        assert self._task is not None
        self._asked.put_nowait({"type": what})
        answer = asyncio.ensure_future(self._answers.get())
        try:
            await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        finally:
            answer.cancel()

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        # The specification: a server must go on when an application raises here, which doesn't know this kind of scope.
        with contextlib.suppress(Exception):
            await self._app(scope, self._asked.get, self._answer)

    async def _answer(self, message: Message) -> None:
        self._answers.put_nowait(message)
