"""The WebSocket handshake with a sandbox, in the words of the browser's own: what one offers, the other chooses from.

RFC 6455 4. The sandbox is hostile by assumption: of its answer only what was checked reaches the browser.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import NamedTuple, cast

import httptools

from htagweb_orchestrator.model import Address, TcpAddress

from .exchange import Message, Receive, Send
from .headers import Forward, RawHeaders, request_headers
from .upstream_errors import BadResponse, Dropped, HeadTimeout, UpstreamError

HEAD_BYTES = 16 * 1024  # of the answer, with the interim (1xx) answers before it

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PRINTABLE = re.compile(rb"[\x20-\x7e]*")


class Offer:
    """What a browser asks for. `scope` is a WebSocket's whose handshake the server has checked."""

    def __init__(self, scope: Message) -> None:
        headers: RawHeaders = scope["headers"]
        key = next(value for name, value in headers if name == b"sec-websocket-key")
        self.accept = base64.b64encode(hashlib.sha1(key.strip() + _GUID, usedforsecurity=False).digest())
        self.protocols = frozenset(_tokens(headers, b"sec-websocket-protocol"))
        self.extensions = frozenset(map(_name, _tokens(headers, b"sec-websocket-extensions")))


class Choice(NamedTuple):
    """What the sandbox chose, None where it is nothing."""

    accept: bytes
    protocol: bytes | None
    extensions: bytes | None

    def head(self) -> bytes:
        """The answer that tells the browser."""
        lines = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + self.accept,
        ]
        if self.protocol is not None:
            lines.append(b"Sec-WebSocket-Protocol: " + self.protocol)
        if self.extensions is not None:
            lines.append(b"Sec-WebSocket-Extensions: " + self.extensions)
        return b"\r\n".join(lines) + b"\r\n\r\n"


def request_head(scope: Message, forward: Forward, address: Address) -> bytes:
    headers = request_headers(scope["headers"], forward)
    headers += [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
    if isinstance(address, TcpAddress):
        headers.append((b"x-htagweb-secret", address.secret.encode("latin-1")))
    lines = [b"GET %b HTTP/1.1" % forward.target, *(b"%b: %b" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Answer:
    """The sandbox's answer while it comes in. `status` is 0 until its head is complete."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._parser = httptools.HttpResponseParser(self)
        self._bytes = 0  # so far
        self._head_bytes = 0  # of whole fields
        self._headers: RawHeaders = []
        self.status = 0
        self.choice: Choice | None = None  # with status 101
        self.rest = b""  # what came after the head

    def feed(self, data: bytes) -> None:
        """Raises BadResponse where this is neither a proper 101 nor a refusal (400 to 599)."""
        self._bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if not self.status:
                cause = error.__context__
                raise cause if isinstance(cause, BadResponse) else BadResponse(str(error)) from error
        if not self.status and self._bytes > HEAD_BYTES:
            raise BadResponse("too long a head")

    # What httptools calls. An exception in here comes out of feed_data as its error's __context__.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_BYTES:
            raise BadResponse("too long a head")
        self._headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        if self.status:
            return  # whatever follows a refusal
        status = self._parser.get_status_code()
        if status == 101:
            self.choice = self._chosen()
        elif 100 <= status < 200:
            self._headers = []
            return
        elif not 400 <= status <= 599:
            raise BadResponse(f"status {status} to a WebSocket handshake")
        self.status = status

    def _chosen(self) -> Choice:
        headers = self._headers
        upgrades = [value.lower() for name, value in headers if name == b"upgrade"]
        if self._parser.get_http_version() != "1.1" or upgrades != [b"websocket"]:
            raise BadResponse("an upgrade to something else")
        if b"upgrade" not in [token.lower() for token in _tokens(headers, b"connection")]:
            raise BadResponse("a 101 without Connection: Upgrade")
        if any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in headers):
            raise BadResponse("a 101 with a body")
        if [value for name, value in headers if name == b"sec-websocket-accept"] != [self._offer.accept]:
            raise BadResponse("the wrong Sec-WebSocket-Accept")
        protocols = [value for name, value in headers if name == b"sec-websocket-protocol"]
        if len(protocols) > 1 or not self._offer.protocols.issuperset(protocols):
            raise BadResponse("a subprotocol that nobody offered")
        extensions = _tokens(headers, b"sec-websocket-extensions")
        names = [_name(each) for each in extensions]
        if len(set(names)) < len(names) or not self._offer.extensions.issuperset(names):
            raise BadResponse("an extension that nobody offered")
        if not all(map(_PRINTABLE.fullmatch, extensions)):
            raise BadResponse("an extension with characters that it may not have")
        return Choice(
            self._offer.accept, protocols[0] if protocols else None, b", ".join(extensions) if extensions else None
        )


class Greeting(asyncio.Protocol):
    """A connection to a sandbox until the handshake is over; then `transport` gets another protocol, and is resumed."""

    def __init__(self, offer: Offer) -> None:
        self._answer = Answer(offer)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no child of it

    def data_received(self, data: bytes) -> None:
        try:
            self._answer.feed(data)
        except UpstreamError as error:
            self._end(error)
        else:
            if self._answer.status:
                self.transport.pause_reading()
                self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._end(Dropped("closed without an answer to a WebSocket handshake"))

    async def answer(self, head: bytes, *, timeout_s: float) -> Answer:
        """Send the request's head and wait for the answer's. Raises UpstreamError; the connection is closed then."""
        self.transport.write(head)
        try:
            async with asyncio.timeout(timeout_s):
                await self._over
        except TimeoutError:
            self.abort()
            raise HeadTimeout(f"no WebSocket handshake within {timeout_s:g} s") from None
        except BaseException:
            self.abort()
            raise
        return self._answer

    def abort(self) -> None:
        if not self._lost:  # asyncio's transports don't take it lightly then
            self.transport.abort()

    def _end(self, error: UpstreamError | None) -> None:
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)


async def refuse(scope: Message, receive: Receive, send: Send, status: int, body: bytes) -> None:
    """Answer a handshake with an HTTP status where the server can do that, else (by rule) with 403."""
    await receive()
    if "websocket.http.response" in scope.get("extensions", {}):
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": 1011})


def _tokens(headers: RawHeaders, wanted: bytes) -> list[bytes]:
    """The elements of a comma-separated header, however many lines it has."""
    values = [token.strip() for name, value in headers if name == wanted for token in value.split(b",")]
    return [value for value in values if value]


def _name(extension: bytes) -> bytes:
    return extension.partition(b";")[0].strip().lower()
