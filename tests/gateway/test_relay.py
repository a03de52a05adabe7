"""One WebSocket through the gateway, with a real client on one side and a real server on the other.

All of it twice: spliced as bytes where our own protocol class is in front, relayed by messages where it isn't.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, Protocol

import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from htagweb_gateway.door import FrontWebSocket
from htagweb_orchestrator.model import Platform, UnixAddress

from .scripted import Front, Server, Wire, eventually, gateway, path_to
from .sockets import websocket_sandbox

BOTH_LOOPS = True
MIB = 1024 * 1024
Handler = Callable[[ServerConnection], Awaitable[None]]


CARRIERS = {"tunnel": FrontWebSocket, "relay": WebSocketsSansIOProtocol}


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Stage:
    """A visitor's socket to a handler in a sandbox, through a gateway."""

    def __init__(self, server: Server, app: Front) -> None:
        self.server = server
        self.app = app
        self.sockets: list[ServerConnection] = []

    def visit(self, path: str = "/app/ws", **options: Any) -> connect:
        options = {"max_size": None, "compression": None, **options}
        return connect(f"ws://127.0.0.1:{self.server.port}{path}", proxy=None, **options)


class Staging(Protocol):
    def __call__(
        self, handler: Handler, *, message_size: int = 16 * MIB, message_rate: float = 10_000, **options: Any
    ) -> AbstractAsyncContextManager[Stage]: ...


@pytest.fixture
def stage(carrier: str) -> Staging:
    return partial(staged, carrier)


@asynccontextmanager
async def staged(
    carrier: str, handler: Handler, *, message_size: int = 16 * MIB, message_rate: float = 10_000, **options: Any
) -> AsyncIterator[Stage]:
    found: Stage

    async def serve(socket: ServerConnection) -> None:
        found.sockets.append(socket)
        await handler(socket)

    async with websocket_sandbox(serve, **options) as address:
        app = Front(address, message_size=message_size, message_rate=message_rate)
        async with gateway(app, ws=CARRIERS[carrier], ws_max_size=message_size) as server:
            found = Stage(server, app)
            yield found


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


async def hold(socket: ServerConnection) -> None:
    await socket.wait_closed()


async def ending(
    socket: ClientConnection | ServerConnection, *, within_s: float = 1.0
) -> tuple[int | None, str | None]:
    async with asyncio.timeout(within_s):
        await socket.wait_closed()
    return socket.close_code, socket.close_reason


@pytest.mark.parametrize(
    "message", ["hello", "", "é€😀", b"", b"\x00\xff", bytes(range(256)) * 4096, "x" * MIB], ids=lambda each: len(each)
)
async def test_messages_pass_both_ways(stage: Staging, message: str | bytes) -> None:
    async with stage(echo) as found, found.visit() as visitor:
        await visitor.send(message)
        assert await visitor.recv() == message
        assert found.app.messages == 1


async def test_a_message_in_fragments_is_one_message(stage: Staging) -> None:
    async with stage(echo) as found, found.visit() as visitor:
        await visitor.send([b"a" * 1000, b"b", b"", b"c" * 100_000])
        assert await visitor.recv() == b"a" * 1000 + b"b" + b"c" * 100_000


async def test_many_messages_keep_their_order(stage: Staging) -> None:
    async with stage(echo) as found, found.visit() as visitor:

        async def talk() -> None:
            for n in range(2000):
                await visitor.send(str(n))

        talking = asyncio.create_task(talk())
        assert [await visitor.recv() for _ in range(2000)] == [str(n) for n in range(2000)]
        await talking


async def test_the_sandbox_chooses_the_subprotocol(stage: Staging) -> None:
    async with stage(echo, subprotocols=[Subprotocol("b")]) as found:
        async with found.visit(subprotocols=["a", "b"]) as visitor:
            assert visitor.subprotocol == "b"
    async with stage(echo) as found, found.visit(subprotocols=["a", "b"]) as visitor:
        assert visitor.subprotocol is None


async def test_the_handshake_arrives_as_it_was_sent(stage: Staging) -> None:
    async with stage(echo) as found:
        headers = {"Cookie": "a=1; htagweb=secret", "Origin": "http://test", "X-Forwarded-For": "6.6.6.6"}
        async with found.visit("/app/a%2Fb//?x=%2e&y", additional_headers=headers) as visitor:
            await visitor.send("x")
            await visitor.recv()
        request = found.sockets[0].request
        assert request is not None
        assert request.path == "/a%2Fb//?x=%2e&y"
        told = {name: request.headers.get_all(name) for name in ("Host", "Cookie", "Origin", "X-Forwarded-For")}
        assert told == {
            "Host": [f"127.0.0.1:{found.server.port}"],
            "Cookie": ["a=1"],
            "Origin": ["http://test"],
            "X-Forwarded-For": ["127.0.0.1"],
        }
        assert request.headers["X-Forwarded-Prefix"] == "/app"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "moved"), (3000, "own"), (4999, "é" * 30)])
