"""kill -9 of the orchestrator's process, at the moments when most is half done."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from htagweb_gateway.orchestrator_client import OrchestratorClient
from htagweb_orchestrator.errors import OrchestratorError
from htagweb_orchestrator.model import AppName, State, UserId
from tests.attacks.stage import Stage, eventually
from tests.engines.conftest import GATEWAY_GID, IMAGE, SOCKET

pytestmark = pytest.mark.docker

CONSOLE = AppName("console")


@asynccontextmanager
async def orchestrator(stage: Stage, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of its own over the stage's folders, as a container would run it; killed at the end."""
    for name in ("ctl", "admin"):
        (stage.folder / name).mkdir(exist_ok=True)
    (stage.folder / "ctl" / "orch.sock").unlink(missing_ok=True)
    environment = {
        "HTAGWEB_INSTANCE": stage.instance,
        "HTAGWEB_RUN_VOLUME": stage.instance,
        "HTAGWEB_SANDBOX_IMAGE": IMAGE,
        "HTAGWEB_APPS_DIR": str(stage.folder / "apps"),
        "HTAGWEB_RUN_DIR": str(stage.run.path),
        "HTAGWEB_CTL_DIR": str(stage.folder / "ctl"),
        "HTAGWEB_ADMIN_DIR": str(stage.folder / "admin"),
        "HTAGWEB_STATE_DIR": str(stage.folder / "state"),
        "HTAGWEB_GATEWAY_UID": str(GATEWAY_GID),
        "HTAGWEB_WARM_MAX": "0",
        **settings,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HTAGWEB_")}
    with (stage.folder / "orchestrator.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "htagweb_orchestrator", env={**kept, **environment}, stderr=log
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def serves(stage: Stage) -> OrchestratorClient:
    path = stage.folder / "ctl" / "orch.sock"
    await eventually(path.exists)
    client = OrchestratorClient(str(path))
    async with asyncio.timeout(20):
        while True:
            with suppress(OrchestratorError):
                await client.find(UserId("nobody"), CONSOLE)
                return client
            await asyncio.sleep(0.02)


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
    async with orchestrator(stage) as process:
        client = await serves(stage)
        await eventually(lambda: not stage.containers() and not stage.run.ids())  # of the self-test
        route = await client.lease(user, CONSOLE)
        await eventually(lambda: moment(stage))
        process.kill()
        await process.wait()
        await client.close()
    async with orchestrator(stage):
        client = await serves(stage)
        await eventually(lambda: not any(route.sandbox in name for name in stage.containers()))
        await eventually(lambda: route.sandbox not in stage.run.ids())
        again = await client.lease(user, CONSOLE, wait_s=20)  # and its user may try again
        assert (again.state, again.sandbox == route.sandbox) == (State.READY, False)
        assert [name for name in stage.containers() if again.sandbox not in name] == []
        await client.close()
