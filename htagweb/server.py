"""WebServer and its relatives: hosting htag apps from a program of one's own, each user in a process of his.

The composition root of an embedded server: it joins the gateway, which it is in its own process, to an orchestrator,
which is in this process too, or in one that several workers share.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import webbrowser
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from htagweb_orchestrator.quantities import show_size, size_bytes

from .leaving import EventStreams, ended_soon
from .source import Source, check, source_of
from .workplace import LEAST_MEMORY, MEMORY, HeadStart, Options, Workplace, entered

SAID = "htagweb: each user's app runs in a process of its own, with your rights: that is no isolation boundary."


_ordinals = itertools.count()


class WebServer(Starlette):
    """Serves an htag class at `/`, by HTTP exchanges alone; `add_route`, `serve` and `handle` host more of them.

    `obj` is a Tag class, a module that has a class App, or a text: "module.App" or "module:App".
    `timeout_interaction` is how many seconds an init or a handler may take, blocking or not, before the user's process
    is ended, 0 for ever. `timeout_inactivity` is after how many seconds without anything done it is ended, 0 for never;
    `timeout` is the name that it had once. With `debug` pages show tracebacks. `session_size` bounds a user's session,
    as JSON; `memory` what a user's process may allocate, on Linux, and `body_size` one request's body, 0 for no limit.
    These are bytes, or texts such as "512m". `wss` is accepted and without effect: pages use the scheme that they came
    by.

    Making one only remembers all this: a program may make it before it forks its workers.
    """

    _http_only = True

    def __init__(
        self,
        obj: object = None,
        timeout: float | None = None,
        wss: bool = False,
        *,
        http_only: bool | None = None,
        parano: bool = False,
        debug: bool = False,
        session_size: int | str = 64 * 1024,
        body_size: int | str = 0,
        memory: int | str = MEMORY,
        timeout_interaction: float = 60,
        timeout_inactivity: float = 0,
    ) -> None:
        if obj is not None:
            check(obj)
        super().__init__(lifespan=self._serving)
        self._obj = obj
        self._modes = {"http_only": self._http_only if http_only is None else http_only, "parano": parano}
        self._options = Options(
            idle_timeout_s=float(timeout_inactivity or timeout or 0),
            interaction_timeout_s=float(timeout_interaction),
            debug=debug,
            session_size=_bytes("session_size", session_size),
            body_size=_bytes("body_size", body_size),
            memory_bytes=_bytes("memory", memory, LEAST_MEMORY),
        )
        self._sources: dict[tuple[Any, ...], Source] = {}
        self._workplace: Workplace | None = None
        self._ordinal = next(_ordinals)
        self._head_start: HeadStart | None = None
        self._streams = EventStreams()
        if obj is not None:
            self.add_route("/", self._home)

    # -- what programs call --------------------------------------------------------------------------------------

    def run(self, host: str = "0.0.0.0", port: int = 8000, openBrowser: bool = False) -> None:
        """Serve until Ctrl-C. Raises SystemExit where the address can't be had."""
        if self._obj is not None:  # what is wrong with it is said before the server starts
            self._head_start = HeadStart(self._source(self._obj).generation, self._options)
        try:
            self._run(host, port, openBrowser)
        finally:
            if self._head_start is not None:
                self._head_start.abandon()

    def _run(self, host: str, port: int, open_browser: bool) -> None:
        import uvicorn

        from htagweb_gateway.door import FrontWebSocket
        from htagweb_gateway.protocol import FrontProtocol

        if open_browser:
            shown = "localhost" if host in ("", "0.0.0.0", "::") else host
            self.state.opens = f"http://{shown}:{port}/"
        uvicorn.run(
            self,
            host=host,
            port=port,
            http=FrontProtocol,
            ws=FrontWebSocket,
            ws_per_message_deflate=False,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )

    async def serve(self, request: HTTPConnection, obj: object, renew: bool = False) -> Response:
        """The page of `obj`, as the answer of a route; with `renew` of a new instance in a new process."""
        return AppPage(self, self._source(obj), renew)

    async def handle(
        self, request: HTTPConnection, obj: object, http_only: bool | None = None, parano: bool | None = None
    ) -> Response:
        """The page of `obj`, as the answer of a route. `http_only` and `parano` are the server's, where not given: an
        app that is served both ways has an instance for each."""
        return AppPage(self, self._source(obj, http_only=http_only, parano=parano))

    # -- requests ------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        workplace = self._workplace
        if workplace is None:
            raise RuntimeError(
                "this server has not been started: its lifespan must run (with a TestClient, by a `with` block)"
            )
        from htagweb_gateway.body_size import announced, bounded
        from htagweb_gateway.problems import local, problem_of_error
        from htagweb_orchestrator.errors import OrchestratorError

        gateway = workplace.gateway
        path: str = scope["path"]
        if path == "/-/start" and scope["type"] == "http":  # opening the page is what starts an app here
            target = local(Request(scope).query_params.get("next", "/"))
            await RedirectResponse(target, 303)(scope, receive, send)
            return
        if path.startswith("/-/"):
            await gateway(dict(scope), receive, send)
            return
        visitor, cookie = gateway.visitor(dict(scope))
        if cookie:
            send = _with_cookies(send, [(b"set-cookie", cookie.encode("latin-1"))])
        if path.startswith("/_/"):
            with self._streams.following(send) as send:
                answer = await gateway.below(dict(scope), receive, send, visitor)
            if answer is not None:
                await _answer(answer, scope, receive, send)
            return
        most = self._options.body_size
        if most and scope["type"] == "http":
            if (announced(dict(scope)) or 0) > most:
                await _answer(gateway.too_large(dict(scope), most), scope, receive, send)
                return
            # In a route or a mount, this is what Starlette makes an answer of.
            refusal = HTTPException(413, f"This server takes {most:,} bytes in one request, not more.")
            receive = bounded(receive, most, refusal)
        scope["htagweb.visiting"] = visitor
        session = _RouteSession(workplace, visitor.user)
        try:
            scope["session"] = await session.read()
        except OrchestratorError as error:
            await _answer(problem_of_error(error), scope, receive, send)
            return
        await super().__call__(scope, receive, session.storing(send))
        await session.store()

    async def _home(self, request: Request) -> Response:
        return await self.serve(request, self._obj)

    async def page(self, source: Source, renew: bool, scope: Scope, receive: Receive, send: Send) -> None:
        workplace = self._workplace
        assert workplace is not None
        card = await workplace.publish(source)
        answer = await workplace.gateway.page(dict(scope), receive, send, scope["htagweb.visiting"], card, renew=renew)
        if answer is not None:
            await answer(scope, receive, send)

    def _source(self, obj: object, **modes: bool | None) -> Source:
        said = {name: value for name, value in modes.items() if value is not None}
        wanted = {**self._modes, **said}
        key = (obj if isinstance(obj, str) else id(obj), *wanted.values())
        if key not in self._sources:
            self._sources[key] = source_of(obj, **wanted)
        return self._sources[key]

    @contextlib.asynccontextmanager
    async def _serving(self, app: Starlette) -> AsyncIterator[None]:
        sources = [self._source(self._obj)] if self._obj is not None else []
        with ended_soon(self._streams):  # also while it starts
            async with entered(self._ordinal, self._options, sources, self._head_start) as workplace:
                if workplace.first:
                    print(SAID, file=sys.stderr, flush=True)
                self._workplace = workplace
                if opens := getattr(self.state, "opens", ""):
                    asyncio.get_running_loop().call_later(0.3, webbrowser.open, opens)
                try:
                    yield
                finally:
                    self._workplace = None


