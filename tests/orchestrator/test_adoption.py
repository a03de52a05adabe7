"""An orchestrator that starts on what an earlier one left, in order or by kill -9."""

from __future__ import annotations

import asyncio

import pytest

from htagweb_orchestrator import control
from htagweb_orchestrator.errors import EngineUnavailable
from htagweb_orchestrator.model import Ending, SandboxId, Seen, Snapshot, State, UserId
from htagweb_orchestrator.registry import Lease
from htagweb_orchestrator.rundir import UidAllocator
from tests.orchestrator.engine import FakeEngine
from tests.orchestrator.harness import Harness, NeverSaysHello
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Plane, Stage, eventually


async def test_a_restart_finds_every_running_sandbox_again(stage: Stage, plane: Plane) -> None:
    before = [await plane.until_ready(user, app) for user in (ALICE, BOB) for app in (HELLO, CLOCK)]
    await stage.close_plane(plane)
    again = await stage.open()
    after = [await again.lease(user, app) for user in (ALICE, BOB) for app in (HELLO, CLOCK)]
    assert [(route.sandbox, route.address) for route in after] == [(route.sandbox, route.address) for route in before]
    assert {route.state for route in after} == {State.READY}
    assert again.engine.calls["start"] == again.engine.calls["stop"] == 0


