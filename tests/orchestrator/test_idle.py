"""When a lease is over: idle, too old, and never because nobody was there to report."""

from __future__ import annotations

import time

import pytest

from htagweb_orchestrator.model import Ending, Seen, State
from htagweb_orchestrator.registry import Lease
from tests.orchestrator.harness import IgnoresEnd
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Plane, Stage, Watch, eventually


async def state(plane: Plane) -> State:
    route = await plane.find(ALICE, HELLO)
    assert route is not None
    return route.state


async def test_silence_for_the_idle_timeout_ends_a_sandbox(stage: Stage, plane: Plane) -> None:
    await plane.gateway()
    sandbox = (await plane.until_ready(ALICE, HELLO)).sandbox
    await plane.reaped(899)
    assert await state(plane) is State.READY
    stage.clock.forward(1.1)
    route = await plane.until_ended(ALICE, HELLO)
    assert (route.ending, route.detail) == (Ending.IDLE, "nothing happened for 15 minutes")
    await eventually(lambda: stage.nothing_left_of(sandbox))


async def test_activity_moves_the_end(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    sandbox = (await plane.until_ready(ALICE, HELLO)).sandbox
    stage.clock.forward(800)
    await watch.report({sandbox: Seen(idle_s=100)})
    route = await plane.find(ALICE, HELLO)
    assert route is not None
    assert route.left_s is not None
    assert round(route.left_s) == 800
    await plane.reaped(799)
    assert await state(plane) is State.READY
    stage.clock.forward(1.1)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.IDLE


async def test_a_report_of_old_activity_takes_nothing_back(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    sandbox = (await plane.until_ready(ALICE, HELLO)).sandbox
    await watch.report({sandbox: Seen(idle_s=0)})
    await plane.activity("gateway-2", {sandbox: Seen(idle_s=899)})
    await plane.reaped(10)
    assert await state(plane) is State.READY


async def test_a_report_from_the_future_gives_no_more_than_now(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    sandbox = (await plane.until_ready(ALICE, HELLO)).sandbox
    await watch.report({sandbox: Seen(idle_s=-1e9)})
    stage.clock.forward(901)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.IDLE


async def test_finding_and_leasing_count_as_no_activity(stage: Stage, plane: Plane) -> None:
    await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    stage.clock.forward(890)
    await plane.find(ALICE, HELLO)
    await plane.lease(ALICE, HELLO)
    stage.clock.forward(11)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.IDLE


async def test_idle_time_stands_still_while_nobody_watches(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    await plane.reaped(500)
    await watch.close()
    await plane.reaped(5000)
    assert await state(plane) is State.READY
    watch = await plane.gateway("gateway-2")
    await plane.reaped(300)  # 500 + 16 + 300, and what passed while nobody watched doesn't count
    assert await state(plane) is State.READY
    stage.clock.forward(100)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.IDLE


# -- right after the orchestrator's start, silence proves nothing ----------------------------------------------------


async def test_after_a_start_a_gateways_report_comes_before_any_idle_end(stage: Stage) -> None:
    old = stage.left_behind(last_activity_s=stage.clock() - 10_000)
    plane = await stage.open()
    watch = Watch(plane, "gateway-1")
    await eventually(lambda: watch.seen)
    await plane.reaped(5)
    await watch.report({old.sandbox: Seen(idle_s=10)})
    await plane.reaped(20)
    assert await state(plane) is State.READY


async def test_after_a_start_what_every_gateway_is_silent_about_ends_soon(stage: Stage) -> None:
    stage.left_behind(last_activity_s=stage.clock() - 10_000)
    plane = await stage.open()
    watch, late = Watch(plane, "gateway-1"), Watch(plane, "gateway-2")
    await eventually(lambda: watch.seen and late.seen)
    await watch.report()
    await plane.reaped(5)
    assert await state(plane) is State.READY
    await late.report()
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.IDLE


async def test_after_a_start_a_gateway_that_never_reports_is_waited_for_a_quarter_of_a_minute(stage: Stage) -> None:
    stage.left_behind(last_activity_s=stage.clock() - 10_000)
    plane = await stage.open()
    watch = Watch(plane, "gateway-1")
    await eventually(lambda: watch.seen)
    await plane.reaped(14)
    assert await state(plane) is State.READY
    stage.clock.forward(1.1)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.IDLE


# -- the other limits ------------------------------------------------------------------------------------------------


async def test_the_lifetime_ends_a_sandbox_whatever_happens_in_it(stage: Stage) -> None:
    plane = await stage.open(max_lifetime_s=3600.0)
    watch = await plane.gateway()
    sandbox = (await plane.until_ready(ALICE, HELLO)).sandbox
    for _ in range(4):
        await plane.reaped(880)
        await watch.report({sandbox: Seen(idle_s=0)})
    assert await state(plane) is State.READY
    stage.clock.forward(81)
    route = await plane.until_ended(ALICE, HELLO)
    assert (route.ending, route.detail) == (Ending.LIFETIME, "it had run for 1 hour")


async def test_the_lifetime_counts_while_nobody_watches_too(stage: Stage, plane: Plane) -> None:
    await plane.until_ready(ALICE, HELLO)
    stage.clock.forward(12 * 3600 + 1)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.LIFETIME


async def test_the_lifetime_ends_what_was_idle_before_everybody_stopped_watching(stage: Stage) -> None:
    stage.left_behind(claimed_s=stage.clock() - 43_170, last_activity_s=stage.clock() - 10_000)
    plane = await stage.open()
    await plane.reaped(29)
    assert await state(plane) is State.READY
    stage.clock.forward(1.1)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.LIFETIME


async def test_each_app_has_limits_of_its_own(stage: Stage) -> None:
    stage.limit("hello", idle_timeout_s=3.0)
    plane = await stage.open()
    await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    await plane.until_ready(ALICE, CLOCK)
    stage.clock.forward(3.1)
    assert (await plane.until_ended(ALICE, HELLO)).detail == "nothing happened for 3 seconds"
    found = await plane.find(ALICE, CLOCK)
    assert found is not None
    assert found.state is State.READY


async def test_a_harness_that_ignores_its_end_is_stopped_all_the_same(stage: Stage, plane: Plane) -> None:
    await plane.gateway()
    stage.machine.next(IgnoresEnd)
    route = await plane.until_ready(ALICE, HELLO)
    harness = stage.harness(route)
    stage.clock.forward(901)
    await plane.until_ended(ALICE, HELLO)
    await eventually(lambda: stage.nothing_left_of(route.sandbox))
    assert harness.heard_of("end") == {"type": "end", "reason": "idle", "grace_s": 1.0}


async def test_an_ending_is_forgotten_after_a_quarter_of_an_hour(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    stage.clock.forward(901)
    await eventually(lambda: (ALICE, HELLO) not in watch.routes)
    assert await plane.find(ALICE, HELLO) is None


async def test_the_lease_file_follows_the_activity(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    sandbox = (await plane.until_ready(ALICE, HELLO)).sandbox

    def written() -> float:
        lease = stage.run_directory.read_lease(sandbox, Lease)
        assert lease is not None
        return lease.last_activity_s

    stage.clock.forward(100)
    await watch.report({sandbox: Seen(idle_s=1)})
    await eventually(lambda: written() == stage.clock() - 1)


async def test_a_lease_that_can_not_be_written_keeps_nobody_from_being_reaped(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    lost = await plane.until_ready(ALICE, HELLO)
    await plane.until_ready(BOB, HELLO)
    stage.run_directory.remove(lost.sandbox)
    stage.clock.forward(890)
    await watch.report({lost.sandbox: Seen(idle_s=0)})
    stage.clock.forward(11)
    assert (await plane.until_ended(BOB, HELLO)).ending is Ending.IDLE


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0], ids=["back", "forward"])
async def test_a_wall_clock_that_jumps_by_a_day_ends_nothing_and_forgets_nothing(
    stage: Stage, plane: Plane, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    await plane.gateway()
    before = await plane.until_ready(ALICE, HELLO)
    assert await stage.harness(before).change({"a": 1}) is None
    wall_s = time.time
    monkeypatch.setattr(time, "time", lambda: wall_s() + jump_s)
    await plane._prune()
    await plane.reaped(1)
    await stage.close_plane(plane)
    plane = await stage.open()
    await plane.gateway()
    await plane.reaped(1)
    adopted = await plane.find(ALICE, HELLO)
    assert adopted is not None
    assert (adopted.sandbox, adopted.state) == (before.sandbox, State.READY)
    assert adopted.left_s is not None
    assert 800 < adopted.left_s <= 900
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    anew = stage.harness(await plane.until_ready(ALICE, HELLO))
    assert anew.heard_of("claim")["session"] == {"a": 1}
