"""WebSockets by hand, where a test has to say or to see more than a client or server would let it."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed

from htagweb_orchestrator.model import UnixAddress

from .scripted import Wire, get

TEXT, BINARY, MORE, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"Upgrade: websocket",
    b"Connection: keep-alive, Upgrade",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: " + KEY,
)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0) -> bytes:
    """One frame; its payload isn't masked really, but by nobody looked at."""
    size = len(payload)
    first = (0x80 if fin else 0) | reserved | opcode
    mask = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 1 << 16:
        head = bytes((first, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, mask | 127)) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


def accept_of(head: bytes) -> bytes:
    """What proves that this handshake was read."""
    lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n") if b": " in line)
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))[19:]
    assert lines[b"upgrade"] == b"websocket"
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


async def greet(wire: Wire, *headers: bytes) -> bytes:
    """Accept a handshake as a sandbox does, and return its head."""
    head = await wire.head()
    await wire.send(switching(accept_of(head), *headers))
    return head


def switching(accept: bytes, *headers: bytes) -> bytes:
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        *headers,
    ]
    return b"\r\n".join([*lines, b"", b""])


async def open_socket(wire: Wire, *headers: bytes) -> bytes:
    """Shake hands as a browser does, and return the head of the answer."""
    await wire.send(get(b"/app/ws", *HANDSHAKE, *headers))
    head = await wire.head()
    assert head.startswith(b"HTTP/1.1 101 "), head
    return head


@asynccontextmanager
async def websocket_sandbox(
    handler: Callable[[ServerConnection], Awaitable[None]], **options: Any
) -> AsyncIterator[UnixAddress]:
    """A real WebSocket server."""

    async def serve(socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await handler(socket)

    with tempfile.TemporaryDirectory(prefix="data-path-") as directory:
        path = str(Path(directory) / "app.sock")
        async with unix_serve(serve, path, **{"max_size": None, **options}):
            yield UnixAddress(path=path, uid=os.getuid())
