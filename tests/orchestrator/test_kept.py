"""What apps keep for their users, with the sandboxes that have it mounted."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from htagweb_orchestrator.model import Ending, State, UserId
from htagweb_orchestrator.settings import AppSettings
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Plane, Stage, eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which takes root")
MIB = 1 << 20


@pytest.fixture
async def keeping(stage: Stage) -> Plane:
    for app in (HELLO, CLOCK):
        stage.apps[app] = AppSettings(overrides={"data_bytes": MIB})
    return await stage.open(warm_min=1, warm_max=2)


def kept(stage: Stage) -> set[tuple[str, str]]:
    return {(about.user, about.app) for about in stage.data.all().values()}


async def test_a_sandbox_is_made_with_the_folder_of_its_user_and_app(stage: Stage, keeping: Plane) -> None:
    specs = [
        stage.harness(await keeping.until_ready(user, app)).spec
        for user, app in ((ALICE, HELLO), (ALICE, CLOCK), (BOB, HELLO))
    ]
    assert len({spec.data for spec in specs}) == 3
    assert kept(stage) == {(ALICE, HELLO), (ALICE, CLOCK), (BOB, HELLO)}
    for spec in specs:
        assert (stage.root / "data" / spec.data / "d").stat().st_uid == spec.uid
    assert not [
        each for each in keeping.sandboxes() if not each.lease.user and each.lease.limits.data_bytes
    ]  # no warm one


async def test_the_next_sandbox_waits_until_the_one_before_is_gone(stage: Stage, keeping: Plane) -> None:
    first = await keeping.until_ready(ALICE, HELLO)
    stopping = keeping.engine.hold("stop")
    before = stage.harness(first).spec
    ending = asyncio.create_task(keeping.release(ALICE, HELLO, Ending.VISITOR))
    await eventually(lambda: keeping.engine.calls["stop"])
    route = await keeping.lease(ALICE, HELLO)
    await keeping.until_ready(BOB, HELLO)  # who need not wait
    assert keeping.sandboxes(route.sandbox)[0].state is State.STARTING
    folder = stage.root / "data" / before.data / "d"
    assert folder.stat().st_uid == before.uid
    stopping.set()
    await ending
    after = stage.harness(await keeping.until_ready(ALICE, HELLO)).spec
    assert (after.data, folder.stat().st_uid) == (before.data, after.uid)


async def test_an_account_that_is_removed_takes_its_data_along(stage: Stage, keeping: Plane) -> None:
    await keeping.until_ready(ALICE, HELLO)
    await keeping.until_ready(BOB, HELLO)
    await keeping.release(ALICE, HELLO, Ending.VISITOR)
    await keeping.belongings.forget(ALICE)
    assert kept(stage) == {(BOB, HELLO)}


async def test_operators_see_it_and_remove_what_nobody_has_now(stage: Stage, keeping: Plane) -> None:
    await keeping.until_ready(ALICE, HELLO)
    await keeping.until_ready(BOB, HELLO)
    await keeping.release(ALICE, HELLO, Ending.VISITOR)
    rows = {row["user"]: row["in_use"] for row in await keeping.operators.data()}
    assert rows == {ALICE: False, BOB: True}
    removed = await keeping.operators.remove_data(None, HELLO)
    assert {row["user"]: row["removed"] for row in removed} == {ALICE: True, BOB: False}
    assert kept(stage) == {(BOB, HELLO)}


async def test_what_nobody_can_come_back_for_is_pruned(stage: Stage, keeping: Plane) -> None:
    assert keeping.kept is not None
    gone, named = UserId("anon-gone"), UserId("ann")
    for user in (gone, named):
        await keeping.until_ready(user, HELLO)
        await keeping.release(user, HELLO, Ending.VISITOR)
    stage.data.prepare(UserId(""), HELLO, 20001, scratch="0" * 32)  # of a version that was tried out
    await keeping.kept.prune()
    assert kept(stage) == {(gone, HELLO), (named, HELLO)}
    keeping.kept._anonymous_life_s = -1.0
    await keeping.kept.prune()
    assert kept(stage) == {(named, HELLO)}


async def test_what_cannot_be_prepared_fails_the_start_and_says_why(stage: Stage, keeping: Plane) -> None:
    spec = stage.harness(await keeping.until_ready(ALICE, HELLO)).spec
    await keeping.release(ALICE, HELLO, Ending.VISITOR)
    folder = stage.root / "data" / spec.data / "d"
    folder.rmdir()
    folder.symlink_to(Path("/etc"))
    route = await keeping.lease(ALICE, HELLO, wait_s=5)
    assert (route.state, route.ending) == (State.ENDED, Ending.SERVER)
    assert "/data can't be used" in keeping.operators.logs(route.sandbox)[route.sandbox]
    assert os.stat("/etc").st_uid == 0
