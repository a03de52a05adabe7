"""Parano mode: an ASGI app around the app, so that whatever carries the bytes to the browser reads none of them.

The page that anybody gets is a small one without anything of the app. Its script (parano.js) agrees with us on a key,
asks for the real page over a sealed channel, and puts itself between that page and the network. All that the page then
says comes to one path, in three forms: a POST with its answer, an event stream, a WebSocket. What comes in the clear is
refused, but for htag's own pictures.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import html
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .asgi import ASGIApp, BodyTooLarge, Message, Receive, Scope, Send, read_body, respond, respond_json, respond_page
from .seal import Agreements, Channel, Form, Kind, Refused, Unknown, packed, unpacked

CLEAR = frozenset({"/favicon.ico", "/logo.png", "/logo.jpg"})  # htag's pictures: the same in every app
NO_STORE = (b"cache-control", b"no-store")
SEALED = b"application/vnd.htagweb.sealed"
FIRST_S = 10.0  # from a socket's handshake to its first record
BROKEN, DENIED, GONE = 4801, 4803, 4810  # codes by which a socket is closed: the page's script knows them
# Of the outer request they describe the envelope; of the sealed one, what only the network may say.
ENVELOPE = frozenset({b"content-type", b"content-length", b"transfer-encoding", b"accept"})
NETWORKS = (b"host", b"cookie", b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"x-forwarded-")

SCRIPT = Path(__file__).with_name("parano.js").read_text()
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/-/style.css"><link rel="icon" href="data:,"></head>
<body><main><div role="status"></div><noscript><h1>This app needs JavaScript</h1>
<p class="lead">Everything between your browser and this app is encrypted, and a script has to do that. Allow scripts
here and load the page again; nothing was sent in the clear.</p></noscript></main>
<script data-base="{base}">{script}</script></body></html>
"""


