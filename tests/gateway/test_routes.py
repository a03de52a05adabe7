"""The route table, and the reports that keep what is in it alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

import pytest

from htagweb_gateway import app
from htagweb_gateway.app import Gateway
from htagweb_gateway.identity import Identity
from htagweb_gateway.routes import RouteTable
from htagweb_orchestrator.model import (
    AppName,
    Change,
    Ending,
    Platform,
    Refusal,
    Route,
    RouteChanged,
    RouteGone,
    SandboxId,
    Seen,
    Snapshot,
    State,
    UserId,
)

ALICE, CLOCK = UserId("alice"), AppName("clock")
ONE, OTHER = SandboxId("1" * 32), SandboxId("2" * 32)


def route(sandbox: SandboxId, state: State, ending: Ending | None = None) -> Route:
    return Route(user=ALICE, app=CLOCK, sandbox=sandbox, state=state, ending=ending)


class Table(RouteTable):
    def __init__(self) -> None:
        self.ended: list[tuple[SandboxId, str]] = []
        super().__init__(on_platform=lambda platform: None, on_ended=lambda *end: self.ended.append(end))

    def now(self) -> tuple[SandboxId, State] | None:
        found = self.get(ALICE, CLOCK)
        return (found.sandbox, found.state) if found else None


@pytest.mark.parametrize("later", [State.READY, State.ENDED])
def test_an_answer_that_comes_late_does_not_take_back_what_the_watch_said(later: State) -> None:
    table = Table()
    table.apply(RouteChanged(route=route(ONE, later)))
    table.learn(route(ONE, State.STARTING))
    assert table.now() == (ONE, later)


def test_an_answer_that_is_ahead_of_the_watch_counts() -> None:
    table = Table()
    table.apply(RouteChanged(route=route(ONE, State.ENDED, Ending.IDLE)))
    table.learn(route(OTHER, State.STARTING))
    assert table.now() == (OTHER, State.STARTING)
    table.learn(route(OTHER, State.READY))
    assert table.now() == (OTHER, State.READY)


def test_what_talks_to_a_sandbox_is_told_of_its_end_once_and_with_the_reason() -> None:
    table = Table()
    table.apply(RouteChanged(route=route(ONE, State.READY)))
    table.apply(RouteChanged(route=route(ONE, State.ENDED, Ending.IDLE)))
    table.apply(RouteGone(user=ALICE, app=CLOCK))
    assert table.ended == [(ONE, "idle")]


def test_a_snapshot_ends_what_is_not_in_it_any_more() -> None:
    table = Table()
    table.apply(RouteChanged(route=route(ONE, State.READY)))
    table.apply(Snapshot(platform=Platform(), apps=(), routes=(route(ONE, State.READY),)))
    assert table.ended == []
    table.apply(Snapshot(platform=Platform(), apps=(), routes=()))
    assert table.ended == [(ONE, "gone")]


def test_a_snapshot_that_does_not_know_what_runs_takes_nothing_away() -> None:
    table = Table()
    table.apply(RouteChanged(route=route(ONE, State.READY)))
    table.apply(Snapshot(platform=Platform(dev=True), apps=(), routes=(), complete=False))
    assert table.now() == (ONE, State.READY)
    assert table.ended == []
    assert table.platform.dev
    assert (table.filled, table.complete) == (True, False)
    table.apply(Snapshot(platform=Platform(dev=True), apps=(), routes=()))
    assert table.ended == [(ONE, "gone")]
    assert table.complete


class Orchestrator:
    """Takes reports, but stumbles over the second one."""

    def __init__(self) -> None:
        self.reports: list[dict[SandboxId, Seen]] = []
        self.third = asyncio.Event()

    async def activity(self, gateway: str, seen: Mapping[SandboxId, Seen], refused: Sequence[Refusal] = ()) -> None:
        self.reports.append(dict(seen))
        if len(self.reports) == 2:
            raise RuntimeError("something that nobody thought of")
        if len(self.reports) == 3:
            self.third.set()

    async def watch(self, gateway: str) -> AsyncGenerator[Change, None]:
        yield Snapshot(platform=Platform(), apps=(), routes=(route(ONE, State.READY),))
        await asyncio.Event().wait()


async def test_a_report_that_fails_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "FLUSH_S", 0.01)
    orchestrator = Orchestrator()
    gateway = Gateway(orchestrator=orchestrator, identity=Identity(bytes(32)))  # type: ignore[arg-type]
    gateway.activity.meter(ONE).touch()
    async with gateway.running():
        gateway.activity.meter(ONE).sockets = 1
        async with asyncio.timeout(5):
            while not orchestrator.third.is_set():
                gateway.activity.meter(ONE).touch()
                await asyncio.sleep(0.005)
    assert all(ONE in report for report in orchestrator.reports)
