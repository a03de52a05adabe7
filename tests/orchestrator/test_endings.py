"""Sandboxes that end by themselves, or are ended: the word for it, and that nothing stays behind."""

from __future__ import annotations

import asyncio

import pytest

from htagweb_orchestrator import control
from htagweb_orchestrator.engines.base import Relist
from htagweb_orchestrator.errors import EngineUnavailable
from htagweb_orchestrator.model import Ending, State
from htagweb_orchestrator.rundir import UidAllocator
from tests.orchestrator.harness import IgnoresEnd
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Plane, Stage, eventually


async def test_a_crash_is_told_with_its_exit_code(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    route = await plane.until_ready(ALICE, HELLO)
    stage.machine.die(route.sandbox, 139)
    ended = await plane.until_ended(ALICE, HELLO)
    assert (ended.ending, ended.detail, ended.address) == (Ending.CRASHED, "exit code 139", None)
    assert watch.states(ALICE, HELLO)[-1] == (State.ENDED, "crashed")
    await eventually(lambda: stage.nothing_left_of(route.sandbox))


async def test_a_sandbox_out_of_memory_is_told_as_that(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    stage.machine.die(route.sandbox, 137, out_of_memory=True)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.MEMORY


@pytest.mark.parametrize(("code", "ending"), [(0, Ending.EXITED), (1, Ending.CRASHED)])
async def test_what_an_app_said_of_its_end_explains_it(stage: Stage, plane: Plane, code: int, ending: Ending) -> None:
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    harness.say(type="exit", reason="the game is over")
    assert await harness.change({"a": 1}) is None  # a round trip: what was said before has arrived
    harness.exit(code)
    ended = await plane.until_ended(ALICE, HELLO)
    assert (ended.ending, ended.detail) == (ending, "the game is over")


async def test_a_process_that_ends_well_has_not_crashed(stage: Stage, plane: Plane) -> None:
    stage.harness(await plane.until_ready(ALICE, HELLO)).exit(0)
    ended = await plane.until_ended(ALICE, HELLO)
    assert (ended.ending, ended.detail) == (Ending.EXITED, "the app ended itself")


async def test_what_was_removed_behind_our_back_is_gone_and_starts_again(stage: Stage, plane: Plane) -> None:
    first = await plane.until_ready(ALICE, HELLO)
    stage.machine.remove(first.sandbox)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.CRASHED
    assert (await plane.until_ready(ALICE, HELLO)).sandbox != first.sandbox


@pytest.mark.parametrize(
    ("how", "detail"), [("remove", "it was removed"), ("die", "exit code 9")], ids=["removed", "died"]
)
async def test_an_end_whose_event_got_lost_is_seen_when_the_engine_is_heard_again(
    stage: Stage, plane: Plane, how: str, detail: str
) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    if how == "remove":
        stage.machine.remove(route.sandbox, unseen=True)
    else:
        stage.machine.die(route.sandbox, 9, unseen=True)
    stage.machine.tell("htagweb", Relist())
    ended = await plane.until_ended(ALICE, HELLO)
    assert (ended.ending, ended.detail) == (Ending.CRASHED, detail)


@pytest.mark.parametrize("code", [0, 137, 143, 255])
async def test_what_an_engine_took_along_when_it_restarted_is_not_said_of_the_app(
    stage: Stage, plane: Plane, code: int
) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    stage.machine.die(route.sandbox, code, unseen=True)
    stage.machine.tell("htagweb", Relist())
    ended = await plane.until_ended(ALICE, HELLO)
    assert (ended.ending, ended.detail) == (Ending.LOST, "the engine was restarted")


async def test_neither_memory_nor_what_the_app_said_is_taken_for_a_restart_of_the_engine(
    stage: Stage, plane: Plane
) -> None:
    mine, his = await plane.until_ready(ALICE, HELLO), await plane.until_ready(BOB, HELLO)
    harness = stage.harness(his)
    harness.say(type="exit", reason="the game is over")
    assert await harness.change({"a": 1}) is None  # a round trip: what was said before has arrived
    stage.machine.die(mine.sandbox, 137, out_of_memory=True, unseen=True)
    stage.machine.die(his.sandbox, 0, unseen=True)
    stage.machine.tell("htagweb", EngineUnavailable("The stream broke."))
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.MEMORY
    ended = await plane.until_ended(BOB, HELLO)
    assert (ended.ending, ended.detail) == (Ending.EXITED, "the game is over")


async def test_a_sandbox_whose_directory_is_gone_is_ended(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    stage.run_directory.remove(route.sandbox)
    stage.machine.tell("htagweb", Relist())
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.LOST
    await eventually(lambda: stage.nothing_left_of(route.sandbox))


async def test_a_container_that_nobody_knows_is_removed(stage: Stage, plane: Plane) -> None:
    foreign = stage.left_behind().sandbox
    stage.machine.tell("htagweb", Relist())
    await eventually(lambda: stage.nothing_left_of(foreign))


async def test_the_visitors_stop_returns_when_nothing_is_left(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    harness = stage.harness(route)
    assert await plane.release(ALICE, HELLO, Ending.VISITOR)
    assert stage.nothing_left_of(route.sandbox)
    assert harness.heard_of("end")["reason"] == "visitor"
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.VISITOR


async def test_there_is_nothing_to_stop_where_nothing_runs(plane: Plane) -> None:
    assert not await plane.release(ALICE, HELLO, Ending.VISITOR)
    await plane.until_ready(BOB, HELLO)
    assert not await plane.release(ALICE, HELLO, Ending.VISITOR)


async def test_a_sandbox_that_is_stopped_twice_ends_once(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    assert any(await asyncio.gather(*(plane.release(ALICE, HELLO, Ending.VISITOR) for _ in range(5))))
    assert plane.engine.calls["stop"] == 1
    assert watch.states(ALICE, HELLO).count((State.ENDED, "visitor")) == 1


async def test_two_who_reap_the_same_one_wait_for_the_same_end(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    stop = plane.engine.hold("stop")
    reaping = [asyncio.create_task(plane.operators.reap([route.sandbox])) for _ in range(2)]
    await eventually(lambda: plane.engine.calls["stop"])
    late = asyncio.create_task(plane.operators.reap([route.sandbox]))
    stop.set()
    assert [row["id"] for rows in await asyncio.gather(*reaping, late) for row in rows] == [route.sandbox] * 3
    assert plane.engine.calls["stop"] == 1
    assert stage.nothing_left_of(route.sandbox)


async def test_the_uid_of_one_that_ended_is_free_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "UidAllocator", lambda: UidAllocator(20000, 20001))
    plane = await stage.open()
    for _ in range(3):
        await plane.until_ready(ALICE, HELLO)
        await plane.release(ALICE, HELLO, Ending.VISITOR)


async def test_a_caller_who_leaves_does_not_cancel_the_end(stage: Stage, plane: Plane) -> None:
    stop = plane.engine.hold("stop")
    route = await plane.until_ready(ALICE, HELLO)
    leaving = asyncio.create_task(plane.release(ALICE, HELLO, Ending.VISITOR))
    await eventually(lambda: plane.engine.calls["stop"])
    leaving.cancel()
    stop.set()
    await eventually(lambda: stage.nothing_left_of(route.sandbox))


async def test_a_new_one_may_start_while_the_old_one_is_being_removed(stage: Stage, plane: Plane) -> None:
    stop = plane.engine.hold("stop")
    old = await plane.until_ready(ALICE, HELLO)
    stage.machine.die(old.sandbox, 1)
    await plane.until_ended(ALICE, HELLO)
    new = await plane.until_ready(ALICE, HELLO)
    assert new.sandbox != old.sandbox
    uids = [stage.machine.containers[each.sandbox].spec.uid for each in (old, new)]
    assert uids[0] != uids[1]
    stop.set()
    await eventually(lambda: stage.nothing_left_of(old.sandbox))
    assert (await plane.lease(ALICE, HELLO)).sandbox == new.sandbox


async def test_a_broken_stream_of_events_is_followed_again(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    stage.machine.tell("htagweb", EngineUnavailable("The stream broke."))
    await eventually(lambda: not stage.machine.listeners)
    stage.machine.die(route.sandbox, 9)
    assert (await plane.until_ended(ALICE, HELLO)).detail == "exit code 9"


async def test_an_end_takes_no_longer_than_its_grace_where_the_harness_ignores_it(stage: Stage, plane: Plane) -> None:
    stage.machine.next(IgnoresEnd)
    await plane.until_ready(ALICE, HELLO)
    async with asyncio.timeout(10):
        await plane.release(ALICE, HELLO, Ending.VISITOR)


# -- an engine in trouble --------------------------------------------------------------------------------------------


async def test_a_stop_that_the_engine_refuses_is_tried_again(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    plane.engine.broken["stop"] = EngineUnavailable("The engine does not answer.")
    stage.machine.die(route.sandbox, 1)
    await eventually(lambda: plane.engine.calls["stop"])
    assert not stage.nothing_left_of(route.sandbox)
    del plane.engine.broken["stop"]
    await eventually(lambda: stage.nothing_left_of(route.sandbox))


async def test_an_engine_that_hangs_holds_up_nobody_who_runs(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    for verb in ("start", "stop", "list_managed", "stats", "logs"):
        plane.engine.hold(verb)
    stage.machine.tell("htagweb", Relist())
    starting = await plane.lease(BOB, HELLO)
    async with asyncio.timeout(10):
        assert (await plane.lease(ALICE, HELLO)).state is State.READY
        found = await plane.find(BOB, HELLO)
        assert found is not None
        assert found.state is State.STARTING
        await watch.report()
        second = await plane.gateway("gateway-2")
        assert (BOB, HELLO) in second.routes
    stage.clock.forward(901)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.IDLE
    await eventually(lambda: watch.routes[ALICE, HELLO].state is State.ENDED)
    assert watch.routes[BOB, HELLO].sandbox == starting.sandbox


async def test_without_an_engine_leases_are_refused_in_its_words_until_it_answers(stage: Stage) -> None:
    plane = stage.plane()
    plane.engine.broken["check"] = EngineUnavailable("Docker does not answer. Start it.")
    await plane.open()
    assert not plane.ready
    with pytest.raises(EngineUnavailable, match="Start it"):
        await plane.lease(ALICE, HELLO)
    watch = await plane.gateway()
    assert len(watch.seen) == 1  # the catalogue is there meanwhile
    del plane.engine.broken["check"]
    await eventually(lambda: plane.ready)
    await plane.until_ready(ALICE, HELLO)


@pytest.mark.unforeseen
async def test_an_error_that_nobody_foresaw_at_the_start_is_tried_again_too(stage: Stage) -> None:
    plane = stage.plane()
    plane.engine.broken["list_managed"] = RuntimeError("a bug")
    async with asyncio.timeout(10):
        await plane.open()
    with pytest.raises(EngineUnavailable):
        await plane.lease(ALICE, HELLO)
    del plane.engine.broken["list_managed"]
    await eventually(lambda: plane.ready)


@pytest.mark.unforeseen
async def test_an_error_that_nobody_foresaw_in_the_events_does_not_end_them(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    stage.machine.tell("htagweb", RuntimeError("a bug"))
    await eventually(lambda: plane.engine.calls["events"] == 2)
    stage.machine.die(route.sandbox, 3)
    assert (await plane.until_ended(ALICE, HELLO)).detail == "exit code 3"


async def test_a_closed_plane_refuses_and_leaves_what_it_could_not_remove(stage: Stage, plane: Plane) -> None:
    running = await plane.until_ready(ALICE, HELLO)
    stuck = await plane.until_ready(ALICE, CLOCK)
    plane.engine.broken["stop"] = EngineUnavailable("The engine does not answer.")
    stage.machine.die(stuck.sandbox, 1)
    await eventually(lambda: plane.engine.calls["stop"])
    async with asyncio.timeout(15):
        await stage.close_plane(plane)
    assert set(stage.machine.containers) == {running.sandbox, stuck.sandbox}
    await stage.open()
    assert set(stage.machine.containers) == {running.sandbox}
