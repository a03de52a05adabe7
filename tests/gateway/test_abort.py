"""Either side may leave at any moment; the other one is told at once, and never believes that it had everything."""

from __future__ import annotations

import asyncio

import pytest

from .scripted import HELLO, OK, Wire, answering, both_paths, eventually, get, path_to

BOTH_LOOPS = True
pytestmark = both_paths


async def test_a_visitor_who_leaves_before_the_head_ends_the_request(caplog: pytest.LogCaptureFixture) -> None:
    left = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.closed(within_s=5)
        left.set()

    async with path_to(script) as (server, app, sandbox):
        wire = await server.connect()
        await wire.send(get())
        await eventually(lambda: len(sandbox.wires) == 1)
        wire.abort()
        async with asyncio.timeout(10):
            await left.wait()
        await eventually(lambda: app.running == 0)
    assert app.faults == []
    assert caplog.records == []


async def test_a_visitor_who_leaves_in_mid_body_ends_the_request(caplog: pytest.LogCaptureFixture) -> None:
    left = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await wire.closed(within_s=5)
        left.set()

    async with path_to(script) as (server, app, _):
        wire = await server.connect()
        await wire.send(get())
        await wire.head()
        wire.abort()
        async with asyncio.timeout(10):
            await left.wait()
        await eventually(lambda: app.running == 0)
    assert caplog.records == []


async def test_a_visitor_who_leaves_in_mid_upload_ends_the_request(caplog: pytest.LogCaptureFixture) -> None:
    left = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.exactly(5)
        await wire.closed(within_s=5)
        left.set()

    async with path_to(script) as (server, app, _):
        wire = await server.connect()
        await wire.send(get(b"/app/", b"Content-Length: 10", method=b"POST") + b"hello")
        await eventually(lambda: app.uploads == 1)
        wire.abort()
        async with asyncio.timeout(10):
            await left.wait()
        await eventually(lambda: app.running == 0)
    assert caplog.records == []


@pytest.mark.parametrize(
    "start",
    [
        OK + b"Content-Length: 10\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ],
)
async def test_a_sandbox_that_dies_in_mid_body_breaks_the_transfer(
    start: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(start)

    async with path_to(script) as (server, _, _):
        wire = await server.connect()
        await wire.send(get())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await wire.response(within_s=1)
    assert caplog.records == []


async def test_an_answer_that_ends_with_the_connection_is_complete() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK + b"\r\nhello")

    async with path_to(script) as (server, _, _):
        response = await server.get()
        assert (response.status, response.body) == (200, b"hello")


async def test_a_sandbox_that_answers_nothing_is_a_502() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()

    async with path_to(script, fresh=True) as (server, _, sandbox):
        assert (await server.get()).body == b"dropped"
        assert len(sandbox.wires) == 1  # a fresh connection is no stale one: no second try


async def test_a_connection_that_went_stale_is_tried_once_more() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(HELLO)
        if wire is not sandbox.wires[0]:
            await wire.closed(within_s=5)
        await wire.head()  # asked again, it leaves without an answer

    async with path_to(script) as (server, _, sandbox):
        wire = await server.connect()
        for _ in range(2):
            await wire.send(get())
            assert (await wire.response()).body == b"hello"
        assert len(sandbox.wires) == 2


async def test_a_post_is_never_sent_twice() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(HELLO)
        await wire.head()

    async with path_to(script) as (server, _, sandbox):
        wire = await server.connect()
        await wire.send(get())
        assert (await wire.response()).body == b"hello"
        await wire.send(get(b"/app/", b"Content-Length: 0", method=b"POST"))
        assert (await wire.response()).body == b"dropped"
        assert len(sandbox.wires) == 1


async def test_a_post_never_meets_a_connection_that_was_closed_before() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(HELLO)
        wire.writer.close()

    async with path_to(script) as (server, _, sandbox):
        for count in range(1, 5):
            response = None
            wire = await server.connect()
            await wire.send(get(b"/app/", b"Content-Length: 0", method=b"POST"))
            response = await wire.response()
            assert (response.body, len(sandbox.wires)) == (b"hello", count)
            wire.abort()


async def test_idle_connections_are_used_again_and_expire() -> None:
    async with path_to(answering(HELLO)) as (server, app, sandbox):
        for _ in range(3):
            assert (await server.get()).body == b"hello"
        assert len(sandbox.wires) == 1
    async with path_to(answering(HELLO), idle_timeout_s=0.2) as (server, app, sandbox):
        for count in (1, 2):
            assert (await server.get()).body == b"hello"
            assert len(sandbox.wires) == count
            await eventually(lambda: app.upstream.open == 0)


async def test_the_pool_keeps_no_more_than_it_may() -> None:
    together = asyncio.Barrier(6)

    async def script(wire: Wire) -> None:
        await wire.head()
        await together.wait()
        await wire.send(HELLO)
        await wire.closed(within_s=5)

    async with path_to(script, max_idle=2) as (server, _, sandbox):
        await asyncio.gather(*(server.get() for _ in range(6)))
        await eventually(lambda: sum(not wire.reader.at_eof() for wire in sandbox.wires) == 2)


async def test_more_requests_than_a_sandbox_may_have_are_refused() -> None:
    free = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await free.wait()
        await wire.send(HELLO)

    async with path_to(script, max_open=2) as (server, _, sandbox), asyncio.TaskGroup() as visitors:
        waiting = [visitors.create_task(server.get()) for _ in range(2)]
        await eventually(lambda: len(sandbox.wires) == 2)
        assert (await server.get()).status == 503
        free.set()
        assert [(await each).body for each in waiting] == [b"hello", b"hello"]


async def test_a_sandbox_that_is_not_there_is_unreachable() -> None:
    async with path_to(answering(HELLO), fresh=True) as (server, app, sandbox):
        app.upstream.address = sandbox.address.__class__(path=sandbox.address.path + "x", uid=sandbox.address.uid)
        assert (await server.get()).body == b"unreachable"


async def test_closing_the_upstream_ends_what_waits_and_what_streams() -> None:
    async def script(wire: Wire) -> None:
        if b"/stream" in await wire.head():
            await wire.send(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await wire.closed(within_s=5)

    async with path_to(script) as (server, app, sandbox):
        waiting = await server.connect()
        await waiting.send(get())
        streaming = await server.connect()
        await streaming.send(get(b"/app/stream"))
        await streaming.head()
        await eventually(lambda: len(sandbox.wires) == 2)
        app.upstream.close()
        assert (await waiting.response(within_s=1)).body == b"ended"
        assert b"0\r\n\r\n" not in await streaming.rest(within_s=1)
        assert (await server.get()).body == b"ended"
