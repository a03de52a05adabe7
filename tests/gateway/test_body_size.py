"""A body above `body_size` is refused: before the sandbox hears of it where the head says so, else once it shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from htagweb_gateway.app import Gateway
from htagweb_gateway.identity import Identity
from htagweb_gateway.protocol import FrontProtocol
from htagweb_orchestrator.model import Platform, Snapshot

from .scripted import HELLO, OK, Sandbox, Script, Server, Wire, eventually, gateway, get, sandbox
from .test_passes import ALICE, CARDS, CLOCK, Orchestrator, _route, site

SIZE = 1000
CHUNKED = b"Transfer-Encoding: chunked"


class Stage:
    def __init__(self, server: Server, found: Sandbox, cookie: bytes) -> None:
        self._server = server
        self.sandbox = found
        self._cookie = cookie

    async def post(self, framing: bytes, body: bytes = b"", *more: bytes) -> Wire:
        wire = await self._server.connect()
        fields = (b"Cookie: " + self._cookie, b"Origin: http://test", framing, *more)
        wire.write(get(b"/clock/up", *fields, method=b"POST") + body)
        return wire


@asynccontextmanager
async def stage(
    script: Script, *, size: int = SIZE, protocol: type[FrontProtocol | H11Protocol] = FrontProtocol
) -> AsyncIterator[Stage]:
    async with sandbox(script) as found:
        routes = [_route(ALICE, CLOCK, "1", found.address)]
        orchestrator, identity = Orchestrator(routes), Identity(bytes(32))
        orchestrator.changes.put_nowait(Snapshot(platform=Platform(body_size=size), apps=CARDS, routes=tuple(routes)))
        app = Gateway(orchestrator=orchestrator, identity=identity)  # type: ignore[arg-type]
        async with app.running(), gateway(app, protocol) as server:
            await eventually(lambda: app.routes.platform.body_size == size and app.routes.complete)
            yield Stage(server, found, identity.issue("http", ALICE).partition(";")[0].encode())


async def taking(wire: Wire) -> None:
    """A sandbox that answers once it has the whole body."""
    while True:
        head = await wire.head()
        if b"chunked" in head:
            await wire.reader.readuntil(b"0\r\n\r\n")
        else:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await wire.exactly(length)
        await wire.send(HELLO)


def chunks(*sizes: int, last: bool = True) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes) + (b"0\r\n\r\n" if last else b"")


both_servers = pytest.mark.parametrize("protocol", [FrontProtocol, H11Protocol], ids=["ours", "h11"])


@both_servers
async def test_a_length_above_the_limit_is_refused_before_the_sandbox_is_dialled(
    protocol: type[FrontProtocol | H11Protocol],
) -> None:
    async with stage(taking, protocol=protocol) as at:
        for body in (b"", b"x" * (SIZE + 1)):  # and with `Expect`, nobody asks for the body
            wire = await at.post(b"Content-Length: %d" % (SIZE + 1), body, b"Expect: 100-continue")
            answer = await wire.response()
            assert (answer.status, answer.header(b"x-htagweb")) == (413, b"too-large")
            assert b'"title":"This server takes 1,000 bytes in one request, not more."' in answer.body
        assert at.sandbox.wires == []


@both_servers
async def test_a_body_of_just_the_size_passes(protocol: type[FrontProtocol | H11Protocol]) -> None:
    async with stage(taking, protocol=protocol) as at:
        for framing, body in (
            (b"Content-Length: %d" % SIZE, b"x" * SIZE),
            (CHUNKED, chunks(SIZE - 1, 1)),
            (CHUNKED, chunks()),
        ):
            assert (await (await at.post(framing, body)).response()).body == b"hello"


@both_servers
@pytest.mark.parametrize("last", [True, False])
async def test_a_chunked_body_is_counted(last: bool, protocol: type[FrontProtocol | H11Protocol]) -> None:
    ended: list[bytes] = []

    async def script(wire: Wire) -> None:
        ended.append(await wire.rest())

    async with stage(script, protocol=protocol) as at:
        wire = await at.post(CHUNKED, chunks(600, 400, 1, last=last))
        answer = await wire.response()
        assert (answer.status, answer.header(b"x-htagweb")) == (413, b"too-large")
        await eventually(lambda: not at.sandbox.running)
        assert not any(each.endswith(b"0\r\n\r\n") for each in ended)  # nowhere it looks complete


async def test_a_chunked_body_is_cut_off_while_it_is_being_answered() -> None:
    ended = asyncio.Event()

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await wire.closed(within_s=5)
        ended.set()

    async with stage(script) as at:
        wire = await at.post(CHUNKED, chunks(SIZE, last=False))
        await wire.reader.readuntil(b"hello")
        await wire.send(chunks(1, last=False))
        assert not (await wire.rest(within_s=2)).endswith(b"0\r\n\r\n")
        async with asyncio.timeout(10):
            await ended.wait()


async def test_whoever_sends_a_form_off_gets_a_page() -> None:
    async with stage(taking) as at:
        answer = await (await at.post(b"Content-Length: 5000", b"", b"Accept: text/html")).response()
        assert answer.status == 413
        assert b"This server takes 1,000 bytes in one request" in answer.body
        assert (answer.header(b"content-type") or b"").startswith(b"text/html")


async def test_without_a_limit_there_is_none() -> None:
    async with stage(taking, size=0) as at:
        for framing, body in ((b"Content-Length: 1000000", b"x" * 1_000_000), (CHUNKED, chunks(*[10_000] * 10))):
            assert (await (await at.post(framing, body)).response()).body == b"hello"


async def test_a_new_limit_counts_for_what_passed_before_it() -> None:
    async with site() as at:
        for judged in (True, True, False):
            assert (await at.ask(at.post()))[::2] == (200, judged)
        routes = tuple(at.orchestrator.routes.values())
        await at.change(Snapshot(platform=Platform(body_size=1), apps=CARDS, routes=routes))
        for _ in range(3):
            assert (await at.ask(at.post()))[::2] == (413, True)
