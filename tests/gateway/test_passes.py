"""Only the very same request passes unjudged, and only as long as nothing that decided has changed."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import pytest

from htagweb_gateway import heads, passes
from htagweb_gateway.app import Gateway
from htagweb_gateway.exchange import Message, Receive, Send
from htagweb_gateway.identity import Identity
from htagweb_gateway.passes import Passes
from htagweb_orchestrator.model import (
    AppCard,
    AppName,
    AppsChanged,
    Change,
    Person,
    Platform,
    Refusal,
    Route,
    RouteChanged,
    RouteGone,
    SandboxId,
    Seen,
    SignedOut,
    SignIn,
    Snapshot,
    State,
    UnixAddress,
    UserId,
    sign_in_id,
)

from .scripted import Server, Wire, eventually, gateway, get, sandbox

USERS = ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("carol")
SIGN_IN = SignIn(id=sign_in_id("secret"), person=Person(id=CAROL), method="password", left_s=100.0)
CLOCK, CHESS = AppName("clock"), AppName("chess")
CARDS = tuple(AppCard(name=name, title=name.title()) for name in (CLOCK, CHESS))


class Orchestrator:
    """Knows what runs, starts nothing, and says what the test says."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = {(route.user, route.app): route for route in routes}
        self.changes: asyncio.Queue[Change] = asyncio.Queue()

    async def find(self, user: UserId, app: AppName) -> Route | None:
        return self.routes.get((user, app))

    async def activity(self, gateway: str, seen: Mapping[SandboxId, Seen], refused: Sequence[Refusal] = ()) -> None:
        pass

    async def watch(self, gateway: str) -> AsyncGenerator[Change, None]:
        yield Snapshot(platform=Platform(), apps=CARDS, routes=tuple(self.routes.values()), sign_ins=(SIGN_IN,))
        while True:
            yield await self.changes.get()


class Counting(Gateway):
    judged = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.judged += 1
        await super().__call__(scope, receive, send)


class Site:
    """A gateway with a sandbox for each user and app; each answers with its owner and what it was asked."""

    def __init__(self, server: Server, app: Counting, orchestrator: Orchestrator, cookies: Mapping[UserId, bytes]):
        self.server = server
        self.app = app
        self.orchestrator = orchestrator
        self.cookies = cookies
        self.wire: Wire

    def post(self, user: UserId = ALICE, name: AppName = CLOCK, *more: bytes, host: bytes = b"test") -> bytes:
        origin = more or (b"Origin: http://" + host,)
        request = get(
            b"/%b/" % name.encode(),
            b"Cookie: other=1; " + self.cookies[user],
            b"Content-Length: 2",
            *origin,
            method=b"POST",
        )
        return request.replace(b"Host: test", b"Host: " + host) + b"hi"

    async def ask(self, request: bytes) -> tuple[int, bytes, bool]:
        """Status and body of the answer, and whether the request was judged."""
        before = self.app.judged
        await self.wire.send(request)
        response = await self.wire.response()
        return response.status, response.body, self.app.judged > before

    async def change(self, change: Change) -> None:
        self.orchestrator.changes.put_nowait(change)
        await eventually(self.orchestrator.changes.empty)
        await asyncio.sleep(0)


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    heads.read.cache_clear()

    def saying(owner: str) -> Callable[[Wire], Any]:
        async def script(wire: Wire) -> None:
            once = 0
            while True:
                head = await wire.head()
                said = owner.encode() + b"\n" + head
                if b"content-length: 2" in head:
                    said += await wire.exactly(2)
                if b"/once" in head:
                    once += 1
                    if once > 2:
                        await wire.closed(within_s=5)
                await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)

        return script

    async with (
        sandbox(saying("alice clock")) as a,
        sandbox(saying("alice chess")) as b,
        sandbox(saying("bob clock")) as c,
        sandbox(saying("carol clock")) as d,
    ):
        routes = [
            _route(ALICE, CLOCK, "1", a.address),
            _route(ALICE, CHESS, "2", b.address),
            _route(BOB, CLOCK, "3", c.address),
            _route(CAROL, CLOCK, "4", d.address),
        ]
        identity = Identity(bytes(32))
        orchestrator = Orchestrator(routes)
        app = Counting(orchestrator=orchestrator, identity=identity)  # type: ignore[arg-type]
        cookies = {user: identity.issue("http", user).partition(";")[0].encode() for user in USERS}
        cookies[CAROL] = identity.issue_to("http", "secret", life_s=100).partition(";")[0].encode()
        async with app.running(), gateway(app) as server:
            await eventually(lambda: app.routes.complete)
            found = Site(server, app, orchestrator, cookies)
            found.wire = await server.connect()
            yield found


def _route(user: UserId, app: AppName, digit: str, address: UnixAddress | None) -> Route:
    return Route(user=user, app=app, sandbox=SandboxId(digit * 32), state=State.READY, address=address)


async def test_the_very_same_request_is_judged_once() -> None:
    async with site() as at:
        first = await at.ask(at.post())
        assert first == await at.ask(at.post())  # most heads come once, so there is no pass before the second time
        assert first[0] == 200
        assert first[2]
        for _ in range(3):
            assert await at.ask(at.post()) == (*first[:2], False)
        at.wire = await at.server.connect()  # another connection of the same browser
        assert await at.ask(at.post()) == (*first[:2], False)
        meter = at.app.activity.meter(SandboxId("1" * 32))
        meter.last = 0.0
        await at.ask(at.post())
        assert meter.last > 0


