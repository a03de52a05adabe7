"""What the operator's command is told."""

from __future__ import annotations

import asyncio

from htagweb_orchestrator.engines.base import Stats
from htagweb_orchestrator.errors import EngineUnavailable
from htagweb_orchestrator.model import Ending, Seen, State
from tests.orchestrator.harness import FailsAtLoad
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, SOURCE, Plane, Stage, eventually


async def test_a_row_says_who_what_how_long_and_why(stage: Stage, plane: Plane) -> None:
    watch = await plane.gateway()
    route = await plane.until_ready(ALICE, HELLO)
    stage.clock.forward(100)
    await watch.report({route.sandbox: Seen(idle_s=40, sockets=2)})
    plane.engine.use[route.sandbox] = Stats(memory_bytes=1000, cpu_s=1.5, pids=3)
    (row,) = await plane.operators.rows()
    version = row.pop("version")
    assert len(version) == 12
    assert row == {
        "id": route.sandbox,
        "user": "alice",
        "app": "hello",
        "state": "ready",
        "step": "ready",
        "age_s": 100.0,
        "idle_s": 40.0,
        "left_s": 860.0,
        "why": "until idle",
        "ws": 2,
        "memory_bytes": 1000,
        "cpu_s": 1.5,
        "pids": 3,
        "uid": stage.machine.containers[route.sandbox].spec.uid,
        "outdated": False,
    }


async def test_why_names_what_keeps_a_sandbox(stage: Stage) -> None:
    stage.limit("clock", max_lifetime_s=60.0)
    plane = await stage.open()
    await plane.until_ready(ALICE, HELLO)

    async def why(app: str) -> str:
        return next(str(row["why"]) for row in await plane.operators.rows() if row["app"] == app)

    assert await why("hello") == "no gateway reports: idle time stands still"
    await plane.gateway()
    await plane.until_ready(ALICE, CLOCK)
    assert await why("clock") == "until its max_lifetime"
    plane.engine.hold("start")
    await plane.lease(BOB, HELLO)
    await eventually(lambda: plane.engine.calls["start"] == 3)
    assert "starting: starting" in [row["why"] for row in await plane.operators.rows()]
    plane.engine.hold("stop")
    stage.machine.die(plane.sandboxes()[0].id, 1)
    await plane.until_ended(ALICE, HELLO)
    assert await why("hello") == "ending: crashed"


async def test_the_list_comes_without_an_engine_too(plane: Plane) -> None:
    await plane.until_ready(ALICE, HELLO)
    plane.engine.broken["stats"] = EngineUnavailable("The engine does not answer.")
    (row,) = await plane.operators.rows()
    assert row["memory_bytes"] is None


async def test_a_sandbox_of_an_older_version_is_outdated(stage: Stage, plane: Plane) -> None:
    await plane.until_ready(ALICE, HELLO)
    watch = await plane.gateway()
    stage.write("hello", f"{SOURCE}\nVERSION = 2\n")
    await eventually(lambda: watch.routes[ALICE, HELLO].outdated)
    assert [row["outdated"] for row in await plane.operators.rows()] == [True]


async def test_inspect_shows_address_limits_and_the_steps_of_the_start(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    (row,) = await plane.operators.inspect(route.sandbox[:12])
    assert row["address"] == f"{stage.run_directory.sockets(route.sandbox)}/app.sock"
    assert list(row["steps"]) == ["queue", "create", "start", "load", "render"]
    assert row["limits"].memory_bytes == 256 * 1024**2


async def test_inspect_shows_why_one_ended(plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    (row,) = await plane.operators.inspect(route.sandbox[:12])
    assert (row["id"], row["state"], row["ending"]) == (route.sandbox, "ended", "visitor")


async def test_inspect_shows_why_one_ends_while_it_is_being_removed(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    stop = plane.engine.hold("stop")
    stage.machine.die(route.sandbox, 9)
    await plane.until_ended(ALICE, HELLO)
    (row,) = await plane.operators.inspect(route.sandbox)
    assert (row["state"], row["ending"], row["detail"]) == (State.ENDED, Ending.CRASHED, "exit code 9")
    stop.set()


async def test_inspect_mixes_nobody_up_while_one_goes(stage: Stage, plane: Plane) -> None:
    await plane.until_ready(ALICE, HELLO)
    staying = await plane.until_ready(BOB, HELLO)
    stats = plane.engine.hold("stats")
    inspecting = asyncio.create_task(plane.operators.inspect(""))
    await eventually(lambda: plane.engine.calls["stats"])
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    stats.set()
    rows = {row["user"]: row for row in await inspecting}
    assert staying.sandbox in rows["bob"]["address"]
    assert "address" not in rows["alice"]


async def test_logs_of_one_that_ended_are_kept(stage: Stage, plane: Plane) -> None:
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    harness.say(type="output", text="its last words\n", dropped=5)
    assert await harness.change({"a": 1}) is None
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    stage.machine.next(FailsAtLoad)
    failed = await plane.lease(ALICE, HELLO, wait_s=5)
    kept = plane.operators.logs("")
    assert kept[harness.spec.sandbox_id] == "[5 bytes left out]\nits last words\n"
    assert "NameError: secret" in kept[failed.sandbox]


async def test_one_that_wrote_nothing_has_an_empty_log(plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    assert plane.operators.logs(route.sandbox) == {route.sandbox: ""}


async def test_reaping_all_at_once_takes_as_long_as_one(stage: Stage, plane: Plane) -> None:
    routes = [await plane.until_ready(user, app) for user in (ALICE, BOB) for app in (HELLO, CLOCK)]
    stop = plane.engine.hold("stop")
    reaping = asyncio.create_task(plane.operators.reap([route.sandbox for route in routes]))
    await eventually(lambda: plane.engine.calls["stop"] == 4)
    stop.set()
    assert {row["id"] for row in await reaping} == {route.sandbox for route in routes}
    assert stage.machine.containers == {}
