"""Bytes that two parsers could read differently: none of them passes, in either direction."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htagweb_gateway.answer import HEAD_BYTES, Answer
from htagweb_gateway.upstream_errors import BadResponse

from .scripted import HELLO, OK, Wire, answering, both_paths, get, path_to

SECRET = OK + b"Content-Length: 6\r\n\r\npoison"


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1", host: bytes = b"Host: test") -> bytes:
    return b"\r\n".join([b"POST /app/ HTTP/" + version, host, *lines, b"", b""]) + body


CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"1\r\na\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        post(b"Content-Length: 5", CHUNKED, body=CHUNKS),
        post(CHUNKED, b"Content-Length: 5", body=CHUNKS),
        post(b"Content-Length: 1", b"Content-Length: 2", body=b"aa"),
        post(b"Content-Length: 1", b"Content-Length: 1", body=b"a"),
        post(b"Content-Length: 1, 1", body=b"a"),
        post(b"Content-Length: +1", body=b"a"),
        post(b"Content-Length: -1", body=b"a"),
        post(b"Content-Length: 0x1", body=b"a"),
        post(b"Content-Length: 1_0", body=b"a"),
        post(b"Content-Length: 99999999999999999999"),
        post(b"Content-Length:", body=b"a"),
        post(b"Transfer-Encoding: xchunked", body=CHUNKS),
        post(b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
        post(b"Transfer-Encoding: chunked, gzip", body=CHUNKS),
        post(b"Transfer-Encoding: identity", body=b"a"),
        post(CHUNKED, CHUNKED, body=CHUNKS),
        post(b"Transfer-Encoding : chunked", body=CHUNKS),
        post(b"Transfer-Encoding:\x0bchunked", body=CHUNKS),
        post(b"Transfer-Encoding:\r\n chunked", body=CHUNKS),
        post(CHUNKED, body=CHUNKS, version=b"1.0"),
        post(b"Content-Length: 0", version=b"2.0"),
        post(b"Content-Length: 0", version=b"0.9"),
        post(b"Content-Length: 0", version=b"1.2"),
        post(b"X: a\nY: b"),
        post(b"X: a\rY: b"),
        post(b"X: a\x00b"),
        post(b"X: a\r\n b"),
        post(b" X: a"),
        post(b"X : a"),
        post(b"X(: a"),
        post(b": a"),
        post(b"X"),
        post().replace(b"\r\n", b"\n"),
        b"POST /app/ HTTP/1.1\r\n\r\n",
        post(b"Host: test"),
        post(host=b"Host: a b"),
        post(host=b"Host: a/b"),
        post(host=b"Host:"),
        post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"GET /"),
        post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5", body=b"GET /"),
        get(b"http://evil/app/"),
        get(b"//evil/app/"),
        get(b"app/"),
        get(b"*", method=b"OPTIONS"),
        get(b"/app/#x"),
        get(b"/app/\x01"),
        get(b"/app/\xff"),
        get(b"/app/../x"),
        get(b"/app/%2e%2e/x"),
        get(b"test:80", method=b"CONNECT"),
        get(b"/app/", method=b"NONSENSE"),
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_a_request_of_two_meanings_is_refused_and_the_connection_closed(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with path_to(answering(HELLO)) as (server, _, sandbox):
        wire = await server.connect()
        await wire.send(request_ + get())  # what follows must not be taken for a request of its own
        answer = await wire.rest(within_s=2)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert sandbox.wires == []
    assert caplog.records == []


@pytest.mark.parametrize("method", [b"TRACE", b"PROPFIND"])
async def test_an_unusual_method_is_refused(method: bytes) -> None:
    async with path_to(answering(HELLO)) as (server, _, sandbox):
        wire = await server.connect()
        await wire.send(get(method=method))
        assert (await wire.rest()).startswith(b"HTTP/1.1 405 ")
        assert sandbox.wires == []


@pytest.mark.parametrize(
    "chunks",
    [b"0x1\r\na\r\n0\r\n\r\n", b"1\na\r\n0\r\n\r\n", b"1;a\nb\r\na\r\n0\r\n\r\n", b"1\r\nab\r\n0\r\n\r\n", b"-1\r\n"],
)
async def test_a_body_in_bad_chunks_ends_the_request(chunks: bytes) -> None:
    reached: list[bytes] = []

    async def script(wire: Wire) -> None:
        reached.append(await wire.rest())

    async with path_to(script) as (server, _, _):
        wire = await server.connect()
        await wire.send(post(CHUNKED, body=chunks))
        answer = await wire.rest(within_s=2)
        assert b"200 OK" not in answer
    assert not any(each.endswith(b"0\r\n\r\n") for each in reached)


async def test_an_upgrade_to_something_else_is_not_taken_up() -> None:
    async with path_to(answering(HELLO)) as (server, _, _):
        wire = await server.connect()
        await wire.send(get(b"/app/", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: x"))
        answer = await wire.rest()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"hello")


@pytest.mark.parametrize(
    "request_",
    [
        get(b"/app/", b"X: " + b"x" * 40_000),
        get(b"/app/", *(b"X%d: %b" % (n, b"x" * 1000) for n in range(40))),
        get(b"/app/", *(b"X%d: 1" % n for n in range(2000))),
        get(b"/app/" + b"x" * 100_000),
        get(b"/app/?" + b"x" * 100_000),
    ],
    ids=["a long field", "many long fields", "many fields", "a long path", "a long query"],
)
async def test_too_long_a_head_is_refused(request_: bytes) -> None:
    async with path_to(answering(HELLO)) as (server, _, sandbox):
        wire = await server.connect()
        wire.write(request_)
        assert (await wire.head()).startswith(b"HTTP/1.1 431 ")
        assert sandbox.wires == []


async def test_an_endless_head_is_refused_long_before_it_fills_memory() -> None:
    async with path_to(answering(HELLO)) as (server, _, _):
        wire = await server.connect(small=True)
        await wire.send(b"GET /app/ HTTP/1.1\r\nX: ")
        sent = 0

        async def endless() -> None:
            nonlocal sent
            while True:
                await wire.send(b"x" * 4096)
                sent += 4096

        with pytest.raises(ConnectionError):
            await endless()
        assert sent < 2_000_000  # what the sockets between us hold, at most


@both_paths
async def test_pipelined_requests_are_answered_in_order_and_not_without_limit() -> None:
    async with path_to(answering(HELLO)) as (server, _, _):
        wire = await server.connect()
        await wire.send(get() * 5)
        for _ in range(5):
            assert (await wire.response()).body == b"hello"
        await wire.send(get() * 1000)
        assert (await wire.rest()).count(b"hello") < 1000


BAD_ANSWERS = [
    OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n" + CHUNKS,
    OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    OK + b"Content-Length: 2, 2\r\n\r\nab",
    OK + b"Content-Length: -1\r\n\r\n",
    OK + b"Content-Length: +1\r\n\r\na",
    OK + b"Content-Length: 99999999999999999999\r\n\r\na",
    OK + b"Transfer-Encoding: gzip\r\n\r\nabc",
    OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS,
    OK + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS,
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    HELLO.replace(b"\r\n", b"\n"),
    OK + b"X: a\nContent-Length: 0\r\n\r\n",
    OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    OK + b"X: a\x00\r\nContent-Length: 0\r\n\r\n",
    OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    OK + b"X : a\r\nContent-Length: 0\r\n\r\n",
    OK + b": a\r\nContent-Length: 0\r\n\r\n",
    OK + b"X\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 199 No\r\nContent-Length: 0\r\n\r\n" * 100,
    b"HTTP/1.1 600 No\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 2000 No\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n\r\nabc",
    b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nabc",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 100 + HELLO,
    b"HTTP/1.1 103 Early\r\nX: " + b"x" * HEAD_BYTES + b"\r\n\r\n" + HELLO,
    OK + b"X: " + b"x" * HEAD_BYTES + b"\r\n\r\n",
    OK + b"X: 1\r\n" * 20_000 + b"\r\n",
    b"SSH-2.0-OpenSSH\r\n",
    b"\x00" * 100,
]


@both_paths
@pytest.mark.parametrize("answer", BAD_ANSWERS, ids=range(len(BAD_ANSWERS)))
async def test_an_answer_of_two_meanings_is_a_502(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with path_to(answering(answer)) as (server, app, _):
        response = await server.get()
        assert (response.status, response.body) == (502, b"bad-response")
        assert app.upstream.open == 0
    assert caplog.records == []


@both_paths
@pytest.mark.parametrize(
    "surplus",
    [SECRET, b"x", OK, b"HTTP/1.1 100 Continue\r\n\r\n" + SECRET],
)
@pytest.mark.parametrize(
    "answer",
    [
        HELLO,
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n",
    ],
)
@pytest.mark.parametrize("pause", [None, -2, 0], ids=["at once", "pause within the answer", "pause after it"])
async def test_what_follows_an_answer_is_nobodys_next_answer(answer: bytes, surplus: bytes, pause: int | None) -> None:
    asked = 0

    async def script(wire: Wire) -> None:
        nonlocal asked
        await wire.head()
        asked += 1
        if asked == 1:
            said = answer + surplus
            if pause is not None:
                before = len(answer) + pause
                await wire.send(said[:before])
                await asyncio.sleep(0)
                said = said[before:]
            await wire.send(said)
            await wire.closed(within_s=5)
        else:
            await wire.send(HELLO)

    async with path_to(script) as (server, _, sandbox):
        first = await server.get()
        assert first.body in (b"hello", b"")
        for _ in range(2):
            assert (await server.get()).body == b"hello"
        assert len(sandbox.wires) >= 2


@both_paths
@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_an_answer_to_head_leaves_nothing_for_the_next_request(method: bytes) -> None:
    async def script(wire: Wire) -> None:
        while True:
            head = await wire.head()
            await wire.send(OK + b"Content-Length: %d\r\n\r\n" % len(SECRET) + SECRET if head[:4] == b"HEAD" else HELLO)

    async with path_to(script) as (server, _, _):
        wire = await server.connect()
        await wire.send(get(method=method))
        await wire.response(head_only=method == b"HEAD")
        await wire.send(get())
        assert (await wire.response()).body == b"hello"


@both_paths
async def test_endless_trailers_and_chunk_extensions_are_cut_off() -> None:
    for endless in (b"0\r\nX: ", b"1;"):

        async def script(wire: Wire, endless: bytes = endless) -> None:
            await wire.head()
            await wire.send(OK + b"Transfer-Encoding: chunked\r\n\r\n" + endless)
            while True:
                await wire.send(b"x" * 4096)

        async with path_to(script) as (server, app, _):
            wire = await server.connect()
            await wire.send(get())
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await wire.response(within_s=2)
            assert app.upstream.open == 0


def read(pieces: list[bytes], *, no_body: bool = False) -> tuple[object, ...]:
    """What an answer comes to, fed in these pieces and then ended. It is never fed after it is complete."""
    answer = Answer(no_body=no_body)
    body = b""
    try:
        for piece in pieces:
            answer.feed(piece)
            body += answer.take()
        answer.end()
    except BadResponse:
        return ("bad", answer.head_done, body + answer.take())
    return (answer.status, answer.headers, body, answer.complete)


ANSWERS = [
    HELLO,
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
    + OK
    + b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok",
    OK + b"X-Empty:\r\nX-Long: " + b"y" * 300 + b"\r\n\r\nuntil the end",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    OK + b"Content-Length: 10\r\n\r\nshort",
    OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nokZ",
    OK + b"X: a\r\n b\r\n\r\n",
]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), which=st.integers(0, len(ANSWERS) - 1))
def test_an_answer_reads_the_same_in_every_split(data: st.DataObject, which: int) -> None:
    whole = ANSWERS[which]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1))))
    pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(pieces) == read([whole])
    assert read([bytes([byte]) for byte in whole]) == read([whole])


LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Hi\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 ",
        b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: x\r\n", b"X: y\r\n", b"\r\n", b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\n",
        b":", b"\x00", b" ", b"\r",
    ]
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(pieces=st.lists(st.one_of(LINES, st.binary(max_size=40)), max_size=20), no_body=st.booleans())
def test_any_bytes_at_all_are_an_answer_or_a_bad_one(pieces: list[bytes], no_body: bool) -> None:
    result = read(pieces, no_body=no_body)
    if result[0] != "bad":
        assert isinstance(result[0], int)
        assert result[0] == 0 or 200 <= result[0] <= 599


@both_paths
async def test_garbage_never_hangs_a_visitor_or_leaks_a_connection() -> None:
    script_bytes = b""

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(script_bytes)

    async with path_to(script, head_timeout_s=1) as (server, app, _):
        for count in range(150):
            script_bytes = _garbage(count)
            wire = await server.connect()
            await wire.send(get(b"/app/", b"Connection: close"))
            await wire.rest(within_s=2)
        assert app.upstream.open == 0


def _garbage(seed: int) -> bytes:
    chance = random.Random(seed)
    base = bytearray(chance.choice(ANSWERS))
    for _ in range(chance.randrange(1, 6)):
        base[chance.randrange(len(base))] = chance.randrange(256)
    return bytes(base)