async def test_any_other_request_is_judged_by_itself() -> None:
    async with site() as at:
        for _ in range(3):
            assert (await at.ask(at.post()))[1].startswith(b"alice clock")
        for request, status, owner in (
            (at.post(BOB), 200, b"bob clock"),
            (at.post(ALICE, CHESS), 200, b"alice chess"),
            (at.post(BOB, CHESS), 503, b""),
            (at.post(ALICE, CLOCK, b"Origin: http://evil"), 403, b""),
            (at.post(host=b"elsewhere"), 200, b"alice clock"),
            (at.post().replace(b"POST", b"PUT"), 200, b"alice clock"),
            (at.post().replace(b"/clock/ ", b"/clock/x "), 200, b"alice clock"),
            (at.post().replace(at.cookies[ALICE], at.cookies[ALICE][:-2]), 403, b""),
        ):
            assert await _judged(at, request) == (status, owner)
        assert await at.ask(at.post()) == (200, (await at.ask(at.post()))[1], False)


async def _judged(at: Site, request: bytes) -> tuple[int, bytes]:
    status, body, judged = await at.ask(request)
    assert judged
    return status, body.partition(b"\n")[0] if status == 200 else b""


async def test_a_request_from_another_address_is_another_one() -> None:
    async with site() as at:
        for _ in range(3):
            _, body, _ = await at.ask(at.post())
            assert b"x-forwarded-for: 127.0.0.1\r\n" in body
        sock = socket.socket()
        sock.bind(("127.0.0.2", 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", at.server.port))
        at.wire = Wire(*await asyncio.open_connection(sock=sock))
        at.server.visitors.append(at.wire)
        _, body, judged = await at.ask(at.post())
        assert judged
        assert b"x-forwarded-for: 127.0.0.2\r\n" in body


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (AppsChanged(apps=CARDS), 200),
        (AppsChanged(apps=CARDS[1:]), 404),
        (Snapshot(platform=Platform(public_url="https://other.example"), apps=CARDS, routes=()), 421),
        (RouteChanged(route=_route(ALICE, CLOCK, "4", UnixAddress(path="/nowhere", uid=0))), 503),
        (RouteGone(user=ALICE, app=CLOCK), 503),
    ],
)
async def test_a_change_of_what_decides_ends_what_was_let_through(change: Change, status: int) -> None:
    async with site() as at:
        for judged in (True, True, False):
            assert (await at.ask(at.post()))[::2] == (200, judged)
        if status == 503:
            del at.orchestrator.routes[ALICE, CLOCK]
        await at.change(change)
        assert (await at.ask(at.post()))[::2] == (status, True)


async def test_who_signed_out_does_not_pass() -> None:
    async with site() as at:
        for judged in (True, True, False):
            assert (await at.ask(at.post(CAROL)))[::2] == (200, judged)
        at.app.identity.sign_ins.end((SIGN_IN.id,))  # as by this worker's own /-/logout: nobody else has told yet
        assert (await at.ask(at.post(CAROL)))[::2] == (403, True)


async def test_who_signs_out_while_a_request_runs_gets_no_answer_any_more() -> None:
    async with site() as at:
        once = at.post(CAROL).replace(b"/clock/ ", b"/clock/once ")
        for _ in range(2):
            assert (await at.ask(once))[::2] == (200, True)
        await at.wire.send(once)  # the sandbox doesn't answer that
        await eventually(lambda: bool(at.app.identity.sign_ins._open))
        assert at.app.judged == 2
        await at.change(SignedOut(ids=(SIGN_IN.id,)))
        assert await at.wire.rest(within_s=1) == b""
        assert not at.app.identity.sign_ins._open


async def test_a_pass_is_good_for_a_while_only() -> None:
    now = 100.0
    async with site() as at:
        at.app._passes = Passes(at.app.routes, at.app.identity.sign_ins, clock=lambda: now)
        for _ in range(2):
            await at.ask(at.post())
        now += passes.SECONDS - 1
        assert not (await at.ask(at.post()))[2]
        now += 1
        assert (await at.ask(at.post()))[2]


async def test_no_more_is_remembered_than_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "REMEMBERED", 3)
    async with site() as at:
        for number in range(10):
            for _ in range(2):
                await at.ask(at.post(ALICE, CLOCK, b"X: %d" % number, b"Origin: http://test"))
        assert len(at.app._passes._passes) == 3
        assert not (await at.ask(at.post(ALICE, CLOCK, b"X: 9", b"Origin: http://test")))[2]


async def test_a_request_that_passes_takes_few_steps() -> None:
    """A figure that no busy machine changes: how many functions of the gateway are called for one."""
    async with site() as at:
        for _ in range(3):
            await at.ask(at.post())
        called: list[str] = []

        def note(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and "htagweb_gateway" in frame.f_code.co_filename:
                called.append(frame.f_code.co_name)

        sys.setprofile(note)
        try:
            assert not (await at.ask(at.post()))[2]
        finally:
            sys.setprofile(None)
        assert "data_received" in called
        assert len(called) <= 50, called
