"""The few ASGI pieces that both generations need: types, plain answers, and a request that never leaves the process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 24 * 1024 * 1024  # of a POST that carries one message; the gateway's own limit is lower


class BodyTooLarge(Exception):
    pass


async def respond(
    send: Send, status: int, body: bytes, content_type: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    fields = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, value: object, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    no_store = (b"cache-control", b"no-store")
    await respond(send, status, json.dumps(value).encode(), b"application/json", (no_store, *headers))


async def respond_page(send: Send, status: int, page: str) -> None:
    no_store = (b"cache-control", b"no-store")
    await respond(send, status, page.encode("utf-8", "replace"), b"text/html; charset=utf-8", (no_store,))


async def read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise BodyTooLarge
        if not message.get("more_body"):
            return bytes(body)


def page_scope(query: str) -> Scope:
    """A GET of the app's page that comes from nowhere: what the first page is rendered for."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": query.encode("latin-1", "replace"),
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"accept", b"text/html")],
        "client": None,
        "server": None,
        "state": {},
    }
