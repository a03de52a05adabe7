"""What stands between a browser and a harness in these tests: the least of a gateway, and it breaks at will."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable

from tests.harness.driver import Harness
from tests.sites import REPOSITORY

LIVE_JS = REPOSITORY / "gateway" / "htagweb_gateway" / "static" / "live.js"
PREFIX = b"/toy"


class WayIn:
    """`to` is where requests below /toy/ go, one connection each. With `websockets` off, handshakes are refused.

    While it is `deaf` nothing more of what the browser sends comes through, while it is `mute` nothing of the answers.
    `status` is what the platform says of the app, where that isn't that it runs. `wire` is all that was said to the app
    and by it, as one who listens here reads it: what browsers mask is unmasked.
    """

    def __init__(self, to: Harness) -> None:
        self.to = to
        self.websockets = True
        self.deaf = self.mute = False
        self.status: dict[str, object] = {}
        self.handshakes = 0
        self.wire = bytearray()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._static = {b"/-/live.js": (b"text/javascript", LIVE_JS.read_bytes())}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/toy/"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def break_down(self) -> None:
        """All connections end without a word, and new ones are refused until `open`."""
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._request(reader, writer)
        finally:
            self._connections.discard(task)
            if self._server is not None and not self._server.is_serving():
                writer.transport.abort()
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        method, target, version = line.split(b" ")
        path = target.partition(b"?")[0]
        upgrade = b"\r\nupgrade: websocket\r\n" in (b"\r\n" + fields).lower()
        self.handshakes += upgrade
        if path.startswith(b"/-/"):
            sandbox = str(self.to.process.pid)
            status = {"state": "ready", "sandbox": sandbox, "left_s": 900, "left_why": "idle", "warn_s": 10}
            kind, body = self._static.get(path, (b"application/json", json.dumps(status | self.status).encode()))
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: %b\r\n" % kind)
            writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
            return
        if upgrade and not self.websockets:
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
            return
        if not upgrade:
            kept = [field for field in fields.split(b"\r\n") if not field.lower().startswith(b"connection:")]
            fields = b"connection: close\r\n" + b"\r\n".join(kept)
        self.wire += head
        up, down = _Unmasked(self.wire) if upgrade else self.wire.extend, self.wire.extend
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(self.to.run / "app.sock"))
        try:
            inner_writer.write(b" ".join((method, target.removeprefix(PREFIX), version)) + b"\r\n" + fields)
            async with asyncio.TaskGroup() as pumps:
                upwards = pumps.create_task(_pump(reader, inner_writer, up, lambda: self.deaf))
                await pumps.create_task(_pump(inner_reader, writer, down, lambda: self.mute))
                upwards.cancel()
        finally:
            inner_writer.close()


class _Unmasked:
    """Takes what a browser sends over a WebSocket, in pieces; adds the frames' contents to `wire`. RFC 6455 5.2."""

    def __init__(self, wire: bytearray) -> None:
        self._wire = wire
        self._rest = bytearray()

    def __call__(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= 2:
            size, more = self._rest[1] & 0x7F, {126: 2, 127: 8}.get(self._rest[1] & 0x7F, 0)
            begin = 2 + more + 4
            if more:
                size = int.from_bytes(self._rest[2 : 2 + more], "big")
            if len(self._rest) < begin + size:
                return
            mask = self._rest[begin - 4 : begin]
            self._wire += bytes(byte ^ mask[i % 4] for i, byte in enumerate(self._rest[begin : begin + size]))
            del self._rest[: begin + size]


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    note: Callable[[bytes], None],
    broken: Callable[[], bool],
) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            note(data)
            if not broken():
                writer.write(data)
                await writer.drain()
