"""What only bytes that are passed on as they are can show; the rest of WebSockets is tested in test_relay."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection

from htagweb_gateway.door import FrontWebSocket
from htagweb_gateway.frames import close_frame

from .scripted import Front, Server, Wire, eventually, gateway, get, path_to, sandbox
from .sockets import (
    BINARY,
    CLOSE,
    HANDSHAKE,
    MORE,
    PING,
    PONG,
    TEXT,
    accept_of,
    frame,
    greet,
    open_socket,
    switching,
    websocket_sandbox,
)

BOTH_LOOPS = True
BYE = close_frame(1001, "idle", masked=False)


class Pair:
    """A visitor and a sandbox, each by hand, and the gateway between them."""

    def __init__(self, visitor: Wire, inside: Wire, app: Front, server: Server) -> None:
        self.visitor = visitor
        self.inside = inside
        self.app = app
        self.server = server

    def close(self) -> None:
        self.app.relays[0].close(1001, "idle")


@asynccontextmanager
async def pair(
    *chosen: bytes, offered: tuple[bytes, ...] = (), small: bool = False, **options: Any
) -> AsyncIterator[Pair]:
    ready: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def script(wire: Wire) -> None:
        await greet(wire, *chosen)
        ready.set_result(wire)
        await over.wait()

    async with sandbox(script) as found:
        app = Front(found.address)
        async with gateway(app, ws=FrontWebSocket, **options) as server:
            visitor = await server.connect(small=small)
            await open_socket(visitor, *offered)
            async with asyncio.timeout(10):
                inside = await ready
            try:
                yield Pair(visitor, inside, app, server)
            finally:
                over.set()


# Bytes


@pytest.mark.parametrize("seed", range(3))
async def test_every_byte_passes_as_it_is_whatever_the_pieces(seed: int) -> None:
    chance = random.Random(seed)

    def talk(*, masked: bool) -> bytes:
        said = b""
        for _ in range(100):
            payload = chance.randbytes(chance.choice([0, 1, 70, 125, 126, 127, 4000, 65535, 65536]))
            said += chance.choice(
                [
                    frame(TEXT, payload, masked=masked),
                    frame(BINARY, payload, fin=False, masked=masked)
                    + frame(PING, payload[:125], masked=masked)
                    + frame(MORE, payload, masked=masked),
                    frame(PONG, payload[:125], masked=masked),
                ]
            )
        return said

    async def say(wire: Wire, said: bytes) -> None:
        while said:
            size = chance.choice([1, 2, 3, 13, 1000, 100_000])
            await wire.send(said[:size])
            said = said[size:]
            if chance.random() < 0.5:
                await asyncio.sleep(0)

    async with pair() as both:
        up, down = talk(masked=True), talk(masked=False)
        async with asyncio.TaskGroup() as at_once:
            at_once.create_task(say(both.visitor, up))
            at_once.create_task(say(both.inside, down))
            at_inside = at_once.create_task(both.inside.exactly(len(up)))
            at_visitor = at_once.create_task(both.visitor.exactly(len(down)))
        assert at_inside.result() == up
        assert at_visitor.result() == down


async def test_the_two_ends_agree_on_compression_between_themselves() -> None:
    async def echo(websocket: ServerConnection) -> None:
        async for message in websocket:
            await websocket.send([message, f" by {websocket.protocol.extensions[0].name}"])

    async with websocket_sandbox(echo) as address, gateway(Front(address), ws=FrontWebSocket) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/app/ws", proxy=None) as visitor:
            await visitor.send("x" * 100_000)
            assert await visitor.recv() == "x" * 100_000 + " by permessage-deflate"
    async with (
        websocket_sandbox(hold, compression=None) as address,
        gateway(Front(address), ws=FrontWebSocket) as server,
    ):
        async with connect(f"ws://127.0.0.1:{server.port}/app/ws", proxy=None) as visitor:
            assert visitor.protocol.extensions == []


async def hold(websocket: ServerConnection) -> None:
    await websocket.wait_closed()


async def test_a_ping_goes_all_the_way_and_is_no_activity() -> None:
    async with pair() as both:
        await both.visitor.send(frame(PING, b"there?"))
        assert await both.inside.exactly(12) == frame(PING, b"there?")
        assert both.app.messages == 0


async def test_more_than_ten_megabytes_pass_in_one_message() -> None:
    message = frame(BINARY, bytes(12 << 20))
    async with pair() as both:
        async with asyncio.TaskGroup() as at_once:
            at_once.create_task(both.visitor.send(message, within_s=20))
            arrived = at_once.create_task(both.inside.exactly(len(message), within_s=20))
        assert arrived.result() == message


# The handshake


async def test_the_sandbox_is_asked_in_the_browsers_words() -> None:
    heads: list[bytes] = []

    async def script(wire: Wire) -> None:
        heads.append(await greet(wire, b"Sec-WebSocket-Protocol: b", b"Sec-WebSocket-Extensions: permessage-deflate"))
        await wire.closed(within_s=5)

    offers = (
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other",
        b"Sec-WebSocket-Protocol: a, b",
    )
    async with path_to(script) as (server, _, _):
        answer = await open_socket(await server.connect(), *offers, b"X-Htag-User: root", b"Keep-Alive: 5")
    lines = heads[0].lower().split(b"\r\n")
    assert lines[0] == b"get /ws http/1.1"
    for line in (*HANDSHAKE, *offers):
        if not line.startswith(b"Connection"):
            assert lines.count(line.lower()) == 1
    assert [line for line in lines if line.startswith((b"connection", b"x-htag", b"keep-alive"))] == [
        b"connection: upgrade"
    ]
    assert answer.split(b"\r\n")[1:-2] == [
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",  # RFC 6455 1.3
        b"Sec-WebSocket-Protocol: b",
        b"Sec-WebSocket-Extensions: permessage-deflate",
    ]


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
async def test_what_the_sandbox_says_in_one_breath_with_its_answer_arrives(before: bytes) -> None:
    async def script(wire: Wire) -> None:
        head = await wire.head()
        await wire.send(before + switching(accept_of(head)) + frame(TEXT, b"hello", masked=False))
        await wire.closed(within_s=5)

    async with path_to(script) as (server, _, _):
        visitor = await server.connect()
        await open_socket(visitor)
        assert await visitor.exactly(7) == b"\x81\x05hello"


ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    "answer",
    [
        switching(b"kCTj7jbNh0sQKYCaZ4Xn8xNCLb8="),
        switching(ACCEPT.lower()),
        switching(ACCEPT, b"Sec-WebSocket-Accept: " + ACCEPT),
        switching(ACCEPT).replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        switching(ACCEPT).replace(b"Upgrade: websocket\r\n", b""),
        switching(ACCEPT).replace(b"Connection: Upgrade", b"Connection: close"),
        switching(ACCEPT).replace(b"HTTP/1.1", b"HTTP/1.0"),
        switching(ACCEPT, b"Content-Length: 5"),
        switching(ACCEPT, b"Transfer-Encoding: chunked"),
        switching(ACCEPT, b"Sec-WebSocket-Protocol: c"),
        switching(ACCEPT, b"Sec-WebSocket-Protocol: a", b"Sec-WebSocket-Protocol: b"),
        switching(ACCEPT, b"Sec-WebSocket-Protocol: a, b"),
        switching(ACCEPT, b"Sec-WebSocket-Extensions: x-other"),
        switching(ACCEPT, b"Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate"),
        switching(ACCEPT, b"Sec-WebSocket-Extensions: permessage-deflate; \xff"),
        switching(ACCEPT, b"X: y\r\n folded"),
        switching(ACCEPT, b"X: " + b"y" * 20_000),
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_quite_one_is_refused(answer: bytes) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer)
        await wire.closed(within_s=5)

    offers = b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Extensions: permessage-deflate"
    async with path_to(script) as (server, app, _):
        visitor = await server.connect()
        await visitor.send(get(b"/app/ws", *HANDSHAKE, *offers))
        assert (await visitor.response()).status == 502
        assert [fault.reason for fault in app.faults] == ["bad-response"]


async def test_a_browser_speaks_after_the_handshake_not_within() -> None:
    async def silent(wire: Wire) -> None:
        await wire.head()
        await wire.closed(within_s=5)

    async with path_to(silent) as (server, app, found):
        hasty = await server.connect()
        await hasty.send(get(b"/app/ws", *HANDSHAKE) + frame(TEXT, b"x"))
        assert (await hasty.response()).status == 400
        early = await server.connect()
        await early.send(get(b"/app/ws", *HANDSHAKE))
        await eventually(lambda: len(found.wires) == 1)
        await early.send(frame(TEXT, b"x"))
        assert await early.rest(within_s=1) == b""
        await eventually(lambda: app.running == 0)


async def test_who_leaves_within_the_handshake_lets_the_sandbox_go_at_once(caplog: pytest.LogCaptureFixture) -> None:
    left = asyncio.Event()

    async def silent(wire: Wire) -> None:
        await wire.head()
        await wire.closed(within_s=5)
        left.set()

    async with path_to(silent) as (server, app, found):
        visitor = await server.connect()
        await visitor.send(get(b"/app/ws", *HANDSHAKE))
        await eventually(lambda: len(found.wires) == 1)
        visitor.abort()
        async with asyncio.timeout(10):
            await left.wait()
        await eventually(lambda: app.running == 0)
    assert [each for each in caplog.records if each.levelname not in ("DEBUG", "INFO")] == []


# Endings


async def test_an_ending_waits_for_the_end_of_the_frame_that_is_on_its_way() -> None:
    message = frame(BINARY, bytes(1000), masked=False)
    async with pair() as both:
        await both.inside.send(message[:500])
        assert await both.visitor.exactly(500) == message[:500]
        both.close()
        assert await both.inside.exactly(12) != b""  # the sandbox hears of it at once
        await both.inside.send(message[500:] + frame(TEXT, b"too late", masked=False))
        assert await both.visitor.rest() == message[500:] + BYE


async def test_a_frame_that_does_not_end_is_cut_and_no_goodbye_gets_into_it() -> None:
    message = frame(BINARY, bytes(1000), masked=False)
    async with pair() as both:
        await both.inside.send(message[:500])
        assert await both.visitor.exactly(500) == message[:500]
        both.close()
        assert await both.visitor.rest(within_s=1.8) == b""


async def test_a_sandbox_that_dies_in_mid_frame_breaks_the_visitors_socket() -> None:
    message = frame(BINARY, bytes(1000), masked=False)
    async with pair() as both:
        await both.inside.send(message[:500])
        assert await both.visitor.exactly(500) == message[:500]
        both.inside.abort()
        assert await both.visitor.rest(within_s=0.8) == b""


async def test_a_visitor_who_dies_in_mid_frame_breaks_the_sandboxs_socket() -> None:
    async with pair() as both:
        await both.visitor.send(frame(BINARY, bytes(1000))[:500])
        await both.inside.exactly(500)
        both.visitor.abort()
        assert await both.inside.rest(within_s=0.8) == b""


async def test_half_a_header_never_stands_in_the_way_of_a_goodbye() -> None:
    async with pair() as both:
        await both.inside.send(frame(BINARY, bytes(1000), masked=False)[:3])
        await both.visitor.send(frame(BINARY, bytes(1000))[:7])
        await both.visitor.send(b"")
        both.close()
        assert await both.visitor.rest(within_s=1.8) == BYE


async def test_a_goodbye_is_said_once() -> None:
    async with pair() as both:
        await both.inside.send(frame(CLOSE, b"\x03\xe8", masked=False))
        assert await both.visitor.exactly(4) == b"\x88\x02\x03\xe8"
        both.close()
        assert await both.visitor.rest(within_s=1.8) == b""


async def test_a_visitor_who_is_gone_by_then_needs_no_goodbye(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as both:
        await both.inside.send(frame(CLOSE, b"\x03\xe8", masked=False))
        assert await both.visitor.exactly(4) == b"\x88\x02\x03\xe8"
        both.visitor.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        both.visitor.abort()
        await asyncio.sleep(0)  # the kernel knows, and the gateway hasn't looked yet
        both.close()
        await both.inside.rest(within_s=1.8)
        await eventually(lambda: both.app.running == 0)
    assert [each for each in caplog.records if each.levelname not in ("DEBUG", "INFO")] == []


async def test_after_a_goodbye_nothing_counts_or_passes() -> None:
    async with pair() as both:
        await both.visitor.send(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"more"))
        assert await both.inside.exactly(8) == frame(CLOSE, b"\x03\xe8")
        await both.inside.send(frame(TEXT, b"last words", masked=False) + frame(CLOSE, b"\x03\xe8", masked=False))
        assert await both.visitor.rest() == frame(TEXT, b"last words", masked=False) + b"\x88\x02\x03\xe8"
        assert await both.inside.rest() == b""
        assert both.app.messages == 0


async def test_the_slow_get_what_a_sandbox_said_before_it_left() -> None:
    message = frame(BINARY, bytes(300_000), masked=False)
    async with pair(small=True) as both:
        both.visitor.transport.pause_reading()  # type: ignore[attr-defined]
        await both.inside.send(message + frame(CLOSE, b"\x03\xe8", masked=False))
        both.inside.writer.close()
        await asyncio.sleep(1.2)  # longer than a goodbye may take
        both.visitor.transport.resume_reading()  # type: ignore[attr-defined]
        assert await both.visitor.rest() == message + frame(CLOSE, b"\x03\xe8", masked=False)


# Hostile framing

BAD = {
    "masked the wrong way": lambda masked: frame(TEXT, b"xxxx", masked=not masked),
    "reserved opcode": lambda masked: frame(3, b"xxxx", masked=masked),
    "reserved bit": lambda masked: frame(TEXT, b"xxxx", masked=masked, reserved=0x40),
    "long ping": lambda masked: frame(PING, bytes(126), masked=masked),
    "no beginning": lambda masked: frame(MORE, b"xxxx", masked=masked),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("by_visitor", [True, False])
async def test_what_is_no_frame_ends_both_sides(name: str, by_visitor: bool) -> None:
    reason = "this is no WebSocket frame"
    async with pair() as both:
        good, bad = frame(TEXT, b"good", masked=by_visitor), BAD[name](by_visitor)
        sender = both.visitor if by_visitor else both.inside
        await sender.send(good + bad + b"\x00" * 100_000)
        at_visitor = await both.visitor.rest(within_s=2)
        at_inside = await both.inside.rest(within_s=2)
        assert at_visitor == (b"" if by_visitor else good) + close_frame(1002, reason, masked=False)
        said = close_frame(1002, reason, masked=True)
        assert at_inside.startswith((good if by_visitor else b"") + said[:2])
        assert len(at_inside) == (len(good) if by_visitor else 0) + len(said)


async def test_an_extension_may_use_the_reserved_bits() -> None:
    deflate = b"Sec-WebSocket-Extensions: permessage-deflate"
    async with pair(deflate, offered=(deflate,)) as both:
        message = frame(TEXT, b"xxxx", reserved=0x40)
        await both.visitor.send(message)
        assert await both.inside.exactly(len(message)) == message


@pytest.mark.parametrize("opcode", [TEXT, PING])
async def test_a_flood_of_small_frames_ends_it(opcode: int) -> None:
    async with pair() as both:
        await both.visitor.send(frame(opcode) * 50_000)
        reason = close_frame(1008, "too many messages", masked=False)
        assert await both.visitor.rest(within_s=2) == reason
        passed = await both.inside.rest(within_s=2)
        assert 2000 <= passed.count(frame(opcode)) < 10_000


# Who is still there


async def test_who_does_not_answer_a_ping_is_given_up() -> None:
    async with pair(ws_ping_interval=0.2, ws_ping_timeout=0.2) as both:
        assert await both.visitor.rest(within_s=2) == b"\x89\x00"
        assert (await both.inside.rest(within_s=2))[0] == 0x88


async def test_who_answers_pings_stays_and_so_does_who_speaks() -> None:
    async with pair(ws_ping_interval=0.1, ws_ping_timeout=0.1) as both:
        for _ in range(4):
            assert await both.visitor.exactly(2) == b"\x89\x00"
            await both.visitor.send(frame(PONG))
            assert await both.inside.exactly(6) == frame(PONG)
        assert both.app.messages == 0
        assert both.app.running == 1


async def test_a_ping_never_gets_into_a_frame() -> None:
    message = frame(BINARY, bytes(1000), masked=False)
    async with pair(ws_ping_interval=0.1, ws_ping_timeout=0.1) as both:
        await both.inside.send(message[:500])
        await asyncio.sleep(0.4)
        await both.inside.send(message[500:])
        assert await both.visitor.exactly(1000 + 4) == message


async def test_a_visitor_who_leaves_while_the_sandbox_does_not_read_is_noticed() -> None:
    async with pair(small=True) as both:
        both.inside.transport.pause_reading()  # type: ignore[attr-defined]
        sent = [0]

        async def talk() -> None:
            while True:
                await both.visitor.send(frame(BINARY, bytes(60_000)), within_s=30)
                sent[0] += 1

        talking = asyncio.create_task(talk())
        before = -1
        async with asyncio.timeout(10):
            while before != sent[0]:
                before = sent[0]
                await asyncio.sleep(0.15)
        talking.cancel()
        both.visitor.reset()
        await eventually(lambda: both.app.running == 0, within_s=2.5)
