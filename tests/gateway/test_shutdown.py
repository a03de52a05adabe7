"""The server is told to end, as by SIGTERM: what runs is finished, who waits is told, and nothing new is begun."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection

from htagweb_gateway.door import FrontWebSocket
from htagweb_gateway.protocol import FrontProtocol

from .scripted import HELLO, Front, Script, Wire, answering, eventually, get, sandbox
from .sockets import websocket_sandbox

BOTH_LOOPS = True
DRAIN_S = 3


class Process:
    """uvicorn as it runs in production, but within this process."""

    def __init__(self, app: Front, port: int, server: uvicorn.Server) -> None:
        self.app = app
        self.port = port
        self.visitors: list[Wire] = []
        self._server = server
        self.serving: asyncio.Task[None]

    def terminate(self) -> None:
        self._server.should_exit = True  # what uvicorn's handler of SIGTERM does

    async def connect(self) -> Wire:
        self.visitors.append(Wire(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.visitors[-1]

    async def refuses(self) -> None:
        """Wait until nobody listens any more."""
        async with asyncio.timeout(10):
            while True:
                try:
                    (await self.connect()).abort()
                except ConnectionRefusedError:
                    return
                except ConnectionResetError:
                    pass  # it waited to be accepted when the listener was closed
                await asyncio.sleep(0.01)


@asynccontextmanager
async def process(app: Front) -> AsyncIterator[Process]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=FrontProtocol,
        ws=FrontWebSocket,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=DRAIN_S,
    )
    found = Process(app, listener.getsockname()[1], uvicorn.Server(config))
    found.serving = asyncio.create_task(found._server.serve(sockets=[listener]))
    try:
        await eventually(lambda: found._server.started)
        yield found
        found.terminate()
        async with asyncio.timeout(DRAIN_S + 2):
            await found.serving
        assert not app.running
    finally:
        found.serving.cancel()
        for wire in found.visitors:
            wire.abort()
        app.upstream.close()
        await eventually(lambda: not app.upstream.open)


@asynccontextmanager
async def in_front_of(script: Script) -> AsyncIterator[Process]:
    async with sandbox(script) as found, process(Front(found.address)) as running:
        yield running


async def test_a_request_that_runs_is_finished(caplog: pytest.LogCaptureFixture) -> None:
    free = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await free.wait()
        await wire.send(HELLO)

    async with in_front_of(script) as running:
        wire = await running.connect()
        await wire.send(get())
        await eventually(lambda: running.app.running == 1)
        running.terminate()
        await running.refuses()
        free.set()
        response = await wire.response()
        assert (response.status, response.body, response.header(b"connection")) == (200, b"hello", b"close")
        await wire.closed()
    assert [each for each in caplog.records if each.levelname not in ("DEBUG", "INFO")] == []


async def test_what_comes_behind_a_request_that_runs_does_not_disturb_it() -> None:
    free = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await free.wait()
        await wire.send(HELLO)

    async with in_front_of(script) as running:
        wire = await running.connect()
        await wire.send(get())
        await eventually(lambda: running.app.running == 1)
        running.terminate()
        await running.refuses()
        await wire.send(get() * 2)
        free.set()
        assert (await wire.response()).body == b"hello"
        assert await wire.rest() == b""


async def test_a_request_on_a_kept_connection_is_told_to_come_again() -> None:
    async with in_front_of(answering(HELLO)) as running:
        wires = [await running.connect() for _ in range(3)]
        for wire in wires:
            await wire.send(get())
            assert (await wire.response()).body == b"hello"
        running.terminate()
        await running.refuses()
        await wires[0].send(get())
        handshake = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
        await wires[1].send(get(b"/app/", *handshake, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
        for wire in wires[:2]:
            response = await wire.response()
            assert (response.status, response.header(b"connection")) == (503, b"close")
            assert await wire.rest() == b""
        assert await wires[2].rest(within_s=2) == b""  # who stays silent is let go soon


async def test_an_unfinished_head_does_not_hold_the_end_up() -> None:
    async with in_front_of(answering(HELLO)) as running:
        wire = await running.connect()
        running.terminate()
        await running.refuses()
        await wire.send(get()[:-2])
        assert await wire.rest(within_s=2) == b""


async def test_a_request_that_takes_too_long_is_broken_off() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.closed(within_s=DRAIN_S + 5)

    async with in_front_of(script) as running:
        wire = await running.connect()
        await wire.send(get())
        await eventually(lambda: running.app.running == 1)
        running.terminate()
        await wire.rest(within_s=DRAIN_S + 2)


async def test_websockets_are_told_that_the_server_goes_away() -> None:
    told: list[int | None] = []

    async def hold(websocket: ServerConnection) -> None:
        await websocket.wait_closed()
        told.append(websocket.close_code)

    async with websocket_sandbox(hold) as address, process(Front(address)) as running:
        async with connect(f"ws://127.0.0.1:{running.port}/app/ws", proxy=None) as visitor:
            await eventually(lambda: len(running.app.relays) == 1)
            running.terminate()
            async with asyncio.timeout(10):
                await visitor.wait_closed()
            assert (visitor.close_code, visitor.close_reason) == (1001, "")
        await eventually(lambda: told == [1001])


async def test_a_websocket_that_is_just_being_opened_is_refused() -> None:
    asked = asyncio.Event()

    async def silent(wire: Wire) -> None:
        await wire.head()
        asked.set()
        await wire.closed(within_s=5)

    async with in_front_of(silent) as running:
        wire = await running.connect()
        handshake = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
        await wire.send(get(b"/app/", *handshake, b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
        async with asyncio.timeout(10):
            await asked.wait()
        running.terminate()
        assert (await wire.response()).status == 503
        await wire.closed()
