"""An interaction that takes too long ends its sandbox, whether the harness says so or nothing at all; work that said
that it takes long has its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from htagweb_orchestrator import control, starter
from htagweb_orchestrator.model import Ending, Route, State
from htagweb_orchestrator.registry import Lease
from tests.orchestrator.harness import Frame, Harness
from tests.orchestrator.stage import ALICE, BOB, HELLO, Plane, Stage, eventually

LIMIT_S = 20.0


class StopsAnswering(Harness):
    """As one whose handler keeps the interpreter for itself."""

    async def _hear(self, frame: Frame, reader: asyncio.StreamReader) -> None:
        if frame["type"] != "ping":
            await super()._hear(frame, reader)


class HangsUpForGood(StopsAnswering):
    async def on_claim(self, claim: Frame) -> None:
        await super().on_claim(claim)
        self.refuse_connections()
        self.hang_up()


class ClaimsForever(Harness):
    async def on_claim(self, claim: Frame) -> None:
        pass


class OverrunsAtClaim(Harness):
    async def on_claim(self, claim: Frame) -> None:
        self.say(type="output", text="It was here: line 7\n", dropped=0)
        self.say(type="timeout")


@pytest.fixture
async def plane(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Plane:
    monkeypatch.setattr(control, "TICK_S", 0.005)
    stage.limit("hello", interaction_timeout_s=LIMIT_S, busy_max_s=100.0)
    plane = await stage.open()
    await plane.gateway()
    return plane


async def passing(stage: Stage, plane: Plane, seconds: float, *, until: Callable[[], bool] = lambda: False) -> float:
    """Let time pass in steps that each round of the reaper sees, until something is so; return how much passed."""
    passed_s = 0.0
    while passed_s < seconds and not until():
        stage.clock.forward(0.5)
        passed_s += 0.5
        begun = plane.rounds + 1
        await eventually(lambda: plane.rounds > begun)  # noqa: B023
    return passed_s


def is_ended(plane: Plane, route: Route) -> Callable[[], bool]:
    return lambda: not any(each.id == route.sandbox and each.ending is None for each in plane.sandboxes())


async def test_the_harness_says_that_an_interaction_overran(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    harness = stage.harness(route)
    harness.say(type="timeout")
    ended = await plane.until_ended(ALICE, HELLO)
    assert (ended.ending, ended.detail) == (Ending.TIMEOUT, "one interaction took longer than 20 seconds")
    await eventually(lambda: stage.nothing_left_of(route.sandbox))
    assert harness.heard_of("end")["reason"] == "timeout"


@pytest.mark.parametrize("script", [StopsAnswering, HangsUpForGood])
async def test_one_that_does_not_answer_is_ended_and_no_other(
    stage: Stage, plane: Plane, script: type[Harness]
) -> None:
    other = await plane.until_ready(BOB, HELLO)
    stage.machine.next(script)
    route = await plane.until_ready(ALICE, HELLO)
    passed_s = await passing(stage, plane, 60, until=is_ended(plane, route))
    assert LIMIT_S < passed_s < LIMIT_S + 8
    ended = await plane.until_ended(ALICE, HELLO)
    assert (ended.ending, ended.detail) == (Ending.TIMEOUT, "it did not answer for 20 seconds")
    await eventually(lambda: stage.nothing_left_of(route.sandbox))
    assert (await plane.lease(BOB, HELLO)).sandbox == other.sandbox


async def test_one_that_answers_late_but_in_time_goes_on(stage: Stage, plane: Plane) -> None:
    class AnswersLate(Harness):
        waiting: Frame | None = None

        async def _hear(self, frame: Frame, reader: asyncio.StreamReader) -> None:
            if frame["type"] == "ping":
                self.waiting = frame
            else:
                await super()._hear(frame, reader)

    stage.machine.next(AnswersLate)
    route = await plane.until_ready(ALICE, HELLO)
    harness = stage.machine.harness(route.sandbox, AnswersLate)
    for _ in range(3):
        await passing(stage, plane, 60, until=lambda: harness.waiting is not None)
        await passing(stage, plane, LIMIT_S - 2)
        assert harness.waiting is not None
        harness.say(type="ping", n=harness.waiting["n"])
        harness.waiting = None
    assert not is_ended(plane, route)()


async def test_a_machine_that_slept_proves_nothing(stage: Stage, plane: Plane) -> None:
    stage.machine.next(StopsAnswering)
    route = await plane.until_ready(ALICE, HELLO)
    stage.clock.forward(300)
    await passing(stage, plane, 5)
    assert not is_ended(plane, route)()


async def test_an_init_that_overruns_is_a_start_that_failed_and_says_so(stage: Stage, plane: Plane) -> None:
    stage.machine.next(OverrunsAtClaim)
    route = await plane.lease(ALICE, HELLO, wait_s=5)
    assert (route.ending, route.detail) == (
        Ending.FAILED,
        "Hello took longer than 20 seconds over its first page.",
    )
    assert "line 7" in plane.operators.logs(route.sandbox)[route.sandbox]


async def test_a_first_page_that_never_comes_fails_the_start_too(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "SLOW_S", 0.1)
    stage.limit("hello", interaction_timeout_s=0.2)
    plane = await stage.open()
    stage.machine.next(ClaimsForever)
    route = await plane.lease(ALICE, HELLO, wait_s=5)
    assert (route.ending, route.detail) == (
        Ending.FAILED,
        "Hello took longer than 0.2 seconds over its first page.",
    )


# -- busy ------------------------------------------------------------------------------------------------------------


async def said(harness: Harness, **frame: object) -> None:
    harness.say(**frame)
    assert await harness.change({"said": len(harness.heard)}) is None


async def test_a_busy_one_need_not_answer(stage: Stage, plane: Plane) -> None:
    stage.machine.next(StopsAnswering)
    route = await plane.until_ready(ALICE, HELLO)
    await said(stage.harness(route), type="busy", label="report", up_to_s=50)
    await passing(stage, plane, 48)
    assert not is_ended(plane, route)()
    passed_s = await passing(stage, plane, 60, until=is_ended(plane, route))
    assert LIMIT_S < passed_s < LIMIT_S + 8
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.TIMEOUT


async def test_idle_time_stands_still_while_one_is_busy(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    await said(stage.harness(route), type="busy", label="report", up_to_s=60)
    await plane.reaped(890)
    found = await plane.find(ALICE, HELLO)
    assert found is not None
    assert found.state is State.READY
    assert found.left_s == pytest.approx(900 - 890 + 60)
    stage.clock.forward(75)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.IDLE


async def test_the_list_says_with_what_and_for_how_long(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    await said(stage.harness(route), type="busy", label="the\n yearly report", up_to_s=90)
    (row,) = await plane.operators.rows(route.sandbox)
    assert row["why"] == "busy: the yearly report, 1m 30s left"
    (row,) = await plane.operators.inspect(route.sandbox)
    assert "the yearly report" in row["because"]
    await said(stage.harness(route), type="busy", label="", up_to_s=0)
    (row,) = await plane.operators.rows(route.sandbox)
    assert row["why"] == "until idle"


async def test_no_lease_is_busy_for_longer_than_the_limit_in_all(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    harness = stage.harness(route)
    for _ in range(5):
        await said(harness, type="busy", label="report", up_to_s=1e9)
        await plane.reaped(30)
    (row,) = await plane.operators.rows(route.sandbox)
    assert row["why"] == "until idle"
    assert row["idle_s"] == pytest.approx(5 * 30 - 100, abs=1)


async def test_what_a_lease_has_used_of_it_outlives_the_orchestrator(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    await said(stage.harness(route), type="busy", label="report", up_to_s=1000)
    await plane.reaped(80)
    await stage.close_plane(plane)
    lease = stage.run_directory.read_lease(route.sandbox, Lease)
    assert lease is not None
    assert lease.busy_used_s == pytest.approx(80, abs=1)
    second = await stage.open()
    await said(stage.harness(route), type="busy", label="report", up_to_s=1000)
    (row,) = await second.operators.rows(route.sandbox)
    assert row["why"] == "busy: report, 20s left"


async def test_work_of_any_number_is_survived(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    for number in (-1, 1e308, 0, -1e308):
        await said(stage.harness(route), type="busy", label="x" * 10_000, up_to_s=number)
        (row,) = await plane.operators.rows(route.sandbox)
        assert len(row["why"]) < 120


# -- steps and words -------------------------------------------------------------------------------------------------


async def test_the_steps_of_a_start_outlive_the_orchestrator_and_the_sandbox(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    assert list(route.steps_ms) == ["queue", "create", "start", "load", "render"]
    await stage.close_plane(plane)
    second = await stage.open()
    (row,) = await second.operators.inspect(route.sandbox)
    assert row["steps"] == route.steps_ms
    await second.release(ALICE, HELLO, Ending.VISITOR)
    (row,) = await second.operators.inspect(route.sandbox)
    assert row["steps"] == route.steps_ms
    assert row["because"] == "its user stopped it"


async def test_inspect_says_in_words_why_one_is_still_there(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    stage.clock.forward(60)
    (row,) = await plane.operators.inspect(route.sandbox)
    assert row["because"] == "its user did something 1m ago; without more it ends after 15m, in 14m"


async def test_an_operator_may_end_what_is_outdated_by_that_word(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    await plane.operators.reap([route.sandbox], Ending.UPDATED)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.UPDATED
