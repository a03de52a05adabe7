"""What stands behind every proxy here: a sandbox's web server, with an application that does next to nothing."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

PAGE = b"<!doctype html>" + b"x" * (4096 - 15)
LARGE = b"x" * 1_000_000
_PAGES = {"page": PAGE, "large": LARGE}

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """`GET …/page` and `…/large` have a body of their size; a POST gets its own back, but `…/upload` only its size."""
    if scope["type"] == "websocket":
        await _echo(receive, send)
        return
    name = scope["path"].rpartition("/")[2]
    pieces: list[bytes] = []
    more = True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    if name == "upload":
        body = b"%d" % sum(map(len, pieces))
    else:
        body = _PAGES.get(name) or b"".join(pieces)
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def listen(path: Path, port: int) -> list[socket.socket]:
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(path))
    tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(("127.0.0.1", port))
    return [unix, tcp]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("socket", type=Path, help="path of the Unix socket to listen on")
    arguments.add_argument("port", type=int, help="port on loopback to listen on, for what can't reach the socket")
    given = arguments.parse_args()
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="websockets-sansio",
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=600,
    )
    uvloop.run(uvicorn.Server(config).serve(listen(given.socket, given.port)))


if __name__ == "__main__":
    main()
