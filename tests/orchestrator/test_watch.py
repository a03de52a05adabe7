"""The route table as it is pushed to the gateways."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from htagweb_orchestrator.hub import QUEUE
from htagweb_orchestrator.model import AppsChanged, Ending, Route, RouteChanged, SandboxId, Seen, Snapshot, State, Step
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, SOURCE, Plane, Stage, Watch, eventually


async def test_a_watch_begins_with_all_that_is_known(stage: Stage, plane: Plane) -> None:
    running = await plane.until_ready(ALICE, HELLO)
    await plane.until_ready(ALICE, CLOCK)
    await plane.release(ALICE, CLOCK, Ending.VISITOR)
    plane.engine.hold("start")
    await plane.lease(BOB, HELLO)
    async with aclosing(plane.watch("gateway-1")) as changes:
        first = await anext(changes)
    assert isinstance(first, Snapshot)
    assert {(route.user, route.app): route.state for route in first.routes} == {
        (ALICE, HELLO): State.READY,
        (ALICE, CLOCK): State.ENDED,
        (BOB, HELLO): State.STARTING,
    }
    assert {card.name for card in first.apps} >= {HELLO, CLOCK}
    assert next(route for route in first.routes if route.sandbox == running.sandbox).address == running.address


async def test_every_watch_sees_the_same_changes_in_order(stage: Stage, plane: Plane) -> None:
    first, second = await plane.gateway("gateway-1"), await plane.gateway("gateway-2")
    await plane.until_ready(ALICE, HELLO)
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    await plane.until_ready(ALICE, HELLO)
    await eventually(lambda: len(first.seen) == len(second.seen))
    assert first.states(ALICE, HELLO) == second.states(ALICE, HELLO)
    turns = [state for state, _ in first.states(ALICE, HELLO)]
    ready, ended = turns.index(State.READY), turns.index(State.ENDED)
    assert set(turns[:ready]) == set(turns[ended + 1 : -1]) == {State.STARTING}
    assert (turns[ready + 1], turns[-1]) == (State.ENDED, State.READY)


async def test_an_address_is_told_only_while_the_sandbox_is_ready(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    routes = [change.route for change in watch.seen if isinstance(change, RouteChanged)]
    assert all((route.address is not None) == (route.state is State.READY) for route in routes)


async def test_who_lags_too_far_behind_is_cut_and_begins_again(stage: Stage, plane: Plane) -> None:
    async with aclosing(plane.watch("slow")) as changes:
        assert isinstance(await anext(changes), Snapshot)
        keeping_up = await plane.gateway("keeping-up")
        plane.engine.steps = [Step.CREATING] * (QUEUE // 2)
        for app in (HELLO, CLOCK):
            await plane.until_ready(ALICE, app)
            await eventually(lambda: (ALICE, app) in keeping_up.routes)  # noqa: B023
        assert [change async for change in changes] == []
    again = await plane.gateway("slow")
    assert {key: route.state for key, route in again.routes.items()} == {
        (ALICE, HELLO): State.READY,
        (ALICE, CLOCK): State.READY,
    }


async def test_a_new_version_of_an_app_is_told_and_what_runs_is_outdated(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    await plane.until_ready(ALICE, HELLO)
    stage.write("hello", f"{SOURCE}\nVERSION = 2\n")
    await eventually(lambda: watch.routes[ALICE, HELLO].outdated)
    assert any(isinstance(change, AppsChanged) for change in watch.seen)
    assert not (await plane.until_ready(BOB, HELLO)).outdated


async def test_closing_ends_every_watch(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    await stage.close_plane(plane)
    await eventually(watch.over.is_set)


async def test_a_gateway_that_comes_back_while_the_service_stops_holds_nothing_up(plane: Plane) -> None:
    """Its next watch would be broken off in the end, as a fault, after the server had waited for it."""
    await plane.close()
    async with aclosing(plane.watch("gateway-1")) as changes, asyncio.timeout(15):
        assert [change async for change in changes] == []


async def test_what_one_gateway_counted_goes_with_its_watch(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway("gateway-1")
    route: Route = await plane.until_ready(ALICE, HELLO)
    await watch.report({route.sandbox: Seen(idle_s=0, sockets=2)})
    await plane.activity("gateway-2", {route.sandbox: Seen(idle_s=0, sockets=1)})
    assert [row["ws"] for row in await plane.operators.rows()] == [3]
    await watch.close()
    assert [row["ws"] for row in await plane.operators.rows()] == [1]


async def test_reports_on_sandboxes_that_are_gone_are_passed_over(stage: Stage, plane: Plane) -> None:
    watch = Watch(plane, "gateway-1")
    await watch.report({SandboxId("0" * 32): Seen(idle_s=0)})