class Parano:
    """The ASGI app. `name` is the app's, as in its address; `base` is where its own addresses begin, "" for where its
    page is."""

    def __init__(self, app: ASGIApp, name: str, base: str = "") -> None:
        self._app = app
        self._page = PAGE.format(name=html.escape(name), base=html.escape(base), script=SCRIPT)
        self._agreements = Agreements()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        try:
            match scope["method"], path:
                case "GET" | "HEAD", "/":
                    await respond_page(send, 200, self._page)
                case "POST", "/_sealed/agree":
                    answer = self._agreements.agree(await read_body(receive))
                    await respond(send, 200, answer, b"application/octet-stream", (NO_STORE,))
                case "POST", "/_sealed":
                    await self._exchange(scope, receive, send)
                case "GET", "/_sealed":
                    await self._stream(scope, receive, send)
                case "GET" | "HEAD", _ if path in CLEAR:
                    await self._app(scope, receive, send)
                case _:
                    await respond_json(send, 403, {"error": "this app takes sealed messages only: parano is on"})
        except BodyTooLarge:
            await respond_json(send, 413, {"error": "the message is too large"})
        except Refused as refused:
            await respond_json(send, refused.status, {"error": str(refused)})

    # -- one request, and its answer -----------------------------------------------------------------------------

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The body: name and number of the channel, then records: head, bytes, end. So is the answer's, without those
        two."""
        data = await read_body(receive)
        prefix, records = data[:20], unpacked(data[20:])
        channel, asked = self._agreements.open(prefix + next(records, b""), Form.EXCHANGE)
        body, kind = bytearray(), Kind.HEAD
        for record in records:
            kind, part = channel.open(record)
            body += part
        if kind is not Kind.END:
            raise Refused("the request was cut off")
        inner = _request(scope, asked, body=bytes(body))

        given = False

        async def next_message() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields, cookies = _answer(message)
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", SEALED), *cookies]}
                )
                out = packed(channel.seal(Kind.HEAD, fields))
                await send({"type": "http.response.body", "body": out, "more_body": True})
                return
            part, more = message.get("body", b""), bool(message.get("more_body"))
            out = packed(channel.seal(Kind.BYTES, part)) if part else b""
            if not more:
                out += packed(channel.seal(Kind.END))
            await send({"type": "http.response.body", "body": out, "more_body": more})

        await self._app(inner, next_message, sealed)

    # -- an event stream -----------------------------------------------------------------------------------------

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What opens the channel is the query, in base64. Each event is one record: the head, then pieces of the app's
        own stream."""
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream"), NO_STORE, (b"x-accel-buffering", b"no")],
        }
        try:
            channel, asked = self._agreements.open(_unquoted(scope["query_string"]), Form.STREAM)
        except Unknown:  # a browser's EventSource can't tell one status from another
            await send(start)
            await send({"type": "http.response.body", "body": b"event: gone\ndata:\n\n"})
            return
        inner = _request(scope, {**asked, "method": "GET"})

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(start)
                fields, _ = _answer(message)
                await send(_event(channel.seal(Kind.HEAD, fields)))
                return
            if message.get("body"):
                await send(_event(channel.seal(Kind.BYTES, message["body"])))
            if not message.get("more_body"):
                await send({"type": "http.response.body", "body": b""})

        await self._app(inner, receive, sealed)

    # -- a socket ------------------------------------------------------------------------------------------------

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Its first message opens the channel; then each message is a record. The app's yes to the handshake is the
        first one of ours."""
        await receive()
        if scope["path"] != "/_sealed":
            await send({"type": "websocket.close", "code": DENIED})
            return
        await send({"type": "websocket.accept"})
        try:
            async with asyncio.timeout(FIRST_S):
                first = await receive()
            if first["type"] != "websocket.receive":
                return
            channel, asked = self._agreements.open(first.get("bytes") or b"", Form.SOCKET)
            inner = _handshake(scope, asked)
        except (Refused, TimeoutError) as refused:
            await send({"type": "websocket.close", "code": GONE if isinstance(refused, Unknown) else BROKEN})
            return
        await self._app(inner, _opening(channel, receive, send), _sealing(channel, send))


def _opening(channel: Channel, receive: Receive, send: Send) -> Receive:
    connected = False

    async def next_message() -> Message:
        nonlocal connected
        if not connected:
            connected = True
            return {"type": "websocket.connect"}
        message = await receive()
        if message["type"] != "websocket.receive":
            return message
        try:
            kind, data = channel.open(message.get("bytes") or b"")
            if kind is Kind.TEXT:
                return {"type": "websocket.receive", "text": data.decode()}
            if kind is Kind.BYTES:
                return {"type": "websocket.receive", "bytes": data}
        except (Refused, UnicodeDecodeError):
            pass
        with contextlib.suppress(Exception):  # closed already, perhaps
            await send({"type": "websocket.close", "code": BROKEN})
        return {"type": "websocket.disconnect", "code": 1006}

    return next_message


def _sealing(channel: Channel, send: Send) -> Send:
    order = asyncio.Lock()  # records leave in the order of their counts, whichever task writes first
    accepted = False

    async def sealed(message: Message) -> None:
        nonlocal accepted
        async with order:
            match message["type"]:
                case "websocket.accept":
                    accepted = True
                    head = json.dumps({"protocol": message.get("subprotocol") or ""}).encode()
                    await send({"type": "websocket.send", "bytes": channel.seal(Kind.HEAD, head)})
                case "websocket.send" if message.get("text") is not None:
                    record = channel.seal(Kind.TEXT, message["text"].encode("utf-8", "replace"))
                    await send({"type": "websocket.send", "bytes": record})
                case "websocket.send":
                    await send({"type": "websocket.send", "bytes": channel.seal(Kind.BYTES, message["bytes"])})
                case "websocket.close" if not accepted:
                    await send({"type": "websocket.close", "code": DENIED})
                case _:
                    await send(message)

    return sealed


def _request(scope: Scope, asked: dict[str, Any], *, body: bytes = b"") -> Scope:
    """The request inside, as the app sees it. Raises Refused."""
    method = asked.get("method")
    if not isinstance(method, str) or not method.isalpha() or not method.isascii():
        raise Refused("this is no method")
    inner = _inside(scope, asked)
    inner["method"] = method.upper()
    if body:
        inner["headers"].append((b"content-length", str(len(body)).encode()))
    return inner


def _handshake(scope: Scope, asked: dict[str, Any]) -> Scope:
    protocols = asked.get("protocols", [])
    if not isinstance(protocols, list) or not all(isinstance(each, str) for each in protocols):
        raise Refused("protocols must be names")
    inner = _inside(scope, asked)
    inner["subprotocols"] = protocols
    return inner


def _inside(scope: Scope, asked: dict[str, Any]) -> Scope:
    path, query, fields = asked.get("path"), asked.get("query", ""), asked.get("headers", [])
    try:
        path, raw_query = str(path), query.encode("ascii")
        raw_path = path.encode("ascii")
        own = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    except (AttributeError, ValueError, TypeError) as error:
        raise Refused("path, query or headers are none") from error
    if not raw_path.startswith(b"/"):
        raise Refused("the path must begin with a slash")
    own = [(name, value) for name, value in own if not name.startswith(NETWORKS)]
    replaced = ENVELOPE | {name for name, _ in own}
    headers = [(name, value) for name, value in scope["headers"] if name not in replaced]
    inner = {**scope, "path": unquote(path), "raw_path": raw_path, "query_string": raw_query}
    inner["headers"] = [*headers, *own]
    inner["extensions"] = {}  # what the server offers on the outside, it can't do on the inside
    return inner


def _answer(message: Message) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """An answer's head, to be sealed; and its cookies, which only the network can set."""
    fields = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", [])]
    said = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields if name != b"set-cookie"]
    head = json.dumps({"status": message["status"], "headers": said}).encode()
    return head, [NO_STORE, *(field for field in fields if field[0] == b"set-cookie")]


def _event(record: bytes) -> Message:
    return {"type": "http.response.body", "body": b"data: " + base64.b64encode(record) + b"\n\n", "more_body": True}


def _unquoted(query: bytes) -> bytes:
    try:
        return base64.b64decode(query + b"=" * (-len(query) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("this is no sealed message") from error
