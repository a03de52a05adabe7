"""The stored record of a user: what one sandbox changes, the user's others see, and nobody else."""

from __future__ import annotations

import asyncio

import pytest

from htagweb_orchestrator import belongings
from htagweb_orchestrator.model import AppName, Ending, State, UserId
from htagweb_orchestrator.settings import AppSettings
from tests.orchestrator.harness import Frame, Harness, NeverLoads
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Plane, Stage, eventually

TODO = AppName("todo")


async def test_a_change_is_acknowledged_and_comes_back_with_the_next_claim(stage: Stage, plane: Plane) -> None:
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    assert await harness.change({"n": 1, "deep": {"list": [1, {"a": None}]}, "gone": True}) is None
    assert await harness.change({"n": 2}, delete=["gone", "never there"]) is None
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    again = stage.harness(await plane.until_ready(ALICE, HELLO))
    assert again.session == {"n": 2, "deep": {"list": [1, {"a": None}]}}


async def test_a_change_is_told_to_the_users_other_sandboxes_and_to_nobody_else(stage: Stage, plane: Plane) -> None:
    writer = stage.harness(await plane.until_ready(ALICE, HELLO))
    reader = stage.harness(await plane.until_ready(ALICE, CLOCK))
    stranger = stage.harness(await plane.until_ready(BOB, HELLO))
    assert await writer.change({"a": 1, "b": 2}) is None
    assert await writer.change({}, delete=["b"]) is None
    await eventually(lambda: len(reader.told()) == 2)
    assert reader.told()[0] == {"type": "session", "set": {"a": 1, "b": 2}, "del": []}
    assert reader.session == {"a": 1}
    assert await stranger.change({"mine": True}) is None  # a round trip: whatever was on its way has arrived
    assert stranger.told() == writer.told() == []
    assert reader.session == {"a": 1}


