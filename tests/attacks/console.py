"""A hostile app: once it is loaded it takes the whole process over, and does what is posted to /run.

Nothing of the harness serves any more then. What an answer looks like on the wire, and whether there is one, is up to
`answers`. Published by the tests as app `console`; it runs in sandboxes only.
"""

import asyncio
import base64
import ctypes
import errno
import glob
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from htag import Tag

HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\nconsole"


__all__ = ["ctypes", "glob", "os", "signal", "subprocess"]  # for what is posted


class App(Tag.div):  # type: ignore[misc]
    pass


class Request:
    def __init__(self, connection: socket.socket, head: str, body: bytes) -> None:
        self.connection = connection
        self.head = head
        self.body = body
        self.target = head.split(" ")[1]

    def reply(self, body: bytes, status: str = "200 OK", headers: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.connection.sendall(head.encode("latin-1") + body)


answers: dict[str, Callable[[Request], object]] = {}
heard: list[str] = []  # the heads of all requests but those to /run
handshakes: list[str] = []  # and of those that asked for a WebSocket


def refused(call: Callable[..., object], *args: Any) -> str:
    """The name of the error that a call ends in; "" if it succeeds."""
    try:
        call(*args)
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def run(request: Request) -> None:
    space = globals()
    space.pop("answer", None)
    space["request"] = request
    try:
        exec(request.body, space)  # noqa: S102  this is what the app is for
        request.reply(json.dumps(space.get("answer")).encode())
    except BaseException:
        request.reply(traceback.format_exc().encode(), "500 Failed")


def talk(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as file:
        while line := file.readline():
            head = line
            while (line := file.readline()) not in (b"\r\n", b""):
                head += line
            fields = dict(field.lower().split(b":", 1) for field in head.splitlines()[1:])
            body = file.read(int(fields.get(b"content-length", b"0")))
            request = Request(connection, head.decode("latin-1"), body)
            path = request.target.partition("?")[0]
            if path == "/run":
                run(request)
                continue
            heard.append(request.head)
            if path in answers:
                answers[path](request)
            else:
                connection.sendall(HELLO)


def accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setblocking(True)
        threading.Thread(target=_quietly, args=(connection,), daemon=True).start()


def _quietly(connection: socket.socket) -> None:
    try:
        talk(connection)
    except OSError:
        pass


async def serve(front: object, listener: socket.socket) -> None:
    listener.setblocking(True)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    await asyncio.Event().wait()


def fixed(path: str, *fields: str, body: bytes = b"", status: str = "200 OK") -> None:
    """From now on this is the answer at `path`, with these header fields."""
    headers = "".join(f"{field}\r\n" for field in fields)
    answers[path] = lambda request: request.reply(body, status, headers)


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """One WebSocket frame to the gateway."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    else:  # the shortest form that holds it, else it is no WebSocket frame
        length = b"\x7e" + size.to_bytes(2, "big") if size < 65536 else b"\x7f" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + payload


def with_socket(connection: socket.socket) -> None:
    """What happens on an accepted WebSocket; may be replaced."""
    while connection.recv(65536):
        pass


def upgrade(request: Request) -> None:
    handshakes.append(request.head)
    key = next(line for line in request.head.splitlines() if line.lower().startswith("sec-websocket-key")).split(": ")[
        1
    ]
    accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
    head = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    request.connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + head.encode())
    globals()["with_socket"](request.connection)


answers["/ws"] = upgrade


def fill(folder: str, size: int) -> str:
    """Write a file of `size` bytes; the error that ends it."""
    with open(f"{folder}/filled-{time.monotonic_ns()}", "wb", buffering=0) as file:
        return refused(lambda: [file.write(bytes(1 << 20)) for _ in range(size >> 20)])


sys.modules["htagweb_harness.boot"].__dict__["serve"] = serve
