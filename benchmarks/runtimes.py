"""What a kernel of its own costs a sandbox: gVisor beside runc on one engine. `make bench-runtimes` runs this."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import docker

from htagweb_orchestrator.admission import available_memory
from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator.engines.docker import DockerEngine
from htagweb_orchestrator.rundir import UidAllocator
from tests.attacks.gvisor import engine, runsc
from tests.attacks.stage import Stage
from tests.engines.conftest import IMAGE, SOCKET
from tests.engines.probes import new_id

from .measures import machine
from .report import table

RUNTIMES = {"runc": 64, "runsc": 256}  # -> pids
CROWD = 10
SETTLE_S = 3.0
MIB = 1024**2


def measure(starts: int) -> str:
    whole = docker.APIClient(base_url=f"unix://{SOCKET}", version="auto")
    try:
        with engine(runsc(), whole) as address, tempfile.TemporaryDirectory(prefix="bench-runtimes-") as folder:
            rows = asyncio.run(_rows(address, Path(folder), starts))
    finally:
        whole.close()
    return "\n\n".join(
        [
            f"Measured by `make bench-runtimes` on a machine with {machine()}: {starts} starts of each in turn, from"
            f" the create call until the sandbox's two sockets are there, and what the machine has less for each of"
            f" {CROWD} that wait for a visitor. gVisor: Debian trixie's runsc of July 2024, systrap.",
            table(["a sandbox under", "start, median, ms", "quartiles, ms", "memory, MiB"], rows),
        ]
    )


async def _rows(address: str, folder: Path, starts: int) -> list[list[str]]:
    own = docker.APIClient(base_url=address, version="auto")
    stage = Stage(folder, own, base_url=address)
    driver = DockerEngine(instance=stage.instance, run_volume=stage.instance, base_url=address)
    bench = _Bench(stage, driver)
    try:
        took: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
        for _ in range(starts):
            for runtime, times in took.items():
                spec, start_ms = await bench.start(runtime)
                times.append(start_ms)
                await bench.stop(spec)
        return [await _row(bench, runtime, times) for runtime, times in took.items()]
    finally:
        await driver.close()
        await stage.close()
        own.close()


async def _row(bench: _Bench, runtime: str, times: list[float]) -> list[str]:
    before = available_memory()[1]
    crowd = [(await bench.start(runtime))[0] for _ in range(CROWD)]
    await asyncio.sleep(SETTLE_S)
    memory_mib = (before - available_memory()[1]) / CROWD / MIB
    for spec in crowd:
        await bench.stop(spec)
    low, median, high = statistics.quantiles(times, n=4)
    row = [runtime, f"{median:.0f}", f"{low:.0f}-{high:.0f}", f"{memory_mib:.0f}"]
    print(row, file=sys.stderr, flush=True)
    return row


class _Bench:
    def __init__(self, stage: Stage, driver: DockerEngine) -> None:
        self._stage = stage
        self._driver = driver
        self._uids = UidAllocator()

    async def start(self, runtime: str) -> tuple[SandboxSpec, float]:
        """A sandbox that waits for its app, and the ms that it took."""
        sandbox, uid = new_id(), self._uids.take()
        self._stage.run.create(sandbox, uid)
        spec = SandboxSpec(
            sandbox_id=sandbox,
            uid=uid,
            directory=str(self._stage.run.sockets(sandbox)),
            image=IMAGE,
            generation=1,
            runtime=runtime,
            pids=RUNTIMES[runtime],
        )
        began = time.perf_counter()
        await self._driver.start(spec, on_step=lambda _: None)
        await self._stage.run.wait_for_sockets(sandbox, uid, timeout_s=30)
        return spec, (time.perf_counter() - began) * 1000

    async def stop(self, spec: SandboxSpec) -> None:
        await self._driver.stop(spec.sandbox_id)
        self._stage.run.remove(spec.sandbox_id)
