"""Starts that come to nothing: what the visitor and the operator are told, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import os

import pytest

from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator.errors import EngineUnavailable, ImageNotFound
from htagweb_orchestrator.model import Ending, Route, State, Step, UserId
from htagweb_orchestrator.registry import Lease
from tests.orchestrator.harness import (
    DiesAtBoot,
    DiesAtLoad,
    FailsAtClaim,
    FailsAtLoad,
    Frame,
    HangsUpAtFiles,
    Harness,
    IsOfAnotherRelease,
    LeavesAFile,
    NeverLoads,
    NeverMakesItsSockets,
    NeverSaysHello,
)
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, SOURCE, Plane, Stage, eventually


async def failed(stage: Stage, plane: Plane, *scripts: type[Harness], ending: Ending = Ending.FAILED) -> Route:
    """A start that failed, after all of it has been cleared away."""
    stage.machine.next(*scripts)
    route = await plane.lease(ALICE, HELLO, wait_s=10)
    assert (route.state, route.ending, route.address) == (State.ENDED, ending, None)
    assert route.error_id == route.sandbox[:12]
    await eventually(lambda: stage.nothing_left_of(route.sandbox))
    return route


def logs(plane: Plane, route: Route) -> str:
    return plane.operators.logs(route.error_id)[route.sandbox]


@pytest.mark.parametrize(
    ("script", "said"), [(FailsAtLoad, "NameError: secret"), (FailsAtClaim, "ZeroDivisionError in init")]
)
async def test_an_app_that_fails_has_an_id_and_the_operator_its_traceback(
    stage: Stage, plane: Plane, script: type[Harness], said: str
) -> None:
    route = await failed(stage, plane, script)
    assert said in logs(plane, route)
    assert said not in route.detail + route.traceback
    assert plane.engine.calls["stop"] == 1


async def test_in_dev_mode_the_visitor_sees_the_traceback_too(stage: Stage) -> None:
    route = await failed(stage, await stage.open(dev=True), FailsAtLoad)
    assert "NameError: secret" in route.traceback


async def test_after_a_failure_the_same_visitor_may_try_again(stage: Stage, plane: Plane) -> None:
    first = await failed(stage, plane, FailsAtLoad)
    assert (await plane.until_ready(ALICE, HELLO)).sandbox != first.sandbox


async def test_a_failure_is_explained_until_the_next_lease(stage: Stage, plane: Plane) -> None:
    route = await failed(stage, plane, FailsAtLoad)
    assert await plane.find(ALICE, HELLO) == route
    plane.engine.hold("start")
    await plane.lease(ALICE, HELLO)
    found = await plane.find(ALICE, HELLO)
    assert found is not None
    assert found.state is State.STARTING


@pytest.mark.parametrize(
    ("script", "ending"),
    [(NeverMakesItsSockets, Ending.SERVER), (NeverSaysHello, Ending.SERVER), (NeverLoads, Ending.FAILED)],
)
async def test_a_start_that_hangs_ends_after_its_time(stage: Stage, script: type[Harness], ending: Ending) -> None:
    plane = await stage.open(start_timeout_s=0.2)
    route = await failed(stage, plane, script, ending=ending)
    assert route.detail == "Hello was not ready after 0.2 seconds."


async def test_an_engine_that_hangs_at_the_start_ends_it_after_its_time(stage: Stage) -> None:
    plane = await stage.open(start_timeout_s=0.2)
    plane.engine.hold("start")
    assert (await failed(stage, plane, ending=Ending.SERVER)).detail == "Hello was not ready after 0.2 seconds."


async def test_a_sandbox_that_dies_at_boot_shows_its_boot_log_and_what_the_engine_knows(
    stage: Stage, plane: Plane
) -> None:
    route = await failed(stage, plane, DiesAtBoot, ending=Ending.SERVER)
    assert "No module named 'htag'" in logs(plane, route)
    assert "the engine says: exit code 1" in logs(plane, route)


async def test_a_boot_log_is_shown_even_if_the_engine_says_nothing(stage: Stage, plane: Plane) -> None:
    plane.engine.broken["logs"] = EngineUnavailable("The engine does not answer.")
    assert "No module named 'htag'" in logs(plane, await failed(stage, plane, DiesAtBoot, ending=Ending.SERVER))


async def test_a_sandbox_that_dies_while_loading_fails_at_once(stage: Stage, plane: Plane) -> None:
    route = await failed(stage, plane, DiesAtLoad)
    assert "ended before it answered" in logs(plane, route)


async def test_a_connection_that_breaks_under_the_files_is_a_failed_start(stage: Stage) -> None:
    (stage.root / "apps" / "hello.py").unlink()
    folder = stage.root / "apps" / "hello"
    folder.mkdir()
    (folder / "app.py").write_text(SOURCE)
    for name in "abcd":
        (folder / f"{name}.bin").write_bytes(bytes(1024**2))
    route = await failed(stage, plane := await stage.open(), HangsUpAtFiles)
    assert logs(plane, route)


async def test_a_directory_that_holds_more_than_two_sockets_is_no_start(stage: Stage, plane: Plane) -> None:
    route = await failed(stage, plane, LeavesAFile, ending=Ending.SERVER)
    assert "extra" in logs(plane, route)


async def test_a_harness_of_another_release_is_named_as_that(stage: Stage, plane: Plane) -> None:
    assert "of another release" in logs(plane, await failed(stage, plane, IsOfAnotherRelease, ending=Ending.SERVER))


@pytest.mark.parametrize("error", [EngineUnavailable("The disk is full."), ImageNotFound("Build the image first.")])
async def test_what_the_engine_refuses_is_told_to_both(
    stage: Stage, plane: Plane, error: EngineUnavailable | ImageNotFound
) -> None:
    plane.engine.broken["start"] = error
    route = await failed(stage, plane, ending=Ending.SERVER)
    assert route.detail == str(error)
    assert str(error) in logs(plane, route)


@pytest.mark.unforeseen
async def test_an_error_that_nobody_foresaw_leaves_nothing_either(stage: Stage, plane: Plane) -> None:
    plane.engine.broken["start"] = RuntimeError("a bug")
    await failed(stage, plane, ending=Ending.SERVER)
    plane.engine.broken.clear()
    await plane.until_ready(ALICE, HELLO)


async def test_a_full_disk_under_the_outputs_leaves_nothing_either(stage: Stage, plane: Plane) -> None:
    folder = stage.root / "state" / "output"
    folder.rmdir()
    folder.touch()
    plane.engine.broken["start"] = EngineUnavailable("The disk is full.")
    await failed(stage, plane, ending=Ending.SERVER)


async def test_a_visitor_who_stops_a_start_leaves_nothing(stage: Stage, plane: Plane) -> None:
    stage.machine.next(NeverLoads)
    route = await plane.lease(ALICE, HELLO)
    await eventually(lambda: stage.machine.containers)
    assert await plane.release(ALICE, HELLO, Ending.VISITOR)
    assert stage.nothing_left_of(route.sandbox)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.VISITOR


async def test_closing_undoes_starts_and_leaves_what_runs(stage: Stage, plane: Plane) -> None:
    running = await plane.until_ready(ALICE, HELLO)
    stage.machine.next(NeverLoads)
    starting = await plane.lease(ALICE, CLOCK)
    await eventually(lambda: len(stage.machine.containers) == 2)
    await stage.close_plane(plane)
    assert list(stage.machine.containers) == stage.run_directory.ids() == [running.sandbox]
    assert starting.sandbox not in stage.machine.containers


async def test_a_tracked_step_follows_each_other(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    assert watch.states(ALICE, HELLO) == [
        (State.STARTING, "queued"),
        (State.STARTING, "creating"),
        (State.STARTING, "creating"),
        (State.STARTING, "starting"),
        (State.STARTING, "starting"),
        (State.STARTING, "loading"),
        (State.READY, "ready"),
    ]


async def test_a_disk_that_gets_full_under_a_loaded_app_is_not_the_apps_fault(stage: Stage, plane: Plane) -> None:
    def fill(spec: SandboxSpec) -> None:
        (stage.root / "run" / spec.sandbox_id / "lease.json.new").mkdir()

    plane.engine.starting = fill
    route = await plane.lease(ALICE, HELLO)
    ended = await plane.until_ended(ALICE, HELLO)
    assert (ended.step, ended.ending) == (Step.LOADING, Ending.SERVER)
    assert "can't be written" in logs(plane, ended)
    await eventually(lambda: stage.nothing_left_of(route.sandbox))


# -- what a kill -9 would find on disk -------------------------------------------------------------------------------


async def test_the_lease_is_on_disk_before_the_container_is_made(stage: Stage, plane: Plane) -> None:
    found: list[Lease | None] = []

    def look(spec: SandboxSpec) -> None:
        found.append(stage.run_directory.read_lease(spec.sandbox_id, Lease))

    plane.engine.starting = look
    await plane.until_ready(ALICE, HELLO)
    assert [(lease.state, lease.user) for lease in found if lease] == [("starting", ALICE)]


async def test_the_claim_is_on_disk_before_the_sandbox_has_a_user(stage: Stage, plane: Plane) -> None:
    found: list[tuple[str, str]] = []

    class Looks(Harness):
        async def note(self) -> None:
            lease = stage.run_directory.read_lease(self.spec.sandbox_id, Lease)
            assert lease is not None
            found.append((self.heard[-1]["type"], lease.state))

        async def on_load(self, load: Frame) -> None:
            await self.note()
            await super().on_load(load)

        async def on_claim(self, claim: Frame) -> None:
            await self.note()
            await super().on_claim(claim)

    stage.machine.next(Looks)
    await plane.until_ready(ALICE, HELLO)
    assert found == [("load", "starting"), ("claim", "claimed")]


# -- one start doesn't hold up another -------------------------------------------------------------------------------


async def test_apps_that_hang_while_loading_hold_up_nobody(stage: Stage, plane: Plane) -> None:
    hanging = 4 * (os.cpu_count() or 1)
    stage.machine.next(*[NeverLoads] * hanging)
    for number in range(hanging):
        await plane.lease(UserId(f"visitor-{number}"), HELLO)
    await eventually(lambda: len(stage.machine.containers) == hanging)
    async with asyncio.timeout(10):
        await plane.until_ready(BOB, HELLO)
