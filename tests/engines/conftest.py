"""A real engine, a run volume of the test's own, and programs to run in a sandbox instead of the harness.

Everything that a test makes carries the test's own instance label, and is removed after it, however it ends.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from htagweb_orchestrator.engines.base import Died, Engine, Relist, SandboxSpec
from htagweb_orchestrator.engines.docker import DockerEngine
from htagweb_orchestrator.engines.docker_options import INSTANCE, Image, Options, container_name
from htagweb_orchestrator.model import SandboxId
from htagweb_orchestrator.rundir import RunDirectory, UidAllocator

from . import probes
from .probes import PRELUDE, new_id, read
from .process_bench import ProcessBench

SOCKET = os.environ.get("DOCKER_SOCK", "/var/run/docker.sock")
IMAGE = os.environ.get("HTAGWEB_SANDBOX_IMAGE", "htagweb-sandbox-image")
GATEWAY_GID = 10001


@asynccontextmanager
async def heard(engine: Engine) -> AsyncIterator[list[Died | Relist]]:
    """Everything that the engine's events say, growing; entered once they are connected."""
    news: list[Died | Relist] = []

    async def listen() -> None:
        async with aclosing(engine.events()) as events:
            async for each in events:
                news.append(each)

    listening = asyncio.create_task(listen())
    try:
        await probes.eventually(lambda: news)
        yield news
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


class ProbeEngine(DockerEngine):
    """The real engine, but sandboxes run `program` instead of the image's own; `extra` goes into the create call."""

    program: str | None = None
    extra: Options = {}  # noqa: RUF012

    def create_options(self, spec: SandboxSpec, image: Image) -> Options:
        options = super().create_options(spec, image)
        if self.program is not None:
            options["Entrypoint"] = ["python3", "-I", "-S", "-c", PRELUDE + self.program]
        options["HostConfig"] |= self.extra
        return options


class Bench:
    """One instance on the real engine."""

    def __init__(self, client: docker.APIClient, base_url: str) -> None:
        self.client = client
        self.instance = f"htagweb-test-{secrets.token_hex(6)}"
        self.client.create_volume(self.instance, labels={INSTANCE: self.instance})
        volume: dict[str, Any] = client.inspect_volume(self.instance)
        self.run = RunDirectory(Path(volume["Mountpoint"]), GATEWAY_GID)
        self.uids = UidAllocator()
        self._engines: list[ProbeEngine] = []
        self.engine = self.connect(base_url)

    def connect(self, base_url: str, **options: Any) -> ProbeEngine:
        engine = ProbeEngine(instance=self.instance, run_volume=self.instance, base_url=base_url, **options)
        self._engines.append(engine)
        return engine

    def spec(self, **values: Any) -> SandboxSpec:
        """A new sandbox's, with its directory made."""
        sandbox_id, uid = new_id(), self.uids.take()
        self.run.create(sandbox_id, uid)
        spec = SandboxSpec(
            sandbox_id=sandbox_id, uid=uid, directory=str(self.run.sockets(sandbox_id)), image=IMAGE, generation=1
        )
        return dataclasses.replace(spec, **values)

    async def start(self, program: str | None = "time.sleep(600)", **values: Any) -> SandboxSpec:
        self.engine.program = program
        spec = self.spec(**values)
        await self.engine.start(spec, on_step=lambda _: None)
        return spec

    async def told(self, spec: SandboxSpec) -> Any:
        """What the probe told us."""

        def said() -> str:
            running = self.running(spec.sandbox_id)  # what it tells before it ends, counts
            found = read(Path(spec.directory, "told"))
            if not found and not running:
                pytest.fail(self.client.logs(container_name(spec.sandbox_id)).decode())
            return found

        return json.loads(await probes.eventually(said))

    async def ask(self, program: str, **values: Any) -> Any:
        """Run a probe in a sandbox of its own."""
        return await self.told(await self.start(program, **values))

    def inspect(self, sandbox_id: SandboxId) -> dict[str, Any]:
        found: dict[str, Any] = self.client.inspect_container(container_name(sandbox_id))
        return found

    def running(self, sandbox_id: SandboxId) -> bool:
        return bool(self.inspect(sandbox_id)["State"]["Running"])

    def pid(self, sandbox_id: SandboxId) -> int:
        return int(self.inspect(sandbox_id)["State"]["Pid"])

    def runs_as(self, spec: SandboxSpec) -> int:
        return spec.uid

    def remove(self, sandbox_id: SandboxId) -> None:
        """Behind the engine's client's back."""
        self.client.remove_container(container_name(sandbox_id), force=True)

    def left(self) -> list[str]:
        return self.containers()

    def busy(self) -> int:
        """Calls that go on though nobody waits for them."""
        return self.engine.hung_calls

    @asynccontextmanager
    async def another(self) -> AsyncIterator[Bench]:
        """Another installation on the same engine."""
        other = Bench(self.client, self.engine._base_url)
        try:
            yield other
        finally:
            await other.close()

    def containers(self) -> list[str]:
        """Names of all that this instance has on the engine."""
        listed = self.client.containers(all=True, filters={"label": f"{INSTANCE}={self.instance}"})
        return sorted(name.removeprefix("/") for entry in listed for name in entry["Names"])

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()
        for name in self.containers():
            with suppress(docker.errors.NotFound):
                self.client.remove_container(name, v=True, force=True)
        self.client.remove_volume(self.instance, force=True)


