"""Requests that came whole go without a task of their own, and whatever comes otherwise is none the worse for it.

That they break off, time out and are refused like any other is shown by the tests that are run on `both_paths`.
"""

from __future__ import annotations

import asyncio

import pytest

from htagweb_gateway.answer import read_head
from htagweb_gateway.errand import head_for_visitor
from htagweb_gateway.headers import Place

from .scripted import HELLO, OK, Wire, answering, eventually, get, path_to, warm

BOTH_LOOPS = True
POST = get(b"/app/", b"Content-Length: 4", method=b"POST") + b"ping"


@pytest.fixture(autouse=True)
def path() -> None:
    warm.set(True)


async def test_a_whole_request_and_a_whole_answer_need_no_task() -> None:
    asked: list[bytes] = []

    async def script(wire: Wire) -> None:
        while True:
            asked.append(await wire.head())
            if asked[-1].startswith(b"POST"):
                assert await wire.exactly(4) == b"ping"
            await wire.send(OK + b"Content-Length: 4\r\nSet-Cookie: a=b; Path=/\r\nServer: x\r\n\r\npong")

    async with path_to(script) as (server, app, sandbox):
        app._serve = _refuse  # type: ignore[method-assign]
        wire = await server.connect()
        for request in (get(), POST, get(), POST):
            await wire.send(request)
            response = await wire.response()
            assert (response.status, response.body) == (200, b"pong")
            assert response.headers == [(b"content-length", b"4"), (b"set-cookie", b"a=b; Path=/app/")]
        assert (app.errands, app.uploads, len(sandbox.wires)) == (4, 2, 1)
        assert asked[0] == asked[2]
        assert b"x-forwarded-prefix: /app\r\n" in asked[0]


@pytest.mark.parametrize(
    "answer",
    [
        [HELLO[:30], HELLO[30:]],
        [HELLO[:-2], b"lo"],
        [OK + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"],
        [b"HTTP/1.1 103 Early\r\n\r\n" + HELLO],
        [b"HTTP/1.1 103 Early\r\n\r\n", HELLO],
    ],
)
async def test_an_answer_in_pieces_is_passed_on_by_a_task(answer: list[bytes]) -> None:
    go_on = asyncio.Semaphore(0)

    async def script(wire: Wire) -> None:
        while True:
            await wire.head()
            for piece in answer:
                await go_on.acquire()
                await wire.send(piece)

    async with path_to(script) as (server, app, sandbox):
        wire = await server.connect()
        for count in range(1, 3):
            await wire.send(get())
            await eventually(lambda count=count: app.errands == count)  # type: ignore[misc]
            for _ in answer:
                go_on.release()
                await asyncio.sleep(0.01)
            assert (await wire.response()).body == b"hello"
        assert len(sandbox.wires) == 1
        assert not app.faults


async def test_the_next_requests_wait_for_their_turn() -> None:
    free = asyncio.Event()

    async def script(wire: Wire) -> None:
        count = 0
        while True:
            await wire.head()
            await free.wait()
            count += 1
            await wire.send(OK + b"Content-Length: 1\r\n\r\n%d" % count)

    async with path_to(script) as (server, app, sandbox):
        wire = await server.connect()
        await wire.send(get())
        await eventually(lambda: app.errands == 1)
        (connection,) = server.state.connections
        await wire.send(get())
        await eventually(lambda: len(connection.pipeline) == 1)  # type: ignore[union-attr]
        await wire.send(get())
        free.set()
        assert [(await wire.response()).body for _ in range(3)] == [b"1", b"2", b"3"]
        assert (app.errands, len(sandbox.wires)) == (1, 1)


@pytest.mark.parametrize("piecewise", [False, True])
async def test_the_last_answer_before_the_end_of_the_server_says_so(piecewise: bool) -> None:
    free = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await free.wait()
        await wire.send(HELLO[:-2] if piecewise else HELLO)
        await asyncio.sleep(0.02)
        await wire.send(b"lo" if piecewise else b"")

    async with path_to(script) as (server, app, _):
        wire = await server.connect()
        await wire.send(get())
        await eventually(lambda: app.errands == 1)
        for connection in list(server.state.connections):
            connection.shutdown()
        free.set()
        response = await wire.response()
        assert (response.body, response.header(b"connection")) == (b"hello", b"close")
        await wire.closed()


async def test_a_visitor_who_does_not_read_is_waited_for() -> None:
    large = OK + b"Content-Length: 60000\r\n\r\n" + b"x" * 60_000

    async with path_to(answering(large)) as (server, app, _):
        wire = await server.connect(small=True)
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        asked = 0
        # Each is sent when the one before was answered, into buffers that nobody empties.
        while app.running == 0:
            asked += 1
            assert asked < 1000
            answered = server.state.total_requests
            await wire.send(get())
            await eventually(lambda answered=answered: app.running > 0 or server.state.total_requests > answered)  # type: ignore[misc]
        wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(asked):
            assert len((await wire.response()).body) == 60_000
        await eventually(lambda: app.running == 0)


async def test_where_the_application_thinks_better_of_it_nothing_is_left_behind() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(HELLO[:-2])
        await wire.closed(within_s=5)

    async with path_to(script) as (server, app, _):
        app._serve = _refuse  # type: ignore[method-assign]
        wire = await server.connect()
        await wire.send(get())
        assert (await wire.response()).status == 403
        await eventually(lambda: app.upstream.open == 0)
        assert app.errands == 1


async def _refuse(scope: object, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})  # type: ignore[operator]
    await send({"type": "http.response.body"})  # type: ignore[operator]


async def test_a_sandbox_that_ends_in_mid_errand_is_said_to_have_ended() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.closed(within_s=5)

    async with path_to(script) as (server, app, _):
        wire = await server.connect()
        await wire.send(get())
        await eventually(lambda: app.errands == 1)
        app.upstream.close()
        assert (await wire.response()).body == b"ended"


def test_what_one_app_says_is_not_taken_for_anothers() -> None:
    head = read_head(OK + b"Content-Length: 0\r\nLocation: /x\r\nSet-Cookie: a=b\r\n\r\n")
    assert head is not None
    for prefix in (b"/one", b"/other") * 2:
        said = head_for_visitor(head, Place(prefix=prefix.decode(), host=b"test"))
        assert said is not None
        assert b"location: %b/x\r\n" % prefix in said
        assert b"set-cookie: a=b; Path=%b/\r\n" % prefix in said
    said = head_for_visitor(head, Place(prefix="/one", host=b"test", cookie_names=frozenset({b"a"})))
    assert said is not None
    assert b"set-cookie" not in said
