"""kill -9 of the orchestrator's process, at the moments when most is half done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from htagweb_orchestrator.model import AppName, State, UserId
from tests.attacks.processes import orchestrator, serves
from tests.attacks.stage import CONSOLE_SOURCE, Stage, eventually
from tests.engines.conftest import SOCKET

pytestmark = pytest.mark.docker

CONSOLE = AppName("console")


def _on_default_socket() -> None:
    if SOCKET != "/var/run/docker.sock":
        pytest.skip("the orchestrator's process looks for the engine at its usual place")


async def test_a_kill_during_the_self_test_leaves_no_canary(closed_stage: Stage) -> None:
    _on_default_socket()
    stage = closed_stage
    async with orchestrator(stage) as process:
        await eventually(stage.containers)
        process.kill()
        await process.wait()
    assert stage.run.ids()
    async with orchestrator(stage):
        client = await serves(stage)
        await client.close()
        await eventually(lambda: not stage.containers() and not stage.run.ids())


def _directory(stage: Stage) -> bool:
    return bool(stage.run.ids())


def _container(stage: Stage) -> bool:
    return bool(stage.containers())


def _sockets(stage: Stage) -> bool:
    return any((stage.run.sockets(each) / "app.sock").exists() for each in stage.run.ids())


@pytest.mark.parametrize("moment", [_directory, _container, _sockets])
async def test_11_a_kill_in_the_middle_of_a_start_leaves_nothing(
    closed_stage: Stage, moment: Callable[[Stage], bool]
) -> None:
    _on_default_socket()
    stage = closed_stage
    user = UserId("somebody")
    stage.publish(
        "console.py", "import time\ntime.sleep(1e6)\n" + CONSOLE_SOURCE
    )  # so that the start isn't over before
    async with orchestrator(stage) as process:
        client = await serves(stage)
        await eventually(lambda: not stage.containers() and not stage.run.ids())  # of the self-test
        route = await client.lease(user, CONSOLE)
        await eventually(lambda: moment(stage))
        process.kill()
        await process.wait()
        await client.close()
    stage.publish("console.py", CONSOLE_SOURCE)
    async with orchestrator(stage):
        client = await serves(stage)
        await eventually(lambda: not any(route.sandbox in name for name in stage.containers()))
        await eventually(lambda: route.sandbox not in stage.run.ids())
        again = await client.lease(user, CONSOLE, wait_s=20)  # and its user may try again
        assert (again.state, again.sandbox == route.sandbox) == (State.READY, False)
        assert [name for name in stage.containers() if again.sandbox not in name] == []
        await client.close()