async def test_an_adopted_sandbox_keeps_its_idle_clock_and_its_age(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    sandbox = (await plane.until_ready(ALICE, HELLO)).sandbox
    stage.clock.forward(600)
    await watch.report({sandbox: Seen(idle_s=200)})
    await stage.close_plane(plane)
    again = await stage.open()
    assert [(row["age_s"], row["idle_s"], row["left_s"]) for row in await again.operators.rows()] == [
        (600.0, 200.0, 700.0)
    ]
    await again.gateway()
    stage.clock.forward(700 - 16 + 0.1)
    assert (await again.until_ended(ALICE, HELLO)).ending is Ending.IDLE


async def test_an_adopted_sandbox_is_watched_and_ended_like_any_other(stage: Stage) -> None:
    old = stage.left_behind()
    plane = await stage.open()
    watch = await plane.gateway()
    assert watch.routes[ALICE, HELLO].sandbox == old.sandbox
    await eventually(lambda: stage.machine.harness(old.sandbox).connected)
    assert await stage.machine.harness(old.sandbox).change({"a": 1}) is None
    stage.machine.die(old.sandbox, 5)
    assert (await plane.until_ended(ALICE, HELLO)).detail == "exit code 5"
    await eventually(lambda: stage.nothing_left_of(old.sandbox))


async def test_what_a_harness_held_back_arrives_after_the_restart(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    harness = stage.harness(route)
    await stage.close_plane(plane)
    await eventually(lambda: not harness.connected)
    harness.say(type="output", text="nobody was there\n")
    change = harness.changing({"a": 1})
    again = await stage.open()
    assert await change is None
    assert "nobody was there" in again.operators.logs(route.sandbox)[route.sandbox]


async def test_an_adopted_sandbox_that_does_not_answer_is_kept_and_counted(stage: Stage) -> None:
    stage.machine.next(NeverSaysHello)
    old = stage.left_behind()
    plane = await stage.open()
    assert (await plane.lease(ALICE, HELLO)).sandbox == old.sandbox


async def test_what_runs_is_not_forgotten_while_no_engine_answers(stage: Stage) -> None:
    old = stage.left_behind()
    plane = stage.plane()
    plane.engine.broken["check"] = EngineUnavailable("Docker does not answer. Start it.")
    await plane.open()
    watch = await plane.gateway()
    first = watch.seen[0]
    assert isinstance(first, Snapshot)
    assert not first.complete
    with pytest.raises(EngineUnavailable, match="Start it"):
        await plane.find(ALICE, HELLO)
    with pytest.raises(EngineUnavailable, match="Start it"):
        await plane.release(ALICE, HELLO, Ending.VISITOR)
    stage.clock.forward(2000)  # the gateway's reports of that time had nobody to be about
    del plane.engine.broken["check"]
    await asyncio.wait_for(watch.over.wait(), 5)
    again = await plane.gateway()
    assert again.routes[ALICE, HELLO].sandbox == old.sandbox
    await again.report({old.sandbox: Seen(idle_s=5)})
    assert (await plane.lease(ALICE, HELLO)).sandbox == old.sandbox


async def test_a_sandbox_whose_claim_never_reached_it_is_ended(stage: Stage) -> None:
    """The lease says so before the claim is sent; the orchestrator was killed between the two."""
    old = stage.left_behind()
    harness: Harness = stage.machine.harness(old.sandbox)
    harness.stage = "loaded"
    plane = await stage.open()
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.LOST
    await eventually(lambda: stage.nothing_left_of(old.sandbox))


async def test_a_new_sandbox_never_gets_an_adopted_ones_uid(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "UidAllocator", lambda: UidAllocator(30000, 30003))
    for number in range(3):
        stage.left_behind(user=UserId(f"user-{number}"))
    plane = await stage.open()
    route = await plane.until_ready(ALICE, HELLO)
    assert stage.machine.containers[route.sandbox].spec.uid == 30003


# -- what no lease holds any more ------------------------------------------------------------------------------------


async def test_one_that_the_engine_does_not_remove_keeps_the_others_from_nobody(stage: Stage) -> None:
    old, stuck = stage.left_behind(), stage.left_behind(user=BOB, lease=False).sandbox
    plane = stage.plane()
    plane.engine.broken["stop"] = EngineUnavailable("The engine refused: device or resource busy.")
    await plane.open()
    assert (await plane.lease(ALICE, HELLO)).sandbox == old.sandbox
    assert (await plane.until_ready(BOB, HELLO)).sandbox != stuck
    assert stuck in stage.machine.containers
    assert stuck in stage.run_directory.ids()


async def test_what_has_no_lease_that_holds_is_removed(stage: Stage) -> None:
    started_only = stage.left_behind(state="starting", user=UserId("1"))
    of_another_boot = stage.left_behind(boot_id="another", user=UserId("2"))
    without_a_lease = stage.left_behind(lease=False, user=UserId("3"))
    with_another_uid = stage.left_behind(uid=12345, user=UserId("4"))
    ended = stage.left_behind(user=UserId("5"))
    stage.machine.die(ended.sandbox, 1)
    broken = stage.left_behind(user=UserId("6"))
    (stage.root / "run" / broken.sandbox / "lease.json").write_text("{")
    holds = stage.left_behind(user=UserId("7"))
    await stage.open()
    for lease in (started_only, of_another_boot, without_a_lease, with_another_uid, ended, broken):
        assert stage.nothing_left_of(lease.sandbox)
    assert list(stage.machine.containers) == stage.run_directory.ids() == [holds.sandbox]


async def test_a_lease_that_names_another_sandbox_is_not_believed(stage: Stage) -> None:
    first, second = stage.left_behind(), stage.left_behind(user=BOB)
    lease = (stage.root / "run" / first.sandbox / "lease.json").read_bytes()
    (stage.root / "run" / second.sandbox / "lease.json").write_bytes(lease)
    plane = await stage.open()
    assert [sandbox.id for sandbox in plane.sandboxes()] == [first.sandbox]
    assert stage.nothing_left_of(second.sandbox)


async def test_of_two_sandboxes_of_one_user_and_app_one_is_kept(stage: Stage) -> None:
    stage.left_behind()
    stage.left_behind()
    plane = await stage.open()
    assert len(plane.sandboxes()) == len(stage.machine.containers) == len(stage.run_directory.ids()) == 1


async def test_directories_without_a_container_are_removed_and_other_names_are_let_alone(stage: Stage) -> None:
    stray = SandboxId("f" * 32)
    stage.run_directory.create(stray, 30000)
    (stage.root / "run" / "lost+found").mkdir()
    await stage.open()
    assert stage.run_directory.ids() == []
    assert (stage.root / "run" / "lost+found").is_dir()


async def test_another_installations_sandboxes_are_let_alone(stage: Stage, plane: Plane) -> None:
    mine = await plane.until_ready(ALICE, HELLO)
    await stage.close_plane(plane)
    stage.run_directory.remove(mine.sandbox)  # the other one has a run directory of its own
    other = await stage.open(engine=FakeEngine(stage.machine, instance="other"))
    assert other.sandboxes() == []
    assert list(stage.machine.containers) == [mine.sandbox]
    assert await other.find(ALICE, HELLO) is None


async def test_a_start_that_was_killed_half_way_leaves_nothing_after_the_next_start(stage: Stage) -> None:
    lease = stage.left_behind(state="starting")
    stage.machine.remove(lease.sandbox)  # killed between the lease file and the container
    await stage.open()
    assert stage.nothing_left_of(lease.sandbox)


async def test_the_lease_on_disk_is_all_that_is_needed(stage: Stage, plane: Plane) -> None:
    """A kill -9 leaves what is on disk at that moment: here without the orderly close."""
    route = await plane.until_ready(ALICE, HELLO)
    lease = stage.run_directory.read_lease(route.sandbox, Lease)
    assert lease is not None
    assert (lease.state, lease.user, lease.app, lease.claimed_s) == ("claimed", ALICE, HELLO, stage.clock())


@pytest.mark.parametrize(
    ("code", "out_of_memory", "ending", "detail"),
    [
        (1, False, Ending.CRASHED, "exit code 1"),
        (137, True, Ending.MEMORY, "it needed more memory than it may have"),
        (0, False, Ending.LOST, "it ended while the server was restarted"),
        (137, False, Ending.LOST, "it ended while the server was restarted"),
        (143, False, Ending.LOST, "it ended while the server was restarted"),
        (255, False, Ending.LOST, "it ended while the server was restarted"),
    ],
)
async def test_what_ended_while_no_orchestrator_was_there_is_explained(
    stage: Stage, code: int, out_of_memory: bool, ending: Ending, detail: str
) -> None:
    old = stage.left_behind()
    stage.machine.die(old.sandbox, code, out_of_memory=out_of_memory)
    plane = await stage.open()
    route = await plane.until_ended(ALICE, HELLO)
    assert (route.sandbox, route.ending, route.detail) == (old.sandbox, ending, detail)
    await eventually(lambda: stage.nothing_left_of(old.sandbox))


async def test_what_was_removed_while_no_orchestrator_was_there_is_explained(stage: Stage) -> None:
    old = stage.left_behind()
    stage.machine.remove(old.sandbox)
    plane = await stage.open()
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.LOST
    await eventually(lambda: stage.nothing_left_of(old.sandbox))


async def test_after_a_restart_of_the_machine_each_visitor_hears_of_it(stage: Stage) -> None:
    old = stage.left_behind(boot_id="another boot")
    stage.machine.die(old.sandbox, 255)
    plane = await stage.open()
    assert (await plane.until_ended(ALICE, HELLO)).detail == "the machine was restarted"
    await eventually(lambda: stage.nothing_left_of(old.sandbox))


async def test_the_end_of_an_earlier_sandbox_does_not_hide_the_one_that_runs(stage: Stage) -> None:
    ended, running = stage.left_behind(claimed_s=stage.clock() - 50), stage.left_behind()
    stage.machine.die(ended.sandbox, 1)
    plane = await stage.open()
    watch = await plane.gateway()
    assert watch.routes[ALICE, HELLO].sandbox == running.sandbox
    await eventually(lambda: stage.nothing_left_of(ended.sandbox))
