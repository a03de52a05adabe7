"""Orchestrator and gateway as processes of their own over a stage's folders, as their containers run them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from htagweb_gateway.orchestrator_client import OrchestratorClient
from htagweb_orchestrator.errors import OrchestratorError
from htagweb_orchestrator.model import AppName, UserId
from tests.attacks.stage import Stage, eventually
from tests.engines.conftest import GATEWAY_GID, IMAGE
from tests.gateway.scripted import Wire


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
    async with _running(stage, "htagweb_orchestrator", environment) as process:
        yield process


async def serves(stage: Stage) -> OrchestratorClient:
    path = stage.folder / "ctl" / "orch.sock"
    await eventually(path.exists)
    client = OrchestratorClient(str(path))
    async with asyncio.timeout(20):
        while True:
            with suppress(OrchestratorError):
                await client.find(UserId("nobody"), AppName("console"))
                return client
            await asyncio.sleep(0.02)


class Listening:
    """Where a gateway is; what a Visitor needs to know of it."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def connect(self) -> Wire:
        return Wire(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 17))


@asynccontextmanager
async def gateway(stage: Stage, port: int) -> AsyncIterator[Listening]:
    (stage.folder / "gateway").mkdir(exist_ok=True)
    environment = {
        "HTAGWEB_CTL_DIR": str(stage.folder / "ctl"),
        "HTAGWEB_STATE_DIR": str(stage.folder / "gateway"),
        "HTAGWEB_LISTEN_HOST": "127.0.0.1",
        "HTAGWEB_LISTEN_PORT": str(port),
        "HTAGWEB_METRICS_PORT": "0",
    }
    found = Listening(port)
    async with _running(stage, "htagweb_gateway", environment):
        async with asyncio.timeout(20):
            while not await _ready(found):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield found


async def _ready(found: Listening) -> bool:
    try:
        wire = await found.connect()
        try:
            await wire.send(b"GET /-/readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return (await wire.response()).status == 200
        finally:
            wire.abort()
    except (OSError, asyncio.IncompleteReadError):
        return False


@asynccontextmanager
async def _running(stage: Stage, module: str, environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Killed at the end, if it still runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HTAGWEB_")}
    with (stage.folder / f"{module}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, env={**kept, **environment}, stderr=log
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
