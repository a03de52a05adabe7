"""The gateway on uvicorn's other protocol class, h11, which other servers' workers may bring: another parser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from .scripted import OK, Front, Sandbox, Server, Wire, eventually, gateway, get, sandbox
from .test_smuggling import CHUNKED, CHUNKS, post


@asynccontextmanager
async def on_h11() -> AsyncIterator[tuple[Server, Sandbox, list[bytes]]]:
    """With the heads that reached the sandbox."""
    heads: list[bytes] = []

    async def script(wire: Wire) -> None:
        while True:
            heads.append(await wire.head())
            if b"content-length: 1\r\n" in heads[-1]:
                await wire.exactly(1)
            await wire.send(OK + b"Content-Length: 5\r\n\r\nhello")

    async with sandbox(script) as found, gateway(Front(found.address), H11Protocol) as server:
        yield server, found, heads


@pytest.mark.parametrize(
    "request_",
    [
        post(b"Content-Length: 5", CHUNKED, body=CHUNKS),
        post(CHUNKED, b"Content-Length: 5", body=CHUNKS),
        post(b"Content-Length: 1", b"Content-Length: 2", body=b"aa"),
        post(b"Content-Length: 1, 2", body=b"aa"),
        post(b"Content-Length: +1", body=b"a"),
        post(b"Transfer-Encoding: xchunked", body=CHUNKS),
        post(b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
        post(CHUNKED, CHUNKED, body=CHUNKS),
        post(CHUNKED, body=CHUNKS, version=b"1.0"),
        post(b"Transfer-Encoding : chunked", body=CHUNKS),
        post(b"Host: test"),
        b"POST /app/ HTTP/1.1\r\n\r\n",
        get(b"/app/../x"),
        get(b"http://evil/app/"),
    ],
)
async def test_what_has_two_meanings_is_refused_there_too(request_: bytes) -> None:
    async with on_h11() as (server, found, _):
        wire = await server.connect()
        await wire.send(request_ + get())
        answer = await wire.rest(within_s=2)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert found.wires == []


@pytest.mark.parametrize(
    "request_",
    [
        post(b"Content-Length: 1", b"Content-Length: 1", body=b"a"),
        post(b"Content-Length: 1, 1", body=b"a"),
        post(b"Content-Length: 1", b"X: a\r\n b", body=b"a"),
        post(b"Content-Length: 1", body=b"a").replace(b"\r\n", b"\n"),
    ],
)
async def test_what_h11_hides_is_said_anew_with_one_meaning(request_: bytes) -> None:
    async with on_h11() as (server, _, heads):
        wire = await server.connect()
        await wire.send(request_ + get())
        for _ in range(2):
            assert (await wire.response()).body == b"hello"
        await eventually(lambda: len(heads) == 2)
        assert heads[0].count(b"content-length") == 1
        assert b"\r\n " not in heads[0]
        assert b"\n" not in heads[0].replace(b"\r\n", b"")
