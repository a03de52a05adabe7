"""Each new version is tried out once, for nobody, in a sandbox that is thrown away."""

from __future__ import annotations

import pytest

from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator.errors import EngineUnavailable
from htagweb_orchestrator.model import State
from tests.orchestrator.harness import Frame, Harness
from tests.orchestrator.stage import ALICE, APPS, HELLO, SOURCE, Plane, Stage, eventually

FAILS, HANGS, FLOODS = "# fails\n", "# hangs\n", "# floods\n"


class Obeys(Harness):
    """Does what a comment in the app's file says."""

    async def on_load(self, load: Frame) -> None:
        source = b"".join(self.files.values()).decode()
        if FAILS in source:
            self.say(type="failed", stage="load", error="NameError: name 'WebApp' is not defined", traceback="trace\n")
        elif HANGS not in source:
            if FLOODS in source:
                self.say(type="output", text="the end\n", dropped=10_000_000)
            await super().on_load(load)


@pytest.fixture
def trying(stage: Stage) -> Stage:
    stage.machine.usual = Obeys
    return stage


def problem(plane: Plane, app: str = HELLO) -> str:
    return next(str(row["problem"]) for row in plane.operators.apps() if row["name"] == app)


def tried(stage: Stage) -> list[Harness]:
    """Those that rendered a page for nobody."""
    claimed = [each for each in stage.machine.harnesses if any(frame["type"] == "claim" for frame in each.heard)]
    return [each for each in claimed if not each.heard_of("claim")["session"] and each.spec.sandbox_id]


async def test_each_version_is_tried_once_and_nothing_is_left_of_it(trying: Stage) -> None:
    plane = await trying.open(trials=True, warm_min=0, warm_max=2)
    await eventually(lambda: len(tried(trying)) == len(APPS) and not trying.machine.containers)
    assert not [row for row in plane.operators.apps() if row["problem"]]
    await trying.close_plane(plane)
    again = await trying.open(trials=True, warm_min=0, warm_max=2)
    trying.write("another")
    await eventually(lambda: len(tried(trying)) == len(APPS) + 1 and not trying.machine.containers)
    assert not problem(again, "another")


async def test_a_visitor_finds_a_warm_one_while_versions_are_tried_out(
    trying: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)  # as many are tried at a time
    plane = await trying.open(trials=True, warm_min=2, warm_max=2)

    def calm() -> bool:
        states = [sandbox.state for sandbox in plane.sandboxes()]
        return len(tried(trying)) == len(APPS) and states == [State.WARM] * 2

    await eventually(calm, within_s=15)
    plane.engine.hold("start")  # nothing is started from here on
    starts = plane.engine.calls["start"]
    for name in ("one", "two"):
        trying.write(name, SOURCE + HANGS)
    await eventually(lambda: plane.engine.calls["start"] > starts, within_s=15)
    await plane.until_ready(ALICE, HELLO)


async def test_a_first_version_is_served_at_once_and_what_is_wrong_with_it_is_said(trying: Stage) -> None:
    trying.write(HELLO, SOURCE + FAILS)
    plane = await trying.open(trials=True, warm_min=0, warm_max=2)
    await eventually(lambda: problem(plane))
    said = problem(plane)
    assert said.startswith("when it was tried out on htag 1, it could not be imported: NameError: name 'WebApp'")
    assert said.endswith('let it say so: dependencies = ["htag>=2"]')
    error_id = said.partition("htagweb logs ")[2][:12]
    assert "trace" in next(iter(plane.operators.logs(error_id).values()))
    assert (await plane.lease(ALICE, HELLO, wait_s=5)).state is State.ENDED  # he finds out the same


async def test_a_new_version_that_goes_badly_doesnt_take_the_place_of_one_that_went_well(trying: Stage) -> None:
    plane = await trying.open(trials=True, warm_min=0, warm_max=2)
    await eventually(lambda: len(tried(trying)) == len(APPS))
    good = (await plane.until_ready(ALICE, HELLO)).sandbox
    trying.write(HELLO, SOURCE + FAILS)
    await eventually(lambda: problem(plane))
    (row,) = [row for row in await plane.operators.rows() if row["id"] == good]
    assert not row["outdated"]
    trying.write(HELLO, SOURCE + "# mended\n")
    await eventually(lambda: not problem(plane))
    await eventually(lambda: plane.outdated(plane.sandboxes(good)[0]))


async def test_an_import_that_hangs_or_floods_ends_in_a_clear_message(trying: Stage) -> None:
    trying.limit("hanging", start_timeout_s=0.5)
    trying.write("hanging", SOURCE + HANGS)
    trying.write("flooding", SOURCE + FLOODS)
    plane = await trying.open(trials=True, warm_min=0, warm_max=2)
    await eventually(lambda: problem(plane, "hanging") and problem(plane, "flooding"))
    assert problem(plane, "hanging").startswith("when it was tried out, importing it took longer than ")
    assert problem(plane, "flooding").startswith("when it was tried out, it wrote 9.5m of output (htagweb logs ")
    await eventually(lambda: not trying.machine.containers)


async def test_an_engine_that_fails_is_no_verdict_on_an_app(trying: Stage) -> None:
    plane = trying.plane(trials=True, warm_min=0, warm_max=2)
    starting: list[SandboxSpec] = []
    plane.engine.starting = starting.append
    plane.engine.broken["start"] = EngineUnavailable("the engine hiccups")
    await plane.open()
    await eventually(lambda: len(starting) >= len(APPS))
    assert not [row for row in plane.operators.apps() if row["problem"]]
    plane.engine.broken.clear()
    plane.clock.forward(31)
    await eventually(lambda: len(tried(trying)) == len(APPS))


async def test_nobody_is_tried_out_where_nothing_is_to_run_unasked(trying: Stage) -> None:
    plane = await trying.open(trials=True, warm_max=0)
    await plane.until_ready(ALICE, HELLO)
    await plane.reaped(1)
    assert len(trying.machine.harnesses) == 2  # hers, and that of the witness


async def test_a_warm_sandbox_is_used_where_there_is_one(trying: Stage) -> None:
    plane = await trying.open(trials=True, warm_min=2, warm_max=4)
    await eventually(lambda: len(tried(trying)) == len(APPS))
    await eventually(lambda: sum(s.state is State.WARM for s in plane.sandboxes()) == 2)
    blanks = {sandbox.id for sandbox in plane.sandboxes()}
    trying.write(HELLO, SOURCE + FAILS)
    await eventually(lambda: problem(plane))
    assert blanks - {sandbox.id for sandbox in plane.sandboxes() if sandbox.state is not State.ENDED}