async def test_a_visitors_goodbye_reaches_the_sandbox(stage: Staging, code: int, reason: str) -> None:
    async with stage(hold) as found, found.visit() as visitor:
        await eventually(lambda: len(found.sockets) == 1)
        await visitor.close(code, reason)
        assert await ending(found.sockets[0]) == (code, reason)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "idle"), (1011, "oops"), (4000, "é" * 30)])
async def test_a_sandboxs_goodbye_reaches_the_visitor(stage: Staging, code: int, reason: str) -> None:
    async def leave(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.close(code, reason)

    async with stage(leave) as found, found.visit() as visitor:
        await visitor.send("leave")
        assert await ending(visitor) == (code, reason)


async def test_a_sandbox_that_dies_closes_the_visitors_socket_at_once(
    stage: Staging, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(hold) as found, found.visit() as visitor:
        await eventually(lambda: len(found.sockets) == 1)
        found.sockets[0].transport.abort()
        assert await ending(visitor) == (1014, "the app went away")
        await eventually(lambda: found.app.running == 0)
    assert [each for each in caplog.records if each.levelname not in ("DEBUG", "INFO")] == []


async def test_a_visitor_who_dies_closes_the_sandboxs_socket_at_once(
    stage: Staging, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(hold) as found, found.visit() as visitor:
        await eventually(lambda: len(found.sockets) == 1)
        visitor.transport.abort()
        assert (await ending(found.sockets[0]))[0] == 1001
        await eventually(lambda: found.app.running == 0)
    assert [each for each in caplog.records if each.levelname not in ("DEBUG", "INFO")] == []


async def test_an_ending_from_outside_tells_both_sides_why(stage: Staging) -> None:
    async with stage(hold) as found, found.visit() as visitor:
        await eventually(lambda: len(found.sockets) == 1)
        found.app.relays[0].close(1001, "idle")
        assert await ending(visitor) == (1001, "idle")
        assert await ending(found.sockets[0]) == (1001, "idle")
        await eventually(lambda: found.app.running == 0)


async def test_an_ending_from_outside_waits_for_nobody(stage: Staging) -> None:
    async def flood(socket: ServerConnection) -> None:
        while True:
            await socket.send(b"x" * 65536)

    async with stage(flood) as found, found.visit(max_queue=1) as visitor:
        await eventually(lambda: len(found.sockets) == 1)
        found.app.relays[0].close(1001, "idle")
        found.app.relays[0].close(1000, "too late")
        await eventually(lambda: found.app.running == 0, within_s=3)
        visitor.transport.abort()


@pytest.mark.parametrize("message", [b"x" * 2001, "é" * 1001])
async def test_too_long_a_message_of_a_visitor_ends_both_sides(stage: Staging, message: bytes | str) -> None:
    async with stage(hold, message_size=2000) as found, found.visit() as visitor:
        await eventually(lambda: len(found.sockets) == 1)
        await visitor.send(message)
        assert (await ending(visitor))[0] == 1009
        assert (await ending(found.sockets[0]))[0] == 1009


async def test_too_long_a_message_is_refused_while_it_comes_in(stage: Staging) -> None:
    async with stage(hold, message_size=2000) as found:
        async with found.visit() as visitor:

            async def endless() -> AsyncIterator[bytes]:
                while True:
                    yield b"x" * 1000

            with suppress(ConnectionClosed):
                await visitor.send(endless())
            assert (await ending(visitor))[0] == 1009


async def test_the_size_holds_whatever_the_server_in_front_would_take(stage: Staging) -> None:
    async with stage(hold, message_size=2000) as found:
        found.server.config.ws_max_size = MIB
        async with found.visit() as visitor:
            await visitor.send("é" * 1001)
            assert (await ending(visitor))[0] == 1009
            assert (await ending(found.sockets[0]))[0] == 1009


async def test_too_long_a_message_of_a_sandbox_ends_both_sides(stage: Staging) -> None:
    async def shout(socket: ServerConnection) -> None:
        await socket.send(b"x" * 2001)
        await socket.wait_closed()

    async with stage(shout, message_size=2000) as found, found.visit() as visitor:
        assert (await ending(visitor))[0] == 1009
        assert (await ending(found.sockets[0]))[0] == 1009


async def test_messages_that_come_too_fast_end_both_sides(stage: Staging) -> None:
    heard = 0

    async def listen(socket: ServerConnection) -> None:
        nonlocal heard
        async for _ in socket:
            heard += 1

    async with stage(listen, message_rate=100) as found, found.visit() as visitor:
        with suppress(ConnectionClosed):
            for _ in range(1000):
                await visitor.send("x")
        assert await ending(visitor) == (1008, "too many messages")
        assert await ending(found.sockets[0]) == (1008, "too many messages")
        assert 200 <= heard < 1000


async def test_a_thousand_messages_a_second_are_too_many(stage: Staging) -> None:
    loop = asyncio.get_running_loop()
    async with stage(hold, message_rate=Platform().message_rate) as found, found.visit() as visitor:
        start, sent = loop.time(), 0
        with suppress(ConnectionClosed):
            while sent < 1900:  # fewer than may come at once at that rate
                await asyncio.sleep(0.01)
                while sent < 1000 * (loop.time() - start):
                    await visitor.send("x")
                    sent += 1
        assert await ending(visitor) == (1008, "too many messages")
        assert sent >= 400


async def test_a_message_of_just_the_size_passes(stage: Staging) -> None:
    async with stage(echo, message_size=2000) as found, found.visit() as visitor:
        for message in (b"x" * 2000, "é" * 1000):
            await visitor.send(message)
            assert await visitor.recv() == message


@pytest.mark.parametrize(("refusal", "status"), [(403, 403), (404, 404), (503, 503)])
async def test_a_refused_handshake_is_refused_with_the_same_status(
    stage: Staging, carrier: str, refusal: int, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(socket: ServerConnection, request: Request) -> Response:
        return socket.respond(refusal, "no\n")

    async with stage(echo, process_request=refuse) as found:
        with pytest.raises(InvalidStatus) as refused:
            async with found.visit():
                pass
        assert refused.value.response.status_code == status
        assert found.app.faults == []
    if carrier == "tunnel":  # uvicorn's own class calls every refusal an error
        assert [each for each in caplog.records if each.levelname not in ("DEBUG", "INFO")] == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "dropped"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "bad-response"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", "bad-response"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "bad-response"),
        (b"SSH-2.0\r\n", "bad-response"),
        (b"\x00" * 100_000, "bad-response"),
    ],
)
async def test_what_is_no_handshake_is_a_fault_before_the_visitor_is_accepted(
    carrier: str, answer: bytes, reason: str
) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer)

    async with path_to(script, ws=CARRIERS[carrier]) as (server, app, _):
        with pytest.raises(InvalidStatus):
            async with Stage(server, app).visit():
                pass
        assert [fault.reason for fault in app.faults] == [reason]


async def test_a_sandbox_that_is_not_there_is_unreachable(carrier: str) -> None:
    async def script(wire: Wire) -> None:
        pass

    async with path_to(script, ws=CARRIERS[carrier]) as (server, app, _):
        app.address = UnixAddress(path=app.address.path + "x", uid=app.address.uid)
        with pytest.raises(InvalidStatus):
            async with Stage(server, app).visit():
                pass
        assert [fault.reason for fault in app.faults] == ["unreachable"]


async def test_pings_are_answered_and_are_no_activity(stage: Staging) -> None:
    async with stage(hold) as found, found.visit() as visitor:
        async with asyncio.timeout(10):
            await (await visitor.ping())
        await eventually(lambda: len(found.sockets) == 1)
        async with asyncio.timeout(10):
            await (await found.sockets[0].ping())
        assert found.app.messages == 0


async def test_a_flood_waits_for_a_visitor_who_does_not_read(stage: Staging) -> None:
    sent = 0

    async def flood(socket: ServerConnection) -> None:
        nonlocal sent
        while True:
            await socket.send(b"x" * 10_000)
            sent += 1

    async with stage(flood) as found, found.visit(sock=await found.server.socket(small=True)) as visitor:
        await visitor.recv()
        visitor.transport.pause_reading()
        before = -1
        async with asyncio.timeout(10):
            while before != sent:
                before = sent
                await asyncio.sleep(0.15)
        held = [each.transport.get_write_buffer_size() for each in found.server.state.connections]
        assert sum(held) < 256 * 1024
        visitor.transport.abort()
        await eventually(lambda: found.app.running == 0)


async def test_a_visitor_waits_for_a_sandbox_that_does_not_read(stage: Staging) -> None:
    free = asyncio.Event()

    async def deaf(socket: ServerConnection) -> None:
        await free.wait()
        await echo(socket)

    async with stage(deaf, max_queue=1) as found:
        visitor = await found.visit(sock=await found.server.socket(small=True))
        sent = [0]

        async def talk() -> None:
            while True:
                await visitor.send(b"x" * 10_000)
                sent[0] += 1

        talking = asyncio.create_task(talk())
        before = -1
        async with asyncio.timeout(10):
            while before != sent[0]:
                before = sent[0]
                await asyncio.sleep(0.15)
        assert sent[0] * 10_000 < 16 * MIB
        talking.cancel()
        found.app.relays[0].close(1001, "idle")
        await eventually(lambda: found.app.running == 0, within_s=3)
        await visitor.wait_closed()
        free.set()
