"""Whoever is slow, or stops, slows the one who sends; nothing is heaped up in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from pathlib import Path

import pytest

from htagweb_gateway import protocol
from htagweb_gateway.protocol import FrontProtocol
from htagweb_orchestrator.model import UnixAddress

from .scripted import HELLO, OK, Front, Script, Server, Wire, answering, both_paths, eventually, gateway, get, path_to

BOTH_LOOPS = True
PIECE = b"x" * 65536
# Per direction: the kernel's buffers on both hops, and 64 KiB plus one read in each of ours.
HELD_BYTES = 8 * 1024 * 1024


class Impatient(FrontProtocol):
    head_s = 0.2
    rest_s = 0.2
    stalled_s = 1


async def stand_still(counter: list[int]) -> None:
    """Wait until the count stays as it is for a while: somebody has to wait for somebody else."""
    async with asyncio.timeout(10):
        before = -1
        while before != counter[0]:
            before = counter[0]
            await asyncio.sleep(0.15)


def flood(sent: list[int]) -> Script:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            await wire.send(b"10000\r\n" + PIECE + b"\r\n", within_s=30)
            sent[0] += len(PIECE)

    return script


@both_paths
async def test_a_flood_waits_for_a_visitor_who_does_not_read() -> None:
    sent = [0]
    async with path_to(flood(sent)) as (server, app, _):
        wire = await server.connect(small=True)
        wire.transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(get())
        await stand_still(sent)
        assert 0 < sent[0] < HELD_BYTES
        assert buffered(server) < 512 * 1024
        wire.abort()
        await eventually(lambda: app.running == 0 and app.upstream.open == 0)


def buffered(server: Server) -> int:
    return sum(each.transport.get_write_buffer_size() for each in server.state.connections)


async def test_an_upload_waits_for_a_sandbox_that_does_not_read() -> None:
    free = asyncio.Event()

    async def script(wire: Wire) -> None:
        wire.transport.pause_reading()  # type: ignore[attr-defined]
        await free.wait()

    async with path_to(script) as (server, app, _):
        wire = await server.connect(small=True)
        await wire.send(get(b"/app/", b"Transfer-Encoding: chunked", method=b"POST"))
        sent = [0]

        async def upload() -> None:
            while True:
                await wire.send(b"10000\r\n" + PIECE + b"\r\n", within_s=30)
                sent[0] += len(PIECE)

        uploading = asyncio.create_task(upload())
        await stand_still(sent)
        assert 0 < sent[0] < HELD_BYTES
        uploading.cancel()
        wire.reset()
        await eventually(lambda: app.running == 0 and app.upstream.open == 0, within_s=1)
        free.set()


@both_paths
async def test_a_sandbox_that_never_reads_the_request_is_a_504() -> None:
    free = asyncio.Event()

    async def script(wire: Wire) -> None:
        wire.transport.pause_reading()  # type: ignore[attr-defined]
        await free.wait()

    async with path_to(script, head_timeout_s=0.3) as (server, _, _):
        wire = await server.connect()
        await wire.send(get(b"/app/", b"Content-Length: 100000000", method=b"POST"))

        async def upload() -> None:
            while True:
                await wire.send(PIECE, within_s=30)

        uploading = asyncio.create_task(upload())
        assert (await wire.response(within_s=5)).status == 504
        uploading.cancel()
        free.set()


@both_paths
@pytest.mark.parametrize("drip", [HELLO[:15], b"HTTP/1.1 103 Early\r\n\r\n" * 10])
async def test_a_head_that_comes_in_drips_is_a_504_at_the_total_deadline(drip: bytes) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        for byte in drip * 100:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0.02)

    async with path_to(script, head_timeout_s=0.4) as (server, _, sandbox):
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert (await server.get()).status == 504
        assert 0.35 < loop.time() - start < 2
        await eventually(lambda: sandbox.running == 0)


@both_paths
async def test_slow_sides_get_everything_in_the_end() -> None:
    body = bytes(range(256)) * 4096

    async def script(wire: Wire) -> None:
        await wire.head()
        data = b""
        while len(data) < len(body):
            data += await wire.some()
            await asyncio.sleep(0)
        await wire.send(OK + b"Content-Length: %d\r\n\r\n" % len(data))
        for start in range(0, len(data), 10_000):
            await wire.send(data[start : start + 10_000])
            await asyncio.sleep(0)

    async with path_to(script) as (server, _, _):
        wire = await server.connect()
        await wire.send(get(b"/app/", b"Content-Length: %d" % len(body), method=b"POST"))
        for start in range(0, len(body), 7_000):
            await wire.send(body[start : start + 7_000])
            await asyncio.sleep(0)
        received = bytearray()
        await wire.head()
        while len(received) < len(body):
            received += await wire.some()
            await asyncio.sleep(0)
        assert received == body


async def test_an_upload_stays_in_order_however_the_sandbox_reads(tmp_path: Path) -> None:
    """What both sides do falls into the same turns of the event loop: pieces of all kinds, into a socket that is full,
    and empty at the next moment."""
    body = b"".join(number.to_bytes(4, "big") for number in range(1 << 20))
    chance, loop, path = random.Random(1), asyncio.get_running_loop(), str(tmp_path / "app.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.setblocking(False)
    async with gateway(Front(UnixAddress(path=path, uid=os.getuid()))) as server, asyncio.timeout(20):
        visitor = await server.socket()
        await loop.sock_sendall(visitor, get(b"/app/", b"Content-Length: %d" % len(body), method=b"POST"))
        sandbox, _ = await loop.sock_accept(listener)
        sandbox.setblocking(False)
        received, sent = bytearray(), 0
        while not received.endswith(body[-4:]) or sent < len(body):
            with contextlib.suppress(BlockingIOError):
                if chance.random() < 0.2:
                    while True:
                        received += sandbox.recv(1 << 20)
            with contextlib.suppress(BlockingIOError):
                sent += visitor.send(body[sent : sent + chance.randrange(1, 60_000)])
            await asyncio.sleep(0)
        assert received.partition(b"\r\n\r\n")[2] == body
        sandbox.close()
        visitor.close()
    listener.close()


@pytest.mark.parametrize("start", [b"", b"G", b"GET /app/ HTTP/1.1\r\nHost: test\r\nX: "])
async def test_a_visitor_who_never_finishes_a_head_is_disconnected(start: bytes) -> None:
    async with path_to(answering(HELLO)) as (_, app, _), gateway(app, Impatient) as server:
        wire = await server.connect()
        if start:
            await wire.send(start)
        assert await wire.rest(within_s=1.5) == b""


async def test_a_head_that_comes_in_drips_is_given_up_too() -> None:
    async with path_to(answering(HELLO)) as (_, app, _), gateway(app, Impatient) as server:
        wire = await server.connect()

        async def drip() -> None:
            while True:
                await wire.send(b"\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        await wire.rest(within_s=1.5)
        dripping.cancel()


async def test_an_idle_connection_is_kept_for_the_servers_own_time() -> None:
    async with path_to(answering(HELLO)) as (_, app, _), gateway(app, Impatient, timeout_keep_alive=1) as server:
        wire = await server.connect()
        for _ in range(2):
            await wire.send(get())
            assert (await wire.response()).body == b"hello"
            await asyncio.sleep(0.4)  # longer than a head may take
        assert await wire.rest(within_s=2) == b""


async def test_a_long_answer_may_take_longer_than_a_head() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await asyncio.sleep(0.4)
        await wire.send(HELLO)

    async with path_to(script) as (_, app, _), gateway(app, Impatient) as server:
        wire = await server.connect()
        await wire.send(get() + b"GET /app")  # half a request waits behind it
        assert (await wire.response()).body == b"hello"


async def test_the_rest_of_an_upload_that_was_answered_may_take_only_so_long() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        await wire.closed(within_s=5)

    async with path_to(script) as (_, app, _), gateway(app, Impatient) as server:
        wire = await server.connect()
        await wire.send(get(b"/app/", b"Content-Length: 10", method=b"POST"))
        assert (await wire.response()).status == 413
        assert await wire.rest(within_s=1.5) == b""


async def test_a_visitor_who_takes_nothing_for_long_is_cut_off() -> None:
    sent = [0]
    async with path_to(flood(sent)) as (_, app, _), gateway(app, Impatient) as server:
        wire = await server.connect(small=True)
        wire.transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(get())
        await eventually(lambda: sent[0] > 0)
        await eventually(lambda: not server.state.connections and app.upstream.open == 0, within_s=8)


def test_what_we_ship_is_patient() -> None:
    assert (protocol.HEAD_S, protocol.REST_S, protocol.STALLED_S) == (10, 10, 60)