@pytest.fixture(scope="session")
def client() -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=f"unix://{SOCKET}", version="auto")
    yield client
    client.close()


@pytest.fixture
async def bench(client: docker.APIClient) -> AsyncIterator[Bench]:
    if os.geteuid() != 0:
        pytest.skip("looks into the run volume on the engine's host, which takes root")
    bench = Bench(client, f"unix://{SOCKET}")
    try:
        yield bench
    finally:
        await bench.close()


AnyBench = Bench | ProcessBench


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "process"])
async def any_bench(request: pytest.FixtureRequest) -> AsyncIterator[AnyBench]:
    """One of each engine."""
    bench: AnyBench
    if request.param == "process":
        bench = ProcessBench(Path(tempfile.mkdtemp(prefix="htagweb-test-")))
    else:
        if os.geteuid() != 0:
            pytest.skip("looks into the run volume on the engine's host, which takes root")
        bench = Bench(docker.APIClient(base_url=f"unix://{SOCKET}", version="auto"), f"unix://{SOCKET}")
    try:
        yield bench
    finally:
        await bench.close()
        if isinstance(bench, Bench):
            bench.client.close()


class Line:
    """Stands between an engine's client and the engine; can be cut, and can hold the engine's answers back."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._path = path
        self._open: set[asyncio.StreamWriter] = set()
        self.passes = asyncio.Event()
        self.passes.set()
        self.holds_from = b""  # a request with these bytes in it is the first that gets no answer

    def cut(self) -> None:
        """End every connection there is; new ones are welcome."""
        for writer in list(self._open):
            writer.transport.abort()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Line]:
        server = await asyncio.start_unix_server(self._serve, self._path)
        try:
            yield self
        finally:
            server.close()
            self.passes.set()
            self.cut()
            await probes.eventually(lambda: not self._open)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(SOCKET)
        self._open |= {writer, engine_writer}
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, engine_writer, held=False))
                pumps.create_task(self._pump(engine_reader, writer, held=True))
        except* OSError:
            pass
        finally:
            self._open -= {writer, engine_writer}
            for each in (writer, engine_writer):
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, held: bool) -> None:
        while data := await reader.read(65536):
            if held:
                await self.passes.wait()
            elif self.holds_from and self.holds_from in data:
                self.passes.clear()
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async with Line(tmp_path / "engine.sock").laid() as line:
        yield line
