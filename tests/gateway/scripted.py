"""A gateway reduced to its data path, scripted sandboxes behind it, and a visitor who speaks in bytes.

All in the test's own event loop, over real sockets: whatever is scripted writes and reads exactly what it says.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from htagweb_gateway import front
from htagweb_gateway.door import FrontWebSocket
from htagweb_gateway.errand import Sender
from htagweb_gateway.exchange import Message, Receive, Send
from htagweb_gateway.handshake import refuse
from htagweb_gateway.headers import Forward
from htagweb_gateway.heads import Head
from htagweb_gateway.protocol import FrontProtocol
from htagweb_gateway.relay import Carrier, relay_for
from htagweb_gateway.upstream import Upstream
from htagweb_gateway.upstream_errors import UpstreamError
from htagweb_orchestrator.model import UnixAddress

Script = Callable[["Wire"], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# Whether `path_to` begins with a request, so that those of the test find a connection that is free: such as came whole
# need no task then (see `errand`).
warm: ContextVar[bool] = ContextVar("warm", default=False)
both_paths = pytest.mark.parametrize("path", ["cold", "warm"], indirect=True)

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"


async def eventually(condition: Callable[[], bool], *, within_s: float = 15.0) -> None:
    """Wait until `condition` holds; fail if it doesn't in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  a condition of any kind, not an event of ours
            await asyncio.sleep(0.005)


class Wire:
    """One end of a connection. Every wait has a deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self.writer.transport

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def send(self, data: bytes, *, within_s: float = 15.0) -> None:
        async with asyncio.timeout(within_s):
            self.writer.write(data)
            await self.writer.drain()

    async def head(self, *, within_s: float = 15.0) -> bytes:
        """A head, the empty line included."""
        async with asyncio.timeout(within_s):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, size: int, *, within_s: float = 15.0) -> bytes:
        async with asyncio.timeout(within_s):
            return await self.reader.readexactly(size)

    async def some(self, *, within_s: float = 15.0) -> bytes:
        async with asyncio.timeout(within_s):
            return await self.reader.read(65536)

    async def rest(self, *, within_s: float = 15.0) -> bytes:
        """All until the other side closes, in an orderly way or not."""
        data = bytearray()
        async with asyncio.timeout(within_s):
            try:
                while piece := await self.reader.read(65536):
                    data += piece
            except ConnectionError:
                pass
        return bytes(data)

    async def response(self, *, within_s: float = 15.0, head_only: bool = False) -> Response:
        """One response off a kept-alive connection. Raises IncompleteReadError where it breaks off."""
        head = await self.head(within_s=within_s)
        status, *lines = head[:-4].split(b"\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        response = Response(int(status.split(b" ")[1]), headers)
        if head_only or response.status in (204, 304):
            return response
        if response.header(b"transfer-encoding") == b"chunked":
            while size := await self._chunk_size(within_s):
                response.body += (await self.exactly(size + 2, within_s=within_s))[:-2]
            await self.exactly(2, within_s=within_s)
        else:
            response.body = await self.exactly(int(response.header(b"content-length") or 0), within_s=within_s)
        return response

    async def _chunk_size(self, within_s: float) -> int:
        async with asyncio.timeout(within_s):
            return int(await self.reader.readuntil(b"\r\n"), 16)

    async def closed(self, *, within_s: float = 5.0) -> None:
        """Wait until the other side has closed; what it still says is dropped."""
        await self.rest(within_s=within_s)

    def abort(self) -> None:
        sock = self.writer.get_extra_info("socket")
        if sock is not None and sock.fileno() != -1:  # Python 3.11 fails where all is over already
            self.writer.transport.abort()

    def reset(self) -> None:
        """Leave without what is still to be sent (an orderly end would have to wait behind it)."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()


class Response:
    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: bytes) -> bytes | None:
        return next(iter(self.all(name)), None)


class Sandbox:
    """Listens on a Unix socket; each connection runs `script`. `wires` are the connections so far."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.wires: list[Wire] = []
        self.running = 0
        self.address: UnixAddress

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        self.wires.append(wire)
        self.running += 1
        try:
            await self.script(wire)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.running -= 1
            writer.close()


@asynccontextmanager
async def sandbox(script: Script) -> AsyncIterator[Sandbox]:
    found = Sandbox(script)
    with tempfile.TemporaryDirectory(prefix="data-path-") as directory:
        path = str(Path(directory) / "app.sock")
        server = await asyncio.start_unix_server(found._connected, path, limit=1 << 17)
        found.address = UnixAddress(path=path, uid=os.getuid())
        try:
            yield found
        finally:
            server.close()
            for wire in found.wires:
                wire.abort()
            await eventually(lambda: not found.running)


def answering(data: bytes) -> Script:
    """Answers each bodyless request by these bytes, and stays."""

    async def script(wire: Wire) -> None:
        while True:
            await wire.head()
            await wire.send(data)

    return script


def after_hello(script: Script) -> Script:
    """`script`, but the first connection's first request is answered by HELLO, so that it is free to be used again."""
    said = False

    async def warm(wire: Wire) -> None:
        nonlocal said
        if not said:
            said = True
            await wire.head()
            await wire.send(HELLO)
        await script(wire)

    return warm


