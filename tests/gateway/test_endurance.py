"""After much of everything, and of everything that goes wrong, nothing is left over: no file, no task, no memory.

`make soak` does more of it: SOAK_TIMES says how many times as much.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from htagweb_gateway.door import FrontWebSocket

from .scripted import OK, Front, Server, Wire, eventually, gateway, get, sandbox
from .sockets import BINARY, CLOSE, HANDSHAKE, TEXT, accept_of, frame, open_socket, switching

SOAK = int(os.environ.get("SOAK_TIMES", "1"))
REQUESTS = 1000 * SOAK
AT_ONCE = 20
MIB = 1 << 20
TRANSFER = 64 * MIB * SOAK
GROWTH = 20 * MIB

pytestmark = pytest.mark.timeout(120 * SOAK)


# Much of everything

BODY = b"x" * 100_000


async def everything(wire: Wire) -> None:
    """A sandbox that does as the path says."""
    while True:
        head = await wire.head()
        target = head.split(b" ", 2)[1]
        if target == b"/ws":
            await wire.send(switching(accept_of(head)))
            while piece := await wire.some():
                if piece[0] & 0x0F == CLOSE:
                    await wire.send(frame(CLOSE, b"\x03\xe8", masked=False))
                    return
                await wire.send(frame(TEXT, b"x" * 70, masked=False))
            return
        if target == b"/dead":
            return
        if target == b"/dying":
            await wire.send(OK + b"Content-Length: 100\r\n\r\nhello")
            return
        if b"\r\ncontent-length:" in head.lower():
            await wire.exactly(len(BODY))
        await wire.send(OK + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)


class Visits:
    """Visitors of all kinds, by chance but the same each time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._chance = random.Random(7)
        self.done = self.left = self.broken = 0

    async def some(self, count: int) -> None:
        for _ in range(count):
            wire = await self._server.connect()
            try:
                await self._chance.choice([self._page, self._page, self._upload, self._websocket, self._death])(wire)
            finally:
                wire.abort()
                self._server.visitors.remove(wire)

    async def _page(self, wire: Wire) -> None:
        if self._chance.random() < 0.2:
            await self._leave_within(wire, get(b"/app/page"))
            return
        for _ in range(self._chance.randint(1, 3)):
            await wire.send(get(b"/app/page"))
            assert (await wire.response()).body == BODY
        self.done += 1

    async def _upload(self, wire: Wire) -> None:
        request = get(b"/app/page", b"Content-Length: %d" % len(BODY), method=b"POST") + BODY
        if self._chance.random() < 0.2:
            await self._leave_within(wire, request)
            return
        await wire.send(request)
        assert (await wire.response()).body == BODY
        self.done += 1

    async def _leave_within(self, wire: Wire, request: bytes) -> None:
        """Leave at a random byte of the request, or of the answer."""
        self.left += 1
        at = self._chance.randrange(2 * len(request))
        await wire.send(request[:at])
        if at > len(request):
            with suppress(asyncio.IncompleteReadError):
                await wire.exactly(self._chance.randrange(len(BODY)))
        if self._chance.random() < 0.5:
            wire.reset()

    async def _websocket(self, wire: Wire) -> None:
        if self._chance.random() < 0.1:
            self.left += 1
            await wire.send(get(b"/app/ws", *HANDSHAKE))
            return
        await open_socket(wire)
        for _ in range(self._chance.randint(1, 5)):
            await wire.send(frame(TEXT, b"x" * 70))
            await wire.exactly(72)
        if self._chance.random() < 0.5:
            self.left += 1
            wire.reset()
            return
        await wire.send(frame(CLOSE, b"\x03\xe8"))
        assert await wire.rest() == frame(CLOSE, b"\x03\xe8", masked=False)
        self.done += 1

    async def _death(self, wire: Wire) -> None:
        self.broken += 1
        if self._chance.random() < 0.5:
            await wire.send(get(b"/app/dead"))
            assert (await wire.response()).status == 502
        else:
            await wire.send(get(b"/app/dying"))
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await wire.response()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_nothing_is_left_of_visits_of_all_kinds() -> None:
    async with sandbox(everything) as found:
        app = Front(found.address, idle_timeout_s=0.2)
        async with gateway(app, ws=FrontWebSocket) as server:
            visits = Visits(server)
            await visits.some(AT_ONCE)

            def at_rest() -> bool:
                return not (app.running or app.upstream.open or found.running or server.state.connections)

            await eventually(at_rest, within_s=5)
            files, tasks = open_files(), len(asyncio.all_tasks())
            async with asyncio.TaskGroup() as visitors:
                for _ in range(AT_ONCE):
                    visitors.create_task(visits.some(REQUESTS // AT_ONCE))
            await eventually(at_rest, within_s=5)
            await eventually(lambda: (open_files(), len(asyncio.all_tasks())) == (files, tasks), within_s=5)
            assert min(visits.done, visits.left, visits.broken) > REQUESTS / 10


# Much at once


class Gateway:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._pid = process.pid
        self.port = port

    async def connect(self) -> Wire:
        return Wire(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 17))

    def memory(self, field: str) -> int:
        """VmRSS is what it has now, VmHWM the most that it had."""
        with open(f"/proc/{self._pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


@asynccontextmanager
async def process(path: str) -> AsyncIterator[Gateway]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.gateway.standalone", path, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(20):
            port = int(await child.stdout.readline())
        yield Gateway(child, port)
    finally:
        child.kill()
        await child.communicate()


PIECE = b"x" * 65536


DRIPPING_S = 0.2 * SOAK
CRAWLING_S = DRIPPING_S + 0.4 * SOAK


async def write(wire: Wire, size: int) -> None:
    """In drips at first, then as fast as the other side takes it."""
    clock = asyncio.get_running_loop().time
    drips_until = clock() + DRIPPING_S
    while size > 0:
        drips = clock() < drips_until
        piece = PIECE[: min(size, 10 if drips else len(PIECE))]
        await wire.send(piece, within_s=60)
        size -= len(piece)
        if drips:
            await asyncio.sleep(0.001)


async def read_slowly(wire: Wire, size: int) -> None:
    """Some MB a second for a while: whoever writes could say all of it by then. Then still slower than anybody writes,
    by a pause after every piece."""
    clock = asyncio.get_running_loop().time
    crawls_until = clock() + CRAWLING_S
    while size > 0:
        crawls = clock() < crawls_until
        async with asyncio.timeout(60):
            piece = await wire.reader.read(min(size, len(PIECE) if crawls else 1 << 20))
        assert piece
        size -= len(piece)
        await asyncio.sleep(0.02 if crawls else 0.0005)


async def download(wire: Wire, size: int) -> None:
    await wire.send(get(b"/app/down/%d" % size))
    await wire.head()
    await read_slowly(wire, size)


async def upload(wire: Wire, size: int) -> None:
    await wire.send(get(b"/app/up/%d" % size, b"Content-Length: %d" % size, method=b"POST"))
    await write(wire, size)
    assert (await wire.response(within_s=60)).status == 204


async def messages(wire: Wire, size: int) -> None:
    await open_socket(wire)
    message = frame(BINARY, bytes(MIB))

    async def send() -> None:
        for _ in range(size // MIB):
            await wire.send(message, within_s=60)

    sending = asyncio.create_task(send())
    await read_slowly(wire, size // MIB * (MIB + 10))
    await sending


async def heavy(wire: Wire) -> None:
    head = await wire.head()
    verb, *size = head.split(b" ", 2)[1].split(b"/")[1:]
    if verb == b"ws":
        await wire.send(switching(accept_of(head)))
        while True:
            await wire.exactly(MIB + 14, within_s=60)
            await wire.send(frame(BINARY, bytes(MIB), masked=False), within_s=60)
    elif verb == b"down":
        await wire.send(OK + b"Content-Length: %b\r\n\r\n" % size[0])
        await write(wire, int(size[0]))
    else:
        await read_slowly(wire, int(size[0]))
        await wire.send(b"HTTP/1.1 204 No Content\r\n\r\n")


@pytest.mark.parametrize("transfer", [download, upload, messages])
async def test_memory_stays_flat_whatever_passes_through(transfer: Callable[[Wire, int], Awaitable[None]]) -> None:
    async with sandbox(heavy) as found, process(found.address.path) as running:
        for size in (4 * MIB, TRANSFER):
            before = running.memory("VmRSS")
            wire = await running.connect()
            try:
                await transfer(wire, size)
            finally:
                wire.abort()
        assert running.memory("VmHWM") - before < GROWTH
