"""Sandboxes that are there before anybody asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from htagweb_orchestrator import pool
from htagweb_orchestrator.admission import GIB, UNKNOWN_USE
from htagweb_orchestrator.errors import EngineUnavailable
from htagweb_orchestrator.model import AppName, Ending, SandboxId, State, UserId
from htagweb_orchestrator.pool import IN_USE_S, RELOAD_S
from htagweb_orchestrator.settings import AppSettings
from tests.orchestrator.harness import Frame, Harness
from tests.orchestrator.stage import ALICE, BOB, BRIEF, CLOCK, HELLO, Plane, Stage, eventually

BLANKS = 2


async def filled(stage: Stage, **values: Any) -> Plane:
    """A plane whose pool is as full as it should be before anybody came."""
    plane = await stage.open(warm_min=BLANKS, warm_max=4, **values)
    await eventually(lambda: len(warm(plane)) == BLANKS)
    return plane


def warm(plane: Plane, app: str | None = None) -> list[SandboxId]:
    found = [sandbox for sandbox in plane.sandboxes() if sandbox.state is State.WARM]
    return [sandbox.id for sandbox in found if app is None or sandbox.lease.app == app]


async def test_the_first_visitor_gets_one_that_was_started_before_he_came(stage: Stage) -> None:
    plane = await filled(stage)
    before = warm(plane)
    route = await plane.until_ready(ALICE, HELLO)
    assert route.sandbox in before


async def test_it_is_refilled_after_each_claim_and_never_beyond_the_target(stage: Stage) -> None:
    plane = await filled(stage)
    for number in range(3):
        await plane.until_ready(UserId(f"visitor-{number}"), HELLO)
    await eventually(lambda: len(warm(plane, "")) >= BLANKS and warm(plane, HELLO))
    assert len(warm(plane, "")) <= 4
    assert len(warm(plane, HELLO)) == 1


async def test_an_app_that_was_opened_is_kept_loaded_for_the_next_visitor(stage: Stage) -> None:
    plane = await filled(stage)
    await plane.until_ready(ALICE, HELLO)
    await eventually(lambda: warm(plane, HELLO))
    loaded = warm(plane, HELLO)
    harness: Harness = stage.machine.harness(loaded[0])
    assert [frame["type"] for frame in harness.heard] == ["hello", "load"]
    assert (await plane.until_ready(BOB, HELLO)).sandbox in loaded
    assert [frame["type"] for frame in harness.heard] == ["hello", "load", "claim"]


async def test_an_app_may_want_more_of_them_or_none(stage: Stage) -> None:
    stage.apps[CLOCK] = AppSettings(overrides={"pids": 77}, warm_min=3)
    stage.apps[HELLO] = AppSettings(overrides={"pids": 88}, warm_max=0)
    plane = await stage.open(warm_min=1, warm_max=4)
    await eventually(lambda: sum(s.lease.limits.pids == 77 for s in plane.sandboxes() if s.state is State.WARM) == 3)
    await plane.until_ready(ALICE, HELLO)
    await plane.until_ready(BOB, CLOCK)  # for which one is loaded next
    await eventually(lambda: warm(plane, CLOCK))
    assert not [s for s in plane.sandboxes() if s.lease.limits.pids == 88 and not s.lease.user]


async def test_apps_on_the_same_image_share_blanks_and_others_have_none_of_them(stage: Stage) -> None:
    for app in (HELLO, CLOCK):
        stage.apps[app] = AppSettings(image="ours:1")
    plane = await stage.open(warm_min=1, warm_max=4)
    await plane.until_ready(ALICE, HELLO)
    await eventually(lambda: [s for s in plane.sandboxes() if s.state is State.WARM and s.lease.image == "ours:1"])
    blanks = {s.id for s in plane.sandboxes() if s.lease.image == "ours:1" and not s.lease.user and not s.lease.app}
    assert (await plane.until_ready(BOB, AppName("todo"))).sandbox not in blanks
    assert (await plane.until_ready(BOB, CLOCK)).sandbox in blanks


async def test_each_is_used_once_by_one_user(stage: Stage) -> None:
    plane = await filled(stage)
    used = [(await plane.until_ready(UserId(f"visitor-{n}"), HELLO)).sandbox for n in range(6)]
    assert len(set(used)) == 6
    for sandbox in used:
        harness: Harness = stage.machine.harness(sandbox)
        assert [frame["type"] for frame in harness.heard].count("claim") == 1


async def test_parallel_visitors_never_share_one(stage: Stage) -> None:
    plane = await filled(stage)
    routes = await asyncio.gather(*(plane.lease(UserId(f"visitor-{n}"), HELLO, wait_s=5) for n in range(8)))
    assert {route.state for route in routes} == {State.READY}
    assert len({route.sandbox for route in routes}) == 8


async def test_a_new_version_ends_the_loaded_one_and_keeps_the_blanks(stage: Stage) -> None:
    plane = await filled(stage)
    await plane.until_ready(ALICE, HELLO)
    await eventually(lambda: warm(plane, HELLO))
    old, blanks = warm(plane, HELLO), warm(plane, "")
    stage.write(HELLO, "from htag import Tag\n\n\nclass App(Tag.div):\n    changed = True\n")
    await eventually(lambda: warm(plane, HELLO) and warm(plane, HELLO) != old)
    assert set(blanks) <= set(warm(plane, ""))


async def test_the_pool_gives_way_when_memory_is_short(stage: Stage) -> None:
    plane = await filled(stage)
    stage.free_bytes = 2 * GIB - 1
    await eventually(lambda: not warm(plane))
    await eventually(lambda: not stage.machine.containers)


async def test_nothing_is_started_that_would_have_to_give_way_at_once(stage: Stage) -> None:
    plane = await filled(stage)
    stage.free_bytes = 2 * GIB + UNKNOWN_USE - 1
    for sandbox in warm(plane):
        stage.machine.die(sandbox, 1)
    before = plane.engine.calls["start"]
    await plane.until_ready(ALICE, HELLO)
    await plane.reaped(1)
    assert plane.engine.calls["start"] == before + 2  # for those two who came
    assert not warm(plane)


async def test_an_app_that_fails_to_load_is_not_tried_again_and_again(stage: Stage) -> None:
    class Failing(Harness):
        async def on_load(self, load: Frame) -> None:
            self.say(type="failed", stage="load", error="no", traceback="Traceback: no")

    plane = await filled(stage)
    stage.machine.next(Failing, Failing, Failing)
    before = plane.engine.calls["start"]
    await plane.lease(ALICE, CLOCK, wait_s=5)
    stage.machine.upcoming.clear()
    await eventually(lambda: len(warm(plane, "")) >= BLANKS)
    assert plane.engine.calls["start"] < before + 8


async def test_an_app_that_ends_itself_in_the_pool_is_not_loaded_again_and_again(stage: Stage) -> None:
    plane = await filled(stage)
    await plane.until_ready(ALICE, HELLO)
    await eventually(lambda: warm(plane, HELLO))
    stage.machine.die(warm(plane, HELLO)[0], 137)
    await plane.until_ready(ALICE, CLOCK)
    await eventually(lambda: warm(plane, CLOCK) and len(warm(plane, "")) >= BLANKS)
    assert not warm(plane, HELLO)
    stage.clock.forward(RELOAD_S)
    await eventually(lambda: warm(plane, HELLO))


async def test_one_that_hangs_up_in_the_pool_is_ended(stage: Stage) -> None:
    plane = await filled(stage)
    first = warm(plane)[0]
    stage.machine.harness(first).hang_up()
    await eventually(lambda: stage.nothing_left_of(first))
    await eventually(lambda: len(warm(plane)) == BLANKS)


async def test_an_app_in_the_pool_has_no_session_to_write_to(stage: Stage) -> None:
    plane = await filled(stage)
    await plane.until_ready(ALICE, HELLO)
    await eventually(lambda: warm(plane, HELLO))
    harness: Harness = stage.machine.harness(warm(plane, HELLO)[0])
    assert await harness.change({"a": 1}) == "nobody uses this app yet"


async def test_one_that_dies_in_the_pool_is_never_given_to_anybody(stage: Stage) -> None:
    plane = await filled(stage)
    for sandbox in list(stage.machine.containers):
        stage.machine.die(sandbox, 1, unseen=True)
    route = await plane.until_ready(ALICE, HELLO)
    assert stage.machine.containers[route.sandbox].running


async def test_no_visitor_hears_of_the_pool(stage: Stage) -> None:
    plane = await filled(stage)
    watch = await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    await eventually(lambda: warm(plane, HELLO))
    assert {user for user, _ in watch.routes} == {ALICE}
    await watch.close()


async def test_a_stop_of_the_orchestrator_leaves_none_of_them(stage: Stage) -> None:
    plane = await filled(stage)
    mine = await plane.until_ready(ALICE, HELLO)
    await stage.close_plane(plane)
    assert set(stage.machine.containers) == {mine.sandbox}


async def test_the_next_orchestrator_removes_what_a_killed_one_left_in_its_pool(stage: Stage) -> None:
    claimed = stage.left_behind()
    unclaimed = stage.left_behind(user=UserId(""), app=AppName(""), state="starting")
    await stage.open()
    assert set(stage.machine.containers) == {claimed.sandbox}
    assert stage.nothing_left_of(unclaimed.sandbox)


async def test_an_operator_may_end_a_warm_one_and_gets_another(stage: Stage) -> None:
    plane = await filled(stage)
    ended = plane.sandboxes(warm(plane)[0])
    await plane.end(ended, Ending.OPERATOR)
    await eventually(lambda: len(warm(plane)) == BLANKS)


async def test_an_app_that_loads_slowly_is_kept_loaded_long_after_somebody_opened_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Harness):
        async def on_load(self, load: Frame) -> None:
            await asyncio.sleep(0.3 if load["app"] == CLOCK else 0)
            await super().on_load(load)

    monkeypatch.setattr(pool, "SLOW_LOAD_S", 0.25)
    stage.machine.usual = Slow
    plane = await filled(stage)
    for app in (HELLO, CLOCK):
        await plane.until_ready(ALICE, app)
    await eventually(lambda: warm(plane, HELLO) and warm(plane, CLOCK))
    await plane.reaped(IN_USE_S + 1)
    await eventually(lambda: not warm(plane, HELLO))
    assert warm(plane, CLOCK)
    for sandbox in warm(plane, CLOCK):
        stage.machine.die(sandbox, 1)
    await eventually(lambda: warm(plane, CLOCK))


async def test_a_slow_app_that_fails_in_the_pool_is_left_to_its_next_visitor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = []

    class Fails(Harness):
        async def on_load(self, load: Frame) -> None:
            if load["app"] == HELLO:
                failed.append(load)
                self.say(type="failed", stage="load", error="no", traceback="Traceback: no")
            else:
                await super().on_load(load)

    monkeypatch.setattr(pool, "SLOW_LOAD_S", 0.0)
    plane = await filled(stage)
    await plane.until_ready(ALICE, HELLO)
    await eventually(lambda: warm(plane, HELLO) and len(warm(plane, "")) >= BLANKS)
    stage.machine.usual = Fails
    stage.machine.die(warm(plane, HELLO)[0], 1)
    stage.clock.forward(RELOAD_S)
    await eventually(lambda: failed)
    await plane.reaped(RELOAD_S)
    await eventually(lambda: warm(plane, BRIEF))  # the pool has looked since
    assert len(failed) == 1


async def test_blanks_that_fail_to_start_are_tried_again_at_growing_intervals(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, look = [], pool.WarmPool.round

    def counted(self: pool.WarmPool) -> None:
        look(self)
        looked.append(self)

    async def has_looked() -> None:
        before = len(looked)
        await eventually(lambda: not plane.pool.filling and len(looked) > before + 2)

    monkeypatch.setattr(pool.WarmPool, "round", counted)
    monkeypatch.setattr(pool, "ROUND_S", 0.01)
    plane = stage.plane(warm_min=1, warm_max=4)
    plane.engine.broken["start"] = EngineUnavailable("The engine does not answer.")
    await plane.open()
    for tries, pause_s in enumerate((1, 2, 4), 1):
        await has_looked()
        assert plane.engine.calls["start"] == tries
        stage.clock.forward(pause_s - 0.1)
        await has_looked()
        assert plane.engine.calls["start"] == tries
        stage.clock.forward(0.2)
    del plane.engine.broken["start"]
    await eventually(lambda: warm(plane))
