"""Heads that came before are not read again: whoever sees the requests can't tell."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from htagweb_gateway import heads
from htagweb_gateway.exchange import Message, Receive, Send
from htagweb_gateway.protocol import FrontProtocol

from .scripted import get

POST = get(b"/app/x?y=%20", b"Content-Length: 5", b"Cookie: a=1", method=b"POST")
ONES = [get(), POST + b"hello", get(b"/app/", b"Content-Length: 0"), get(b"/app/", b"X:  y \t", b"x: y")]
OTHERS = [
    get(b"/app/", b"Transfer-Encoding: chunked", method=b"POST") + b"5\r\nhello\r\n0\r\n\r\n",
    get(b"/app/", b"Content-Length: 5", b"Expect: 100-continue", method=b"PUT") + b"hello",
    get(b"/app/", b"Connection: close"),
    get().replace(b"1.1", b"1.0"),
    get(b"/app/", b"Content-Length: 5", b"Content-Length: 5", method=b"POST") + b"hello",
    get(b"/app/", b"Content-Length: 5", b"Transfer-Encoding: chunked", method=b"POST") + b"0\r\n\r\n",
    get(b"/app/", b"X: a\r\n b"),
    get(b"/app/", b"Host: other"),
    get(b"/app/", b"Connection: Upgrade", b"Upgrade: h2c"),
    get(b"/app/", b"X: y" + b"z" * heads.REMEMBERED_BYTES),
    get(b"app/"),
    get(b"test:80", method=b"CONNECT"),
    get(b"/app/", *(b"X: y" for _ in range(100))),
    b"\r\n\r\n",
]


@pytest.mark.parametrize("data", ONES)
def test_a_plain_request_is_known_the_next_time(data: bytes) -> None:
    first, second = heads.find(data), heads.find(data)
    assert first is not None
    assert second is not None
    assert first[0] is second[0]
    assert data[first[1] :] == (b"hello" if first[0].length else b"")


@pytest.mark.parametrize("data", OTHERS)
def test_what_there_may_be_two_opinions_about_is_not_known(data: bytes) -> None:
    assert heads.find(data) is None


class Memory(asyncio.Transport):
    """A visitor's connection that holds what is written to it."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.2", 1)})
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def seen(pieces: list[bytes]) -> tuple[list[dict[str, Any]], bytes, bool]:
    """The requests that an application gets of these bytes, and what its visitor does."""
    requests: list[dict[str, Any]] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        facts = {key: value for key, value in scope.items() if not key.startswith("htagweb")}
        requests.append({**facts, "body": body})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, log_config=None, lifespan="off", proxy_headers=False)
    config.load()
    protocol, visitor = FrontProtocol(config, ServerState(), {}), Memory()
    protocol.connection_made(visitor)
    for piece in pieces:
        if not visitor.closing:
            protocol.data_received(piece)
            for _ in range(8):  # the application's turns
                await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    return requests, visitor.written, visitor.closing


def mutated(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, byte in changes:
        changed[at % len(changed)] = byte
    return bytes(changed)


requests = st.builds(
    mutated,
    st.sampled_from([*ONES, *OTHERS, POST + b"he", get() + b"\r\n"]),
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from(b"\r\n\0 :;/0159,xX\xff")), max_size=2),
)


@given(st.lists(requests, min_size=1, max_size=3))
@example([get(), get(), POST + b"hello", get()])
@example([POST + b"he", b"llo", get()])
@example([POST + b"hello" + get()[:10], get()[10:]])
@example([b"GET /app/y HTTP/1.1\r\nX: ", get()])  # the second is a field's value
@example([POST + b"hello" + b"GET /app/y HTTP/1.1\r\nX: ", get()])
@example([POST[:-2], b"\r\nhello", get()])
def test_a_known_head_is_what_the_parser_makes_of_it(pieces: list[bytes]) -> None:
    """Cut within the first line, a request is not known, and the parser of its connection reads it."""
    cut = [part for piece in pieces for part in (piece[:3], piece[3:]) if part]
    assert asyncio.run(seen(pieces)) == asyncio.run(seen(cut))
