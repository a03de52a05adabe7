"""Leases: one start however many ask, and who is refused."""

from __future__ import annotations

import asyncio

import pytest

from htagweb_orchestrator.errors import AppBroken, AppNotFound, RateLimited, UserLimitReached
from htagweb_orchestrator.model import AppName, Ending, State, Step, UserId
from htagweb_orchestrator.settings import AppSettings
from tests.orchestrator.harness import NeverLoads
from tests.orchestrator.stage import ALICE, APPS, BOB, CLOCK, HELLO, Plane, Stage, eventually


async def test_twenty_parallel_first_requests_start_one_sandbox(stage: Stage, plane: Plane) -> None:
    routes = await asyncio.gather(*(plane.lease(ALICE, HELLO, wait_s=5) for _ in range(20)))
    assert {(route.sandbox, route.state) for route in routes} == {(routes[0].sandbox, State.READY)}
    assert plane.engine.calls["start"] == 1


async def test_two_tabs_of_one_user_share_one_sandbox(plane: Plane) -> None:
    first = await plane.until_ready(ALICE, HELLO)
    second = await plane.until_ready(ALICE, HELLO)
    assert (first.sandbox, first.address) == (second.sandbox, second.address)


async def test_two_users_and_two_apps_have_sandboxes_of_their_own(stage: Stage, plane: Plane) -> None:
    routes = [await plane.until_ready(user, app) for user in (ALICE, BOB) for app in (HELLO, CLOCK)]
    specs = [stage.machine.containers[route.sandbox].spec for route in routes]
    assert len({spec.uid for spec in specs}) == len({spec.directory for spec in specs}) == 4


async def test_a_sandbox_gets_its_app_and_its_visitors_query(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO, query="a&b=1")
    harness = stage.harness(route)
    load, claim = harness.heard_of("load"), harness.heard_of("claim")
    assert (load["app"], load["entry"]) == ("hello", "hello:App")
    assert list(harness.files) == ["hello.py"]
    assert (claim["query"], claim["prefix"], claim["session"]) == ("a&b=1", "/hello", {})


async def test_a_sandbox_is_told_how_its_app_talks(stage: Stage) -> None:
    stage.apps["hello"] = AppSettings(http_only=True, parano=True)
    plane = await stage.open()
    told = [stage.harness(await plane.until_ready(ALICE, app)).heard_of("load") for app in (HELLO, CLOCK)]
    assert [(load["http_only"], load["parano"]) for load in told] == [(True, True), (False, False)]


async def test_nothing_of_the_app_is_sent_before_the_directory_is_sealed(stage: Stage, plane: Plane) -> None:
    modes = []

    class Looks(NeverLoads):
        async def on_hello(self) -> None:
            modes.append(stage.run_directory.sockets(self.spec.sandbox_id).stat().st_mode & 0o777)
            await super().on_hello()

    stage.machine.next(Looks)
    await plane.lease(ALICE, HELLO)
    await eventually(lambda: modes)
    assert modes == [0o711]


async def test_a_caller_who_leaves_does_not_cancel_the_start_that_another_awaits(stage: Stage, plane: Plane) -> None:
    started = plane.engine.hold("start")
    leaving = asyncio.create_task(plane.lease(ALICE, HELLO, wait_s=30))
    staying = asyncio.create_task(plane.lease(ALICE, HELLO, wait_s=30))
    await eventually(lambda: plane.engine.calls["start"])
    leaving.cancel()
    await asyncio.wait({leaving})
    started.set()
    assert (await staying).state is State.READY
    assert plane.engine.calls["start"] == 1


async def test_a_lease_returns_after_its_wait_with_how_far_the_start_is(plane: Plane) -> None:
    plane.engine.hold("start")
    route = await plane.lease(ALICE, HELLO, wait_s=0.05)
    assert (route.state, route.step, route.address) == (State.STARTING, Step.STARTING, None)


async def test_a_lease_without_a_wait_returns_at_once(plane: Plane) -> None:
    route = await plane.lease(ALICE, HELLO)
    assert (route.state, route.step) == (State.STARTING, Step.QUEUED)


async def test_find_starts_nothing(stage: Stage, plane: Plane) -> None:
    assert await plane.find(ALICE, HELLO) is None
    assert plane.sandboxes() == []


