"""Requests and answers as they should be: whole, in time, and as they were sent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from htagweb_gateway.exchange import Message, Receive, Send
from htagweb_gateway.upstream import Upstream
from htagweb_orchestrator.model import TcpAddress

from .scripted import HELLO, OK, Front, Wire, answering, both_paths, eventually, gateway, get, path_to, uvicorn_sandbox

BOTH_LOOPS = True
MIB = 1024 * 1024


async def site(scope: Message, receive: Receive, send: Send) -> None:
    """An application: /down sends, /up counts, everything else tells what it was asked."""

    async def answer(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
        await send({"type": "http.response.body", "body": body})

    if scope["path"] == "/down":
        headers = [(b"content-length", b"%d" % (64 * MIB))] if scope["query_string"] else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    elif scope["path"] == "/up":
        digest, more = hashlib.sha256(), True
        while more:
            message = await receive()
            digest.update(message.get("body", b""))
            more = message.get("more_body", False)
        await answer(200, digest.hexdigest().encode())
    else:
        told = b"\n".join(b"%b: %b" % pair for pair in scope["headers"])
        await answer(
            200, scope["method"].encode() + b" " + scope["raw_path"] + b"?" + scope["query_string"] + b"\n" + told
        )


def pieces() -> Iterator[bytes]:
    """64 MiB that differ from piece to piece."""
    for n in range(64 * 4):
        yield n.to_bytes(4, "big") * (MIB // 16)


def whole() -> str:
    digest = hashlib.sha256()
    for piece in pieces():
        digest.update(piece)
    return digest.hexdigest()


WHOLE = whole()


@pytest.mark.parametrize("measured", [b"?length", b""])
async def test_64_mib_come_down_intact(measured: bytes) -> None:
    async with uvicorn_sandbox(site) as address, gateway(Front(address)) as server:
        wire = await server.connect()
        await wire.send(get(b"/app/down" + measured))
        head = (await wire.head()).lower()
        digest = hashlib.sha256()
        if measured:
            left = 64 * MIB
            while left:
                piece = await wire.some()
                digest.update(piece)
                left -= len(piece)
        else:
            assert b"transfer-encoding: chunked" in head
            while size := int(await wire.reader.readuntil(b"\r\n"), 16):
                digest.update((await wire.exactly(size + 2))[:-2])
        assert digest.hexdigest() == WHOLE


@pytest.mark.parametrize("chunked", [True, False])
async def test_64_mib_go_up_intact(chunked: bool) -> None:
    async with uvicorn_sandbox(site) as address, gateway(app := Front(address)) as server:
        wire = await server.connect()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (64 * MIB)
        await wire.send(get(b"/app/up", framing, method=b"POST"))
        for piece in pieces():
            await wire.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await wire.send(b"0\r\nX-Trailer: dropped\r\n\r\n")
        assert (await wire.response(within_s=20)).body.decode() == WHOLE
        assert app.uploads > 64


async def test_target_and_headers_arrive_as_they_were_sent() -> None:
    async with uvicorn_sandbox(site) as address, gateway(Front(address)) as server:
        response = await server.get(
            b"/app/a%2Fb//c%20;d?x=%2e%2e/&y",
            b"Cookie: a=1; htagweb=secret",
            b"X-Forwarded-For: 6.6.6.6",
            b"TE: trailers",
        )
        line, *headers = response.body.split(b"\n")
        assert line == b"GET /a%2Fb//c%20;d?x=%2e%2e/&y"
        assert headers == [
            b"host: test",
            b"cookie: a=1",
            b"x-forwarded-for: 127.0.0.1",
            b"x-forwarded-proto: http",
            b"x-forwarded-host: test",
            b"x-forwarded-prefix: /app",
        ]


async def test_trailers_do_not_become_headers() -> None:
    seen: list[Any] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with gateway(app) as server:
        wire = await server.connect()
        await wire.send(
            get(b"/", b"Transfer-Encoding: chunked", method=b"POST")
            + b"1\r\na\r\n0\r\nHost: evil\r\nCookie: evil\r\n\r\n"
        )
        assert (await wire.response()).status == 204
    assert seen == [(b"host", b"test"), (b"transfer-encoding", b"chunked")]


@both_paths
@pytest.mark.parametrize("accept", [b"*/*", b"text/event-stream", b"text/html", b""])
async def test_events_arrive_one_by_one(accept: bytes) -> None:
    seen = asyncio.Semaphore(0)

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for n in range(3):
            await wire.send(b"9\r\ndata: %d\n\n\r\n" % n)
            await seen.acquire()  # the next one only when the visitor has this one
        await wire.send(b"0\r\n\r\n")

    async with path_to(script) as (server, _, _):
        wire = await server.connect()
        await wire.send(get(b"/app/sse", *([b"Accept: " + accept] if accept else [])))
        await wire.head(within_s=1)
        for n in range(3):
            assert await wire.exactly(14, within_s=1) == b"9\r\ndata: %d\n\n\r\n" % n
            seen.release()
        assert await wire.exactly(5) == b"0\r\n\r\n"


async def test_expect_is_answered_before_the_body_is_sent() -> None:
    async with uvicorn_sandbox(site) as address, gateway(Front(address)) as server:
        wire = await server.connect()
        await wire.send(get(b"/app/up", b"Expect: 100-continue", b"Content-Length: 5", method=b"POST"))
        assert await wire.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"hello")
        assert (await wire.response()).body.decode() == hashlib.sha256(b"hello").hexdigest()


@both_paths
@pytest.mark.parametrize("leaves", [True, False])
async def test_an_early_answer_arrives_while_the_request_still_flows(leaves: bool) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.exactly(1000)
        await wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
        if not leaves:
            await wire.closed(within_s=5)

    async with path_to(script) as (server, _, sandbox):
        wire = await server.connect()
        await wire.send(get(b"/app/", b"Content-Length: 1000000", method=b"POST") + b"x" * 1000)
        sent = 1000
        answer = asyncio.create_task(wire.response())
        while not answer.done():
            await wire.send(b"x" * 1000)
            sent += 1000
            await asyncio.sleep(0)
        assert ((await answer).status, (await answer).body) == (413, b"large")
        # What is still to come is dropped, and the connection serves on.
        await wire.send(b"x" * (1_000_000 - sent))
        sandbox.script = answering(HELLO)
        await wire.send(get())
        assert (await wire.response()).body == b"hello"
        assert len(sandbox.wires) == 2


@both_paths
@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        (b"HEAD", OK + b"Content-Length: 5\r\n\r\n", 200),
        (b"HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n", 200),
        (b"HEAD", OK + b"\r\n", 200),
        (b"HEAD", HELLO, 200),  # a sandbox that doesn't know how
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n", 304),
    ],
)
async def test_an_answer_without_a_body_has_none(method: bytes, answer: bytes, status: int) -> None:
    async with path_to(answering(answer)) as (server, _, _):
        wire = await server.connect()
        for _ in range(2):
            await wire.send(get(method=method))
            response = await wire.response(head_only=True)
            assert response.status == status
        if method == b"HEAD" and b"Content-Length" in answer:
            assert response.header(b"content-length") == b"5"
        wire.writer.write_eof()
        assert await wire.rest() == b""


@both_paths
async def test_interim_answers_stay_here() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    async with path_to(answering(early + HELLO)) as (server, _, sandbox):
        for _ in range(2):
            response = await server.get()
            assert (response.status, response.body, response.all(b"link")) == (200, b"hello", [])
        assert len(sandbox.wires) == 1


@both_paths
async def test_the_head_has_a_deadline_that_counts_from_the_end_of_the_request() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.closed(within_s=5)

    async with path_to(script, head_timeout_s=0.2) as (server, app, _):
        wire = await server.connect()
        await wire.send(get(b"/app/", b"Content-Length: 4", method=b"POST"))
        for _ in range(4):
            await asyncio.sleep(0.1)
            await wire.send(b"x")
        assert app.faults == []
        assert (await wire.response(within_s=1)).status == 504


@both_paths
async def test_a_silent_body_ends_in_a_broken_transfer(caplog: pytest.LogCaptureFixture) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK + b"Content-Length: 10\r\n\r\nhello")
        await wire.closed(within_s=5)

    async with path_to(script, body_idle_timeout_s=0.1) as (server, _, _):
        wire = await server.connect()
        await wire.send(get())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await wire.response(within_s=1)
    assert caplog.records == []


@both_paths
async def test_an_upload_that_stops_is_given_up() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.closed(within_s=5)

    async with path_to(script, upload_idle_timeout_s=0.1) as (server, _, _):
        wire = await server.connect()
        await wire.send(get(b"/app/", b"Content-Length: 10", method=b"POST") + b"hello")
        assert (await wire.response(within_s=1)).status == 408


async def test_an_upload_may_take_longer_than_any_of_its_pieces() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        assert await wire.exactly(5) == b"hello"
        await wire.send(HELLO)

    async with path_to(script, upload_idle_timeout_s=1.0) as (server, app, _):
        wire = await server.connect()
        await wire.send(get(b"/app/", b"Content-Length: 5", method=b"POST"))
        for piece in (b"h", b"e", b"l", b"l", b"o"):
            await asyncio.sleep(0.3)
            await wire.send(piece)
        assert (await wire.response()).body == b"hello"
        assert app.uploads == 5


@both_paths
async def test_a_compressed_body_passes_as_it_is() -> None:
    packed = b"\x1f\x8b" + bytes(range(200))
    answer = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    async with path_to(answering(answer)) as (server, _, _):
        response = await server.get(b"/app/", b"Accept-Encoding: gzip")
        assert (response.body, response.header(b"content-encoding")) == (packed, b"gzip")


@both_paths
async def test_a_sandbox_on_tcp_is_shown_its_secret() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HELLO)
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    upstream = Upstream(TcpAddress(host="127.0.0.1", port=port, secret="s3cret"))
    async with path_to(answering(HELLO)) as (server, app, _):
        app.upstream.close()
        app.upstream = upstream
        assert (await server.get(b"/app/", b"X-Htagweb-Secret: forged")).body == b"hello"
    listener.close()
    assert seen[0].lower().count(b"x-htagweb-secret") == 1
    assert b"x-htagweb-secret: s3cret\r\n" in seen[0].lower()


@both_paths
async def test_where_the_server_is_another_one_a_broken_transfer_still_is_one() -> None:
    """Without our protocol class there is no silent way to break off: the application raises."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK + b"Content-Length: 10\r\n\r\nhello")

    async with path_to(script) as (server, app, _):
        server.protocol = HttpToolsProtocol
        wire = await server.connect()
        await wire.send(get())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await wire.response(within_s=1)
        await eventually(lambda: len(app.faults) == 1)


async def test_many_requests_leave_nothing_behind() -> None:
    async def script(wire: Wire) -> None:
        while True:
            head = await wire.head()
            if b"/die" in head:
                return
            await wire.send(HELLO)

    async with path_to(script, fresh=True) as (server, app, sandbox):
        before = len(asyncio.all_tasks())

        async def visit(n: int) -> None:
            wire = await server.connect()
            await wire.send(get(b"/app/die" if n % 10 == 0 else b"/app/"))
            if n % 7 != 0:
                await wire.response()
            wire.abort()

        for _ in range(5):
            await asyncio.gather(*(visit(n) for n in range(40)))
        await eventually(lambda: app.running == 0 and not server.state.connections)
        await eventually(lambda: app.upstream.open <= 8 and len(asyncio.all_tasks()) <= before + app.upstream.open)
        app.upstream.close()
        await eventually(lambda: app.upstream.open == 0 and sandbox.running == 0)
        await eventually(lambda: len(asyncio.all_tasks()) == before)
        assert app.errands > 20