class WebServerWS(WebServer):
    """Like WebServer, but its pages talk by WebSocket, and fall back to HTTP where that fails."""

    _http_only = False


class Runner(WebServerWS):
    """The later name of it: takes the address when it is made. `ssl` and `session_factory` are accepted and without
    effect: pages use the scheme that they came by, and sessions are kept by the server."""

    def __init__(
        self,
        obj: object = None,
        host: object = "0.0.0.0",
        port: int = 8000,
        debug: bool = False,
        ssl: bool = False,
        parano: bool = False,
        http_only: bool | None = None,
        timeout_interaction: float = 60,
        timeout_inactivity: float = 0,
        *,
        session_factory: object = None,
        session_size: int | str = 64 * 1024,
        body_size: int | str = 0,
        memory: int | str = MEMORY,
    ) -> None:
        super().__init__(
            obj,
            http_only=http_only,
            parano=parano,
            debug=debug,
            session_size=session_size,
            body_size=body_size,
            memory=memory,
            timeout_interaction=timeout_interaction,
            timeout_inactivity=timeout_inactivity,
        )
        # AppServer's second parameter was a factory of sessions, before it was the host.
        self._address = (host if isinstance(host, str) else "0.0.0.0", port)

    def run(self, host: str | None = None, port: int | None = None, openBrowser: bool = False) -> None:
        super().run(host or self._address[0], port or self._address[1], openBrowser)


