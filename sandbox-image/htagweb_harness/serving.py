"""uvicorn on the socket that was bound at the boot, and what stands between it and the app."""

from __future__ import annotations

import contextlib
import socket
import sys
from types import ModuleType

from .asgi import ASGIApp, Message, Receive, Scope, Send, respond, respond_json

WS_MAX_BYTES = 24 * 1024 * 1024  # the gateway's limit is lower, and says so nicely
KEEP_ALIVE_S = 600  # the gateway keeps connections in a pool, and should be the one who closes them


def import_server() -> None:
    """Import the server ahead of time, without uvicorn's command line, which would be 2 MB of each sandbox."""
    main = ModuleType("uvicorn.main")
    main.__dict__.update(Server=None, main=_no_server, run=_no_server)
    sys.modules["uvicorn.main"] = main
    import uvicorn.lifespan.off
    import uvicorn.protocols.http.httptools_impl
    import uvicorn.protocols.websockets.websockets_sansio_impl
    from uvicorn.server import Server

    # Some frameworks derive a class of their own from it as they are imported.
    uvicorn.__dict__["Server"] = main.__dict__["Server"] = Server


def _no_server(*args: object, **kargs: object) -> None:
    raise RuntimeError("in a sandbox the platform serves the app; leave uvicorn.run out")


async def serve(front: ASGIApp, listener: socket.socket) -> None:
    """Until SIGTERM or SIGINT."""
    from uvicorn.config import Config
    from uvicorn.server import Server

    config = Config(
        front,
        http="httptools",
        ws="websockets-sansio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=WS_MAX_BYTES,
        # No pings: a handler that blocks the loop for long would look like a lost connection.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
    )
    await Server(config).serve(sockets=[listener])


class Front:
    """The ASGI app that uvicorn sees. Until `app` is set there is nothing to serve."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self._sockets: set[Send] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is None:
            if scope["type"] == "http":
                await respond_json(send, 503, {"error": "the app is not ready"})
            else:
                await receive()
                await send({"type": "websocket.close", "code": 1013})
        elif scope["type"] == "websocket":
            await self._websocket(self.app, scope, receive, send)
        elif scope["method"] == "HEAD" and scope["path"] == "/":
            # Says that the page is there. Rendering it would count as a visit: other parameters would make a new
            # instance of an htag 1 app, and htag 2 would unmount and mount.
            no_store = ((b"cache-control", b"no-store"),)
            await respond(send, 200, b"", b"text/html; charset=utf-8", no_store)
        else:
            await self.app(scope, receive, send)

    async def _websocket(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def tracked(message: Message) -> None:
            if message["type"] == "websocket.accept":
                self._sockets.add(tracked)
            elif message["type"] == "websocket.close":
                self._sockets.discard(tracked)
            await send(message)

        try:
            await app(scope, receive, tracked)
        finally:
            self._sockets.discard(tracked)

    async def close_sockets(self) -> None:
        """Going away: the clients stay quiet until they are used again."""
        for send in list(self._sockets):
            with contextlib.suppress(Exception):
                await send({"type": "websocket.close", "code": 1001})
