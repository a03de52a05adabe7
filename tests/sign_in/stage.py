"""A whole installation in one process: a control plane with its accounts, a gateway on port 0, sandboxes that serve.

Only the engine is played. Its sandboxes answer by HTTP, WebSocket and event stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import ClientConnection, connect

from htagweb_gateway.app import Gateway
from htagweb_gateway.door import FrontWebSocket
from htagweb_gateway.identity import Identity
from htagweb_gateway.orchestrator_client import OrchestratorClient
from htagweb_orchestrator import service
from htagweb_orchestrator.accounts import Account
from htagweb_orchestrator.model import AppName, UserId
from htagweb_orchestrator.settings import AppSettings
from tests.attacks.visitor import Visitor
from tests.gateway.scripted import Response as Answer
from tests.gateway.scripted import Server, gateway
from tests.orchestrator.harness import Harness
from tests.orchestrator.stage import Plane, eventually
from tests.orchestrator.stage import Stage as Machine

PAGE = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
PASSWORD = "correct horse"
# public: everybody · club: who is signed in · staff: one group · hers: one person
ACCESS = {"hello": ("public",), "clock": ("signed-in",), "todo": ("group:staff",), "form": ("user:ann",)}


# As an app of htag 2 has it: the page shim first, then a WebSocket of its own.
LIVE = """<!doctype html><html lang="en"><head><script src="/-/live.js" data-app="{app}"></script>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark"><title>{app}</title>
</head><body style="font: 1.1rem/1.5 system-ui"><h1>The books of {app}</h1><p id="said"></p><script>
const socket = new WebSocket("ws"); socket.onopen = () => socket.send("connected");
socket.onmessage = (event) => document.getElementById("said").textContent = event.data;
</script></body></html>"""


async def _page(request: Request) -> Response:
    if "sec-fetch-site" in request.headers and request.url.path == "/":  # a real browser
        host = request.headers["host"].partition(".")[0]
        app = request.headers.get("x-forwarded-prefix", host).removeprefix("/")
        return HTMLResponse(LIVE.replace("{app}", app))
    told = {name: value for name, value in request.headers.items() if name not in ("host", "accept")}
    return JSONResponse({"path": request.url.path, "headers": told})


async def _events(request: Request) -> Response:
    async def stream() -> AsyncIterator[bytes]:
        yield b"data: first\n\n"
        await asyncio.Event().wait()

    return StreamingResponse(stream(), media_type="text/event-stream")


async def _talk(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


APP = Starlette(
    routes=[
        WebSocketRoute("/ws", _talk),
        Route("/events", _events),
        Route("/{rest:path}", _page, methods=["GET", "POST"]),
    ]
)


class Serving(Harness):
    """An honest one behind whose socket an app answers."""

    app: Any = APP
    _served: asyncio.Server | None = None
    _server: Server

    async def listen(self) -> None:
        await super().listen()
        self._server = Server(self.app, HttpToolsProtocol, ws=WebSocketsSansIOProtocol)
        listener = self._sockets[0].dup()
        self._served = await asyncio.get_running_loop().create_unix_server(self._server.make, sock=listener)

    def killed(self) -> None:
        if self._served is not None:
            self._served.close()
            for connection in list(self._server.state.connections):
                connection.transport.abort()
        super().killed()


class Person(Visitor):
    """A visitor who may sign in."""

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items() if value)

    async def form(self, target: str, **fields: str) -> Answer:
        body = urllib.parse.urlencode(fields).encode()
        return await self.post(target, body, Content_Type="application/x-www-form-urlencoded", Accept="text/html")

    async def sign_in(self, name: str = "ann", password: str = PASSWORD, next: str = "/") -> Answer:
        return await self.form("/-/login", name=name, password=password, next=next)

    async def page(self, target: str, **headers: str) -> Answer:
        """One navigation, without following where it leads."""
        return await self.request("GET", target, PAGE | headers)

    async def follow(self, target: str, *, most: int = 10) -> Answer:
        """Navigations until one leads nowhere else."""
        for _ in range(most):
            answer = await self.page(target)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            target = place(answer)
        raise AssertionError(f"more than {most} redirects")

    async def socket(self, path: str, **headers: str) -> ClientConnection:
        fields = {"Origin": f"http://{self.host}", "Cookie": self.cookie, **headers}
        return await connect(
            f"ws://{self.host}{path}",
            host="127.0.0.1",
            port=self.server.port,
            additional_headers={name: text for name, text in fields.items() if text},
            compression=None,
            ping_interval=None,
            proxy=None,
        )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def place(answer: Answer) -> str:
    return (answer.header(b"location") or b"").decode()


class Stage:
    plane: Plane
    gateway: Gateway
    server: Server

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(folder)
        self.key = secrets.token_bytes(32)
        self.port = 0  # of the first worker; 0 for any
        self._socket = Path(tempfile.mkdtemp(prefix="htagweb-")) / "orch.sock"  # short, as a socket's name must be
        self._orchestrator: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._open = AsyncExitStack()
        self._open.callback(shutil.rmtree, self._socket.parent)

    async def open(self, **values: Any) -> None:
        """Serve the apps of ACCESS with these settings; ann (staff) and bob have accounts."""
        machine = self.machine
        machine.machine.next(*[Serving] * 100)
        for name, access in ACCESS.items():
            machine.apps[name] = msgspec.structs.replace(machine.apps.get(name, AppSettings()), access=access)
        self.plane = await machine.open(**{"auth": "password", **values})
        self._open.push_async_callback(machine.close)
        hashed = await machine.passwords.hash(PASSWORD)
        for account in (
            Account(name="ann", hash=hashed, full_name="Ann", email="ann@example.org", groups=("staff",)),
            Account(name="bob", hash=hashed, full_name="Bob"),
            Account(name="root", hash=hashed, full_name="Root", groups=("admin",)),
        ):
            await self.plane.accounts.add(account)
        self._open.push_async_callback(self.orchestrator_goes)
        await self.orchestrator_comes()
        self.gateway, self.server = await self.worker(port=self.port)

    async def orchestrator_comes(self) -> None:
        """Its socket answers."""
        self._orchestrator = service.server(Machine.gateway_app(self.plane), allowed_uids={os.getuid()})
        self._orchestrator.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        listener = service.listen(self._socket, mode=0o600)
        self._serving = asyncio.create_task(self._orchestrator.serve(sockets=[listener]))
        await eventually(lambda: self._orchestrator is not None and self._orchestrator.started)

    async def orchestrator_goes(self) -> None:
        """Nobody answers at its socket any more."""
        if self._orchestrator is None or self._serving is None:
            return
        self._orchestrator.should_exit = self._orchestrator.force_exit = True
        await self._serving
        self._orchestrator = None

    async def worker(self, *, port: int = 0) -> tuple[Gateway, Server]:
        """One more worker of the gateway, which shares the key with the others."""
        client = OrchestratorClient(str(self._socket))
        self._open.push_async_callback(client.close)
        worker = Gateway(orchestrator=client, visitors=client, identity=Identity(self.key))
        await self._open.enter_async_context(worker.running())
        server = await self._open.enter_async_context(
            gateway(worker, ws=FrontWebSocket, ws_per_message_deflate=False, at=port)
        )
        await eventually(lambda: worker.routes.filled)
        return worker, server

    def visitor(self, host: str = "", server: Server | None = None) -> Person:
        return Person(server or self.server, host)

    async def person(self, name: str = "ann") -> Person:
        """Somebody who has signed in."""
        person = self.visitor()
        assert (await person.sign_in(name)).status == 303
        return person

    def running(self, user: str, app: str) -> bool:
        return self.gateway.routes.get(UserId(user), AppName(app)) is not None

    async def close(self) -> None:
        await self._open.aclose()
