"""Who waits for a place, in which order, and what makes room."""

from __future__ import annotations

import pytest

from htagweb_orchestrator import control
from htagweb_orchestrator.admission import GIB
from htagweb_orchestrator.errors import CapacityExceeded
from htagweb_orchestrator.line import GONE_S, MOST
from htagweb_orchestrator.model import Ending, SandboxId, Seen, State, Step, UserId
from htagweb_orchestrator.rundir import UidAllocator
from htagweb_orchestrator.settings import AppSettings
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Plane, Stage, eventually

CAROL, DAVE = UserId("carol"), UserId("dave")
MIB = 1024**2
ENOUGH = 2 * GIB * 2 // 3


async def place(plane: Plane, user: UserId) -> int | None:
    route = await plane.find(user, HELLO)
    return route.place if route else None


async def test_without_memory_a_visitor_waits_and_what_runs_goes_on(stage: Stage, plane: Plane) -> None:
    running = await plane.until_ready(ALICE, HELLO)
    stage.free_bytes = GIB
    waiting = await plane.lease(BOB, HELLO, wait_s=0.05)
    assert (waiting.state, waiting.step, waiting.place) == (State.STARTING, Step.QUEUED, 1)
    assert (await plane.lease(ALICE, HELLO)).sandbox == running.sandbox
    stage.free_bytes = 64 * GIB
    await plane.until_ready(BOB, HELLO)


async def test_starts_that_have_not_taken_their_memory_yet_are_counted(stage: Stage, plane: Plane) -> None:
    stage.free_bytes = ENOUGH + 2 * 64 * MIB
    plane.engine.hold("start")
    for number in range(2):
        assert (await plane.lease(UserId(f"visitor-{number}"), HELLO)).place is None
    assert (await plane.lease(ALICE, HELLO)).place == 1


async def test_who_came_first_is_served_first(stage: Stage) -> None:
    plane = await stage.open(max_sandboxes=1)
    await plane.until_ready(ALICE, HELLO)
    for user in (BOB, CAROL, DAVE):
        await plane.lease(user, HELLO)
    assert [await place(plane, user) for user in (BOB, CAROL, DAVE)] == [1, 2, 3]
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    await plane.until_ready(BOB, HELLO)
    assert [await place(plane, user) for user in (CAROL, DAVE)] == [1, 2]


async def test_a_newcomer_does_not_overtake_those_who_wait(stage: Stage) -> None:
    plane = await stage.open(max_sandboxes=1)
    await plane.until_ready(ALICE, HELLO)
    await plane.lease(BOB, HELLO)
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    assert (await plane.lease(CAROL, HELLO)).place is not None
    await plane.until_ready(BOB, HELLO)


async def test_an_app_may_have_a_limit_of_its_own(stage: Stage) -> None:
    stage.apps[HELLO] = AppSettings(max_sandboxes=1)
    plane = await stage.open()
    await plane.until_ready(ALICE, HELLO)
    assert (await plane.lease(BOB, HELLO)).place == 1
    await plane.until_ready(BOB, CLOCK)


async def test_who_closed_the_page_leaves_the_line(stage: Stage) -> None:
    plane = await stage.open(max_sandboxes=1)
    await plane.until_ready(ALICE, HELLO)
    await plane.lease(BOB, HELLO)
    await plane.lease(CAROL, HELLO)
    stage.clock.forward(GONE_S - 1)
    assert await place(plane, CAROL) == 2
    stage.clock.forward(2)
    await eventually(lambda: plane.waiting == 1)
    assert await place(plane, CAROL) == 1
    left = await plane.until_ended(BOB, HELLO)
    assert left.ending is Ending.VISITOR


async def test_cancelling_while_waiting_gives_the_place_up(stage: Stage) -> None:
    plane = await stage.open(max_sandboxes=1)
    await plane.until_ready(ALICE, HELLO)
    await plane.lease(BOB, HELLO)
    await plane.lease(CAROL, HELLO)
    await plane.release(BOB, HELLO, Ending.VISITOR)
    assert await place(plane, CAROL) == 1
    assert plane.engine.calls["start"] == 1


async def test_whoever_is_refused_takes_nothing_along(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    few = MOST + 2  # places in the line, the one that runs, and the one that is refused
    monkeypatch.setattr(control, "UidAllocator", lambda: UidAllocator(20000, 20000 + few - 1))
    plane = await stage.open(max_sandboxes=1)
    await plane.until_ready(ALICE, HELLO)
    for number in range(MOST):
        await plane.lease(UserId(f"visitor-{number}"), HELLO)
    for _ in range(3):
        with pytest.raises(CapacityExceeded):
            await plane.lease(BOB, HELLO)


async def test_a_line_that_is_full_refuses(stage: Stage) -> None:
    plane = await stage.open(max_sandboxes=1)
    await plane.until_ready(ALICE, HELLO)
    for number in range(MOST):
        await plane.lease(UserId(f"visitor-{number}"), HELLO)
    with pytest.raises(CapacityExceeded):
        await plane.lease(BOB, HELLO)
    assert await plane.find(BOB, HELLO) is None


async def test_short_of_memory_the_longest_idle_is_ended_and_the_busy_are_not(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    old = await plane.until_ready(ALICE, HELLO)
    stage.clock.forward(100)
    busy = await plane.until_ready(BOB, CLOCK)
    await watch.report({old.sandbox: Seen(idle_s=100.0), busy.sandbox: Seen(idle_s=0.0)})
    stage.free_bytes = 2 * GIB - 1
    ended = await plane.until_ended(ALICE, HELLO)
    assert ended.ending is Ending.FULL
    assert (await plane.lease(BOB, CLOCK)).sandbox == busy.sandbox
    await watch.close()


async def test_a_place_in_the_line_survives_nothing_but_leaves_nothing(stage: Stage) -> None:
    """Its visitor's page asks again, and gets a new one."""
    plane = await stage.open(max_sandboxes=1)
    await plane.until_ready(ALICE, HELLO)
    route = await plane.lease(BOB, HELLO)
    await stage.close_plane(plane)
    assert not (stage.root / "run" / SandboxId(route.sandbox)).exists()
