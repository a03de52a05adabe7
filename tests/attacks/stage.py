"""The platform in one process: a real engine, a control plane, a gateway on port 0, and nothing faked."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import docker

from htagweb_gateway.app import Gateway
from htagweb_gateway.door import FrontWebSocket
from htagweb_gateway.identity import Identity
from htagweb_orchestrator.admission import Admission
from htagweb_orchestrator.app_images import AppImages
from htagweb_orchestrator.catalogue import Catalogue
from htagweb_orchestrator.config_file import ConfigFile
from htagweb_orchestrator.control import ControlPlane
from htagweb_orchestrator.data import DataFolders
from htagweb_orchestrator.engines.docker import DockerEngine
from htagweb_orchestrator.engines.docker_images import DockerImages
from htagweb_orchestrator.engines.docker_options import INSTANCE, container_name
from htagweb_orchestrator.model import Ending, SandboxId, UserId
from htagweb_orchestrator.output import OutputFiles
from htagweb_orchestrator.registry import Sandbox
from htagweb_orchestrator.rundir import RunDirectory
from htagweb_orchestrator.sessions import Sessions
from htagweb_orchestrator.settings import Settings
from htagweb_orchestrator.verdicts import Verdicts
from tests.attacks.visitor import Visitor
from tests.engines.conftest import GATEWAY_GID, IMAGE, SOCKET
from tests.gateway.scripted import Server, gateway

T = TypeVar("T")
CONSOLE_SOURCE = (Path(__file__).parent / "console.py").read_text()


async def eventually(condition: Callable[[], T], *, within_s: float = 15.0) -> T:
    """The condition's first true value; fail after `within_s`."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        await asyncio.sleep(0.02)
    return value


class Stage:
    """One installation of its own: instance, run volume, apps. Needs root, as the orchestrator does."""

    control: ControlPlane
    gateway: Gateway
    server: Server

    def __init__(self, folder: Path, client: docker.APIClient, base_url: str = f"unix://{SOCKET}") -> None:
        self.folder = folder
        self.client = client
        self.instance = f"htagweb-attacks-{secrets.token_hex(6)}"
        self.base_url = base_url
        self._open = AsyncExitStack()
        for name in ("apps", "state"):
            (folder / name).mkdir()
        self.publish("console.py", CONSOLE_SOURCE)
        self.data_volume = f"{self.instance}-data"
        for volume_name in (self.instance, self.data_volume):
            client.create_volume(volume_name, labels={INSTANCE: self.instance})
        self.data = Path(client.inspect_volume(self.data_volume)["Mountpoint"])
        volume: dict[str, Any] = client.inspect_volume(self.instance)
        self.run = RunDirectory(Path(volume["Mountpoint"]), GATEWAY_GID)

    def publish(self, path: str, source: str) -> None:
        """`path` is below apps/: "name.py", or a file of a folder."""
        file = self.folder / "apps" / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)

    def settings(self, **values: Any) -> Settings:
        values.setdefault("warm_max", 0)  # a test that counts containers counts its visitors'
        return Settings(
            instance=self.instance,
            run_volume=self.instance,
            data_volume=self.data_volume,
            data_dir=self.data,
            sandbox_image=IMAGE,
            apps_dir=self.folder / "apps",
            state_dir=self.folder / "state",
            run_dir=self.run.path,
            **values,
        )

    async def open(
        self,
        *,
        engine: DockerEngine | None = None,
        selftest: bool = False,
        app_images: AppImages | None = None,
        maker: DockerImages | None = None,
        verdicts: Verdicts | None = None,
        admission: Admission | None = None,
        config: ConfigFile | None = None,
        **values: Any,
    ) -> None:
        """Serve, with these settings, and what changes in `config`. With `app_images` and `maker`, apps get their
        packages; with `verdicts`, they are tried out."""
        settings = self.settings(**values)
        self.engine = engine or DockerEngine(
            instance=self.instance, run_volume=self.instance, data_volume=self.data_volume, base_url=self.base_url
        )
        sessions = Sessions(self.folder / "state" / "sessions.sqlite")
        self._open.callback(sessions.close)
        self.output = OutputFiles(self.folder / "state" / "output")
        self.catalogue = Catalogue(settings, images=app_images, verdicts=verdicts, config=config)
        self.control = ControlPlane(
            engine=self.engine,
            catalogue=self.catalogue,
            settings=settings,
            run=self.run,
            sessions=sessions,
            output=self.output,
            prover=self.engine if selftest else None,
            data=DataFolders(self.data),
            images=app_images,
            maker=maker,
            verdicts=verdicts,
            admission=admission,
        )
        await self.control.open()
        self._open.push_async_callback(self._close_control)
        self.gateway = Gateway(orchestrator=self.control, identity=Identity(secrets.token_bytes(32)))
        await self._open.enter_async_context(self.gateway.running())
        # As htagweb_gateway.__main__ has it.
        self.server = await self._open.enter_async_context(
            gateway(self.gateway, ws=FrontWebSocket, ws_max_size=1 << 30, ws_per_message_deflate=False)
        )
        await eventually(lambda: self.gateway.routes.filled)

    async def _close_control(self) -> None:
        await self.control.end(self.control.sandboxes(), Ending.OPERATOR)
        await self.control.close()

    def visitor(self, host: str = "") -> Visitor:
        return Visitor(self.server, host)

    async def console(self, visitor: Visitor | None = None, *, app: str = "console") -> Visitor:
        """A new visitor, or this one, with a hostile sandbox of his own."""
        visitor = visitor or self.visitor()
        await visitor.take_over(app)
        return visitor

    # -- what the host knows of a sandbox ------------------------------------------------------------------------

    def sandbox(self, visitor: Visitor, app: str = "console") -> Sandbox:
        return next(each for each in self.control.sandboxes() if self._is(each, visitor.user, app))

    @staticmethod
    def _is(sandbox: Sandbox, user: UserId, app: str) -> bool:
        return (sandbox.lease.user, sandbox.lease.app) == (user, app)

    def inspect(self, sandbox_id: SandboxId) -> dict[str, Any]:
        found: dict[str, Any] = self.client.inspect_container(container_name(sandbox_id))
        return found

    def on_host(self, visitor: Visitor) -> dict[str, str]:
        """/proc/<pid>/status of the sandbox's first process, which it can't forge."""
        pid = self.inspect(self.sandbox(visitor).id)["State"]["Pid"]
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def containers(self) -> list[str]:
        listed = self.client.containers(all=True, filters={"label": f"{INSTANCE}={self.instance}"})
        return sorted(name.removeprefix("/") for entry in listed for name in entry["Names"])

    async def close(self) -> None:
        try:
            await self._open.aclose()
        finally:
            for name in self.containers():
                with suppress(docker.errors.APIError):  # it is gone, or on its way
                    self.client.remove_container(name, v=True, force=True)
            await eventually(lambda: not self.containers())
            for volume_name in (self.instance, self.data_volume):
                self.client.remove_volume(volume_name, force=True)
            shutil.rmtree(self.folder / "state", ignore_errors=True)