AppServer = Runner


class AppPage(Response):
    """The answer of a route that an app gives: it streams through. Cookies that the route sets on it are sent along."""

    def __init__(self, server: WebServer, source: Source, renew: bool = False) -> None:
        super().__init__()
        self._server = server
        self._source = source
        self._renew = renew

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cookies = [(name, value) for name, value in self.raw_headers if name == b"set-cookie"]
        await self._server.page(self._source, self._renew, scope, receive, _with_cookies(send, cookies))


class _RouteSession:
    """The user's session while a route has it: the same record as in his apps. What the route changed is stored before
    its answer begins, so that whoever sees the answer finds it."""

    def __init__(self, workplace: Workplace, user: str) -> None:
        self._workplace = workplace
        self._user = user
        self._data: dict[str, Any] = {}
        self._before: dict[str, str] = {}

    async def read(self) -> dict[str, Any]:
        self._data = await self._workplace.session(self._user)
        self._before = _encoded(self._data)
        return self._data

    async def store(self) -> None:
        now = _encoded(self._data)
        changed = {key: self._data[key] for key, text in now.items() if self._before.get(key) != text}
        deleted = [key for key in self._before if key not in now]
        if changed or deleted:
            self._before = now
            await self._workplace.patch_session(self._user, changed, deleted)

    def storing(self, send: Send) -> Send:
        async def stored(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.send", "websocket.close"):
                await self.store()
            await send(message)

        return stored


def _bytes(name: str, said: int | str, least: int = 0) -> int:
    try:
        size = size_bytes(str(said))
    except ValueError:
        raise ValueError(f"{name}={said!r}: give a number of bytes, or a text such as '512m'") from None
    if 0 < size < least:
        raise ValueError(f"{name}={said!r}: {show_size(least)} is the least that works, and 0 is no limit")
    return size


def _encoded(data: Mapping[str, Any]) -> dict[str, str]:
    """Raises TypeError for what is not JSON: the route that put it there hears of it."""
    return {key: json.dumps(value, allow_nan=False) for key, value in data.items()}


def _with_cookies(send: Send, cookies: list[tuple[bytes, bytes]]) -> Send:
    async def completed(message: Message) -> None:
        if cookies and message["type"] in ("http.response.start", "websocket.accept"):
            message = {**message, "headers": [*message.get("headers", []), *cookies]}
        await send(message)

    return completed


async def _answer(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Also in place of a WebSocket."""
    if scope["type"] == "http":
        await answer(scope, receive, send)
        return
    from htagweb_gateway.app import _deny

    await _deny(answer, receive, send, dict(scope))
