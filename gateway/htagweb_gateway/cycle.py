"""uvicorn's exchange with one visitor, saying head and body in one breath."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

# What would end a field, or is no text at all. Names come in lower case, from our own code or checked by a parser.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def fields(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The lines of a head. Raises ValueError where a value would be more than one."""
    lines = [b"%b: %b" % pair for pair in headers]
    if _CONTROL.search(b"".join(lines)):
        raise ValueError("a header has a value that no header may have")
    return b"".join([b"%b\r\n" % line for line in lines])


class Cycle(RequestResponseCycle):
    """Like uvicorn's own, but the head waits for the first piece of the body, as ASGI allows: one write to the kernel
    where there were two, each of which costs more than all header rules together."""

    _head: bytes | None = None
    waiting = 0  # bytes of the request's body that were not received yet

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        self._pieces: list[bytes] = []

    def feed(self, body: bytes) -> None:
        """More of the request's body. uvicorn's way copies it twice."""
        self._pieces.append(body)
        self.waiting += len(body)
        if self.waiting > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.message_event.set()

    async def receive(self) -> Any:
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces, self._pieces = self._pieces, []
        self.waiting = 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started and message["type"] == "http.response.start":
            self._head = self._head_of(message["status"], message.get("headers", ()))
        elif self._head is None or message["type"] != "http.response.body":
            raise RuntimeError(f"{message['type']} is out of turn")
        elif not self.response_complete:
            self._send_body(message.get("body", b""), message.get("more_body", False))

    def _head_of(self, status: int, headers: Any) -> bytes:
        self.waiting_for_100_continue = False
        self.chunked_encoding = None
        self.expected_content_length = 0
        closing = False
        headers = [*self.default_headers, *headers]
        for name, value in headers:
            if name == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"connection" and value.lower() == b"close":
                self.keep_alive = False
                closing = True
        if not self.keep_alive and not closing:
            headers.append((b"connection", b"close"))
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            headers.append((b"transfer-encoding", b"chunked"))
        return STATUS_LINE[status] + fields(headers) + b"\r\n"

    def _send_body(self, body: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            body = b""
        elif self.chunked_encoding:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than its Content-Length")
        if not self.response_started:
            self.response_started = True
            assert self._head is not None
            # Put together only where that is cheaper than another call of the kernel.
            if len(body) <= 65536:
                body = self._head + body
            else:
                self.transport.write(self._head)
        if body:
            self.transport.write(body)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("the body is shorter than its Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