class Front:
    """The part of the gateway that decides, reduced to: everything goes to one sandbox, as app "app".

    What may go as an errand does, at the first time already.
    """

    def __init__(
        self, address: UnixAddress, *, message_size: int = 1 << 24, message_rate: float = 1000, **options: Any
    ) -> None:
        self.address = address
        self.upstream = Upstream(address, **options)
        self.message_size = message_size
        self.message_rate = message_rate
        self.relays: list[Carrier] = []
        self.faults: list[UpstreamError] = []
        self.uploads = self.messages = self.errands = 0
        self.running = 0

    def errand(self, sender: Sender, head: Head, body: bytes, address: str, scheme: str) -> bool:
        path, _, query = head.target.partition(b"?")
        scope = {
            "type": "http",
            "method": head.method,
            "http_version": "1.1",
            "headers": head.headers,
            "raw_path": path,
            "query_string": query,
            "client": (address, 0),
            "htagweb.visitor": sender,
        }
        if head.method == "HEAD" or front.check(scope) is not None:
            return False
        forward = _forward(scope)
        if not self.upstream.errand(sender, self.upstream.prepare(scope, forward) + body, forward):
            return False
        if body:
            self._upload()
        self.errands += 1
        return True

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.running += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self.running -= 1

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        refusal = front.check(scope)
        if refusal is not None:
            await _plain(send, refusal.status, refusal.message)
            return
        forward = _forward(scope)
        try:
            if scope["type"] == "websocket":
                relay = relay_for(
                    scope,
                    self.address,
                    forward,
                    message_size=self.message_size,
                    message_rate=self.message_rate,
                    on_data=self._message,
                )
                self.relays.append(relay)
                await relay.run(scope, receive, send)
            else:
                await self.upstream.http(scope, receive, send, forward, on_upload=self._upload)
        except UpstreamError as error:
            self.faults.append(error)
            if scope["type"] == "http":
                await _plain(send, error.status, error.reason)
            else:
                await refuse(scope, receive, send, error.status, error.reason.encode())

    def _upload(self) -> None:
        self.uploads += 1

    def _message(self) -> None:
        self.messages += 1


def _forward(scope: Message) -> Forward:
    query = scope["query_string"]
    return Forward(
        prefix="/app",
        target=front.raw_path(scope).removeprefix(b"/app") + (b"?" + query if query else b""),
        host=next(value for name, value in scope["headers"] if name == b"host"),
        scheme="http",
        client=scope["client"][0],
        cookie_names=frozenset({b"htagweb"}),
    )


async def _plain(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Server:
    """A uvicorn protocol on a listening socket, without the process around it."""

    def __init__(self, app: App, protocol: type[HttpToolsProtocol | H11Protocol], **options: Any) -> None:
        self.config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", proxy_headers=False, **options
        )
        self.config.load()
        self.state = ServerState()
        self.protocol = protocol
        self.port = 0
        self.visitors: list[Wire] = []

    def make(self) -> HttpToolsProtocol | H11Protocol:
        return self.protocol(self.config, self.state, {})

    async def socket(self, *, small: bool = False) -> socket.socket:
        """A visitor's. `small` buffers let whoever stalls be noticed after kilobytes, not megabytes."""
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        return sock

    async def connect(self, *, small: bool = False) -> Wire:
        wire = Wire(*await asyncio.open_connection(sock=await self.socket(small=small), limit=1 << 17))
        self.visitors.append(wire)
        return wire

    async def get(self, target: bytes = b"/app/", *headers: bytes) -> Response:
        """One request on a connection of its own."""
        wire = await self.connect()
        try:
            await wire.send(get(target, *headers))
            return await wire.response()
        finally:
            wire.abort()


def get(target: bytes = b"/app/", *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: test", *headers, b"", b""])


@asynccontextmanager
async def gateway(
    app: App, protocol: type[FrontProtocol | H11Protocol] = FrontProtocol, *, at: int = 0, **options: Any
) -> AsyncIterator[Server]:
    """`at` is the port, 0 for any."""
    server = Server(app, protocol, **options)
    listener = await asyncio.get_running_loop().create_server(server.make, "127.0.0.1", at)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for wire in server.visitors:
            wire.abort()
        await eventually(lambda: not server.state.connections and not server.state.tasks)
        if isinstance(app, Front):
            app.upstream.close()
            await eventually(lambda: not app.upstream.open)


@asynccontextmanager
async def uvicorn_sandbox(app: App, **options: Any) -> AsyncIterator[UnixAddress]:
    """A real application on a real server."""
    server = Server(app, HttpToolsProtocol, **options)
    with tempfile.TemporaryDirectory(prefix="data-path-") as directory:
        path = str(Path(directory) / "app.sock")
        listener = await asyncio.get_running_loop().create_unix_server(server.make, path)
        try:
            yield UnixAddress(path=path, uid=os.getuid())
        finally:
            listener.close()
            for connection in list(server.state.connections):
                connection.transport.abort()
            await eventually(lambda: not server.state.tasks)


@asynccontextmanager
async def path_to(
    script: Script, *, ws: type[asyncio.Protocol] = FrontWebSocket, fresh: bool = False, **options: Any
) -> AsyncIterator[tuple[Server, Front, Sandbox]]:
    """A gateway in front of a scripted sandbox. Where `warm` is set, with a connection that has served before; a test
    that is about a `fresh` one has none both ways."""
    used = warm.get() and not fresh
    async with sandbox(after_hello(script) if used else script) as found:
        app = Front(found.address, **options)
        async with gateway(app, ws=ws) as server:
            if used:
                assert (await server.get()).body == b"hello"
            yield server, app, found