async def test_what_a_route_changes_has_been_heard_before_it_answers(
    stage: Stage, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(belongings, "HEARD_S", 60.0)  # however busy the machine is
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    for number in range(20):
        await plane.belongings.patch_session(ALICE, HELLO, {"n": number}, [])
        assert harness.session == {"n": number}


async def test_an_app_that_is_deaf_holds_no_route_up(stage: Stage, plane: Plane) -> None:
    class Deaf(Harness):
        async def _hear(self, frame: Frame, reader: asyncio.StreamReader) -> None:
            if frame["type"] != "ping":
                await super()._hear(frame, reader)

    stage.machine.next(Deaf)
    await plane.until_ready(ALICE, HELLO)
    async with asyncio.timeout(15):
        await plane.belongings.patch_session(ALICE, HELLO, {"n": 1}, [])


async def test_an_app_that_is_no_htag_app_gets_nothing_of_the_record(stage: Stage) -> None:
    stage.write("other", "from starlette.applications import Starlette\napp = Starlette()\n")
    plane = await stage.open()
    writer = stage.harness(await plane.until_ready(ALICE, HELLO))
    assert await writer.change({"a": 1}) is None
    other = stage.harness(await plane.until_ready(ALICE, AppName("other")))
    reader = stage.harness(await plane.until_ready(ALICE, CLOCK))
    assert await writer.change({"a": 2}) is None
    await eventually(lambda: reader.told())
    assert (other.session, other.told()) == ({}, [])


async def test_two_users_never_see_each_others_record(stage: Stage, plane: Plane) -> None:
    users = [UserId(f"user-{number}") for number in range(8)]
    harnesses = [stage.harness(await plane.until_ready(user, HELLO)) for user in users]
    changes = [
        harness.changing({"who": user, "round": number})
        for number in range(10)
        for user, harness in zip(users, harnesses, strict=True)
    ]
    assert set(await asyncio.wait_for(asyncio.gather(*changes), 10)) == {None}
    for user in users:
        await plane.release(user, HELLO, Ending.VISITOR)
        again = stage.harness(await plane.until_ready(user, HELLO))
        assert again.session == {"who": user, "round": 9}


async def test_the_last_writer_wins_per_key(stage: Stage, plane: Plane) -> None:
    first = stage.harness(await plane.until_ready(ALICE, HELLO))
    second = stage.harness(await plane.until_ready(ALICE, CLOCK))
    assert await first.change({"shared": 1, "first": 1}) is None
    assert await second.change({"shared": 2, "second": 2}) is None
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    again = stage.harness(await plane.until_ready(ALICE, HELLO))
    assert again.session == {"shared": 2, "first": 1, "second": 2}


async def test_of_two_who_write_at_once_the_first_can_tell_that_it_lost(stage: Stage, plane: Plane) -> None:
    """Who hears of another's change after its own ack has lost; before its ack, it has won."""
    harnesses = [stage.harness(await plane.until_ready(ALICE, app)) for app in (HELLO, CLOCK)]
    for number in range(50):
        answers = [harness.changing({"key": f"{number} {place}"}) for place, harness in enumerate(harnesses)]
        assert await asyncio.wait_for(asyncio.gather(*answers), 5) == [None, None]
        await eventually(lambda: all(len(harness.told()) == number + 1 for harness in harnesses))  # noqa: B023
        kept = []
        for place, harness in enumerate(harnesses):
            kinds = [frame for frame in harness.heard if frame["type"] in ("session", "session.ack")][-2:]
            own_came_last = kinds[-1]["type"] == "session.ack"
            kept.append(f"{number} {place}" if own_came_last else kinds[-1]["set"]["key"])
        assert kept[0] == kept[1]


async def test_a_change_that_is_too_large_is_refused_and_changes_nothing(stage: Stage) -> None:
    plane = await stage.open(session_size_bytes=1000)
    writer = stage.harness(await plane.until_ready(ALICE, HELLO))
    reader = stage.harness(await plane.until_ready(ALICE, CLOCK))
    assert await writer.change({"a": "x" * 900}) is None
    error = await writer.change({"b": "y" * 900, "c": 1})
    assert error == "the session would be larger than 1000 bytes; the old value was kept"
    assert await writer.change({"d": 1}) is None
    await eventually(lambda: reader.session == {"a": "x" * 900, "d": 1})
    assert await writer.change({"b": "y" * 900}, delete=["a"]) is None


async def test_a_store_that_can_not_be_written_is_told_to_the_app(stage: Stage, plane: Plane) -> None:
    writer = stage.harness(await plane.until_ready(ALICE, HELLO))
    with stage.broken_store():
        assert await writer.change({"a": 1}) == "the session could not be stored; the old value was kept"
    assert await writer.change({"a": 1}) is None


async def test_a_change_on_its_way_at_the_end_is_still_stored(stage: Stage, plane: Plane) -> None:
    class FlushesAtItsEnd(Harness):
        async def on_end(self, end: Frame) -> None:
            self.changing({"last": "words"}).add_done_callback(lambda _: self.exit(0))

    stage.machine.next(FlushesAtItsEnd)
    await plane.until_ready(ALICE, HELLO)
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    assert stage.harness(await plane.until_ready(ALICE, HELLO)).session == {"last": "words"}


async def test_a_sandbox_that_is_still_starting_gets_what_was_changed_meanwhile(stage: Stage, plane: Plane) -> None:
    writer = stage.harness(await plane.until_ready(ALICE, HELLO))
    stage.machine.next(NeverLoads)
    route = await plane.lease(ALICE, CLOCK)
    await eventually(lambda: route.sandbox in stage.machine.containers)
    starting = stage.harness(route)
    await eventually(lambda: starting.stage == "loaded")
    assert await writer.change({"a": 1}) is None
    starting.say(type="ready", stage="load")
    await eventually(lambda: starting.stage == "claimed")
    assert starting.session == {"a": 1}


async def test_an_app_may_keep_a_session_to_itself(stage: Stage) -> None:
    stage.apps["clock"] = AppSettings(session="app")
    plane = await stage.open()
    shared = stage.harness(await plane.until_ready(ALICE, HELLO))
    private = stage.harness(await plane.until_ready(ALICE, CLOCK))
    assert await private.change({"secret": 1}) is None
    assert await shared.change({"open": 1}) is None
    assert await private.change({"more": 1}) is None  # a round trip: whatever was on its way has arrived
    assert private.told() == shared.told() == []
    assert await plane.belongings.session(ALICE, HELLO) == await plane.belongings.session(ALICE, TODO) == {"open": 1}
    assert await plane.belongings.session(ALICE, CLOCK) == {"secret": 1, "more": 1}
    await plane.release(ALICE, CLOCK, Ending.VISITOR)
    assert stage.harness(await plane.until_ready(ALICE, CLOCK)).session == {"secret": 1, "more": 1}


async def test_without_the_store_running_apps_go_on_and_no_app_begins_with_an_empty_session(
    stage: Stage, plane: Plane
) -> None:
    """It would write over what is on record, once that can be reached again."""
    running = stage.harness(route := await plane.until_ready(ALICE, HELLO))
    assert await running.change({"kept": 1}) is None
    with stage.broken_store():
        assert await running.change({"kept": 2}) == "the session could not be stored; the old value was kept"
        refused = await plane.lease(ALICE, CLOCK, wait_s=5)
        assert (refused.state, refused.ending) == (State.ENDED, Ending.SERVER)
        assert "session can't be read" in refused.detail
        found = await plane.find(ALICE, HELLO)
        assert found is not None
        assert (found.sandbox, found.state) == (route.sandbox, State.READY)
    assert stage.harness(await plane.until_ready(ALICE, CLOCK)).session == {"kept": 1}