async def test_an_expected_time_is_told_after_the_first_start(stage: Stage, plane: Plane) -> None:
    assert (await plane.lease(ALICE, HELLO)).expected_s is None
    plane.engine.starting = lambda spec: stage.clock.forward(4.0)
    await plane.until_ready(ALICE, HELLO)
    route = await plane.lease(BOB, HELLO)
    assert route.expected_s == pytest.approx(4.0, abs=0.1)
    assert route.expected_most_s == route.expected_s
    await plane.until_ready(BOB, HELLO)
    plane.engine.starting = lambda spec: stage.clock.forward(9.0)
    await plane.until_ready(UserId("carol"), HELLO)
    route = await plane.lease(UserId("dave"), HELLO)
    assert route.expected_s == pytest.approx(4.0, abs=0.1)
    assert route.expected_most_s == pytest.approx(8.5, abs=0.1)


# -- refusals --------------------------------------------------------------------------------------------------------


async def test_an_unknown_app_is_refused(plane: Plane) -> None:
    with pytest.raises(AppNotFound):
        await plane.lease(ALICE, AppName("htagweb-sandbox"))
    assert plane.engine.calls["start"] == 0


async def test_a_broken_app_is_refused_with_what_is_wrong(stage: Stage) -> None:
    stage.write("hello", "class App(\n")
    plane = await stage.open()
    with pytest.raises(AppBroken) as refused:
        await plane.lease(ALICE, HELLO)
    assert "hello.py, line 1" in refused.value.facts["detail"]


async def test_the_limit_holds_for_twenty_parallel_leases_of_different_apps(stage: Stage) -> None:
    for number in range(20):
        stage.write(f"app{number}")
    plane = await stage.open(max_per_user=5)
    asked = [plane.lease(ALICE, AppName(f"app{number}"), wait_s=5) for number in range(20)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, UserLimitReached)]
    assert (len(refused), plane.engine.calls["start"], stage.machine.most) == (15, 5, 5)


async def test_all_that_a_user_has_running_is_told_at_once_and_nobody_elses(plane: Plane) -> None:
    mine = [await plane.until_ready(ALICE, app) for app in (HELLO, CLOCK)]
    await plane.until_ready(BOB, HELLO)
    assert {route.sandbox for route in await plane.running(ALICE)} == {route.sandbox for route in mine}
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    assert [route.app for route in await plane.running(ALICE)] == [CLOCK]


async def test_an_app_may_open_for_those_only_who_have_little_else_running(stage: Stage) -> None:
    stage.apps[CLOCK] = AppSettings(max_per_user=1)
    plane = await stage.open(max_per_user=5)
    await plane.until_ready(ALICE, HELLO)
    with pytest.raises(UserLimitReached, match="1 is the limit"):
        await plane.lease(ALICE, CLOCK)
    await plane.until_ready(BOB, CLOCK)
    await plane.until_ready(BOB, HELLO)  # which has no such limit


async def test_sandboxes_that_are_starting_count_for_the_limit(plane: Plane) -> None:
    plane.engine.hold("start")
    for app in APPS[:5]:
        await plane.lease(ALICE, AppName(app))
    with pytest.raises(UserLimitReached) as refused:
        await plane.lease(ALICE, AppName(APPS[5]))
    assert refused.value.facts["limit"] == "5"
    await plane.lease(BOB, HELLO)


async def test_the_limit_names_the_app_that_is_idle_longest(stage: Stage, plane: Plane) -> None:
    await plane.gateway()  # idle time stands still while none reports
    for app in APPS[:5]:
        stage.clock.forward(1.0)
        await plane.until_ready(ALICE, AppName(app))
    with pytest.raises(UserLimitReached) as refused:
        await plane.lease(ALICE, AppName(APPS[5]))
    assert refused.value.facts["longest_idle"] == APPS[0]


async def test_ending_one_makes_room_for_another(plane: Plane) -> None:
    for app in APPS[:5]:
        await plane.until_ready(ALICE, AppName(app))
    assert await plane.release(ALICE, HELLO, Ending.VISITOR)
    await plane.until_ready(ALICE, AppName(APPS[5]))


async def test_a_failed_start_does_not_count_for_the_limit(stage: Stage, plane: Plane) -> None:
    plane.engine.broken["start"] = AppNotFound("no")
    for app in APPS[:6]:
        await plane.lease(ALICE, AppName(app), wait_s=5)


async def test_a_user_who_starts_too_often_is_refused_for_a_minute_and_nobody_else(stage: Stage) -> None:
    plane = await stage.open(starts_per_minute=3)
    for _ in range(3):
        await plane.until_ready(ALICE, HELLO)
        await plane.release(ALICE, HELLO, Ending.VISITOR)
    with pytest.raises(RateLimited):
        await plane.lease(ALICE, HELLO)
    await plane.until_ready(BOB, HELLO)
    stage.clock.forward(61)
    await plane.until_ready(ALICE, HELLO)
