"""Nobody new is let in; what runs goes on."""

from __future__ import annotations

import pytest

from htagweb_orchestrator.errors import Draining
from htagweb_orchestrator.model import Ending, State, UserId
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Plane, Stage, eventually


async def test_what_runs_goes_on_and_nobody_new_is_let_in(stage: Stage, plane: Plane) -> None:
    running = await plane.until_ready(ALICE, HELLO)
    assert plane.operators.drain(True) == {"draining": True, "running": 1, "waiting": 0}
    for user, app in ((BOB, HELLO), (ALICE, CLOCK)):
        with pytest.raises(Draining, match="Try again"):
            await plane.lease(user, app)
    assert (await plane.lease(ALICE, HELLO)).sandbox == running.sandbox  # a reload
    assert not plane.operators.ready
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    assert plane.operators.drained()["running"] == 0
    with pytest.raises(Draining):
        await plane.lease(ALICE, HELLO)
    plane.operators.drain(False)
    await plane.until_ready(BOB, HELLO)
    assert plane.operators.ready


async def test_who_came_before_and_waits_is_served(stage: Stage) -> None:
    plane = await stage.open(max_sandboxes=1)
    await plane.until_ready(ALICE, HELLO)
    await plane.lease(BOB, HELLO)
    assert plane.operators.drain(True) == {"draining": True, "running": 2, "waiting": 1}
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    assert (await plane.lease(BOB, HELLO, wait_s=15.0)).state is State.READY


async def test_warm_ones_are_let_go_and_come_back(stage: Stage) -> None:
    plane = await stage.open(warm_max=10)

    def warm() -> int:
        return sum(sandbox.state is State.WARM for sandbox in plane.sandboxes())

    await eventually(warm, within_s=15)
    plane.operators.drain(True)
    await eventually(lambda: not plane.sandboxes(), within_s=15)
    plane.operators.drain(False)
    await eventually(warm, within_s=15)


async def test_nobody_is_offered_a_version_that_he_would_not_get(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    stage.write(HELLO, "from htag import Tag\n\n\nclass App(Tag.div):\n    changed = True\n")
    await eventually(lambda: watch.routes[ALICE, HELLO].outdated, within_s=15)
    plane.operators.drain(True)
    await eventually(lambda: not watch.routes[ALICE, HELLO].outdated, within_s=15)
    plane.operators.drain(False)
    await eventually(lambda: watch.routes[ALICE, HELLO].outdated, within_s=15)


async def test_it_is_told_with_every_list_and_not_remembered(stage: Stage, plane: Plane) -> None:
    await plane.until_ready(ALICE, HELLO)
    plane.operators.drain(True)
    assert any("drain --off" in warning for warning in plane.operators.warnings)
    await stage.close_plane(plane)
    following = await stage.open()
    assert following.operators.warnings == ()
    await following.until_ready(UserId("carol"), HELLO)
