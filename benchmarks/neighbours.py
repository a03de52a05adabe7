"""What a visitor notices of hostile neighbours, and what the wall around a sandbox costs.

Orchestrator, gateway and engine are real, and so is a visitor who asks his own sandbox for a small answer again and
again. Each attack is measured against the time right before it, in the same run.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import docker

from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator.engines.docker import DockerEngine
from htagweb_orchestrator.engines.docker_options import Image, Options
from htagweb_orchestrator.rundir import UidAllocator
from tests.attacks.processes import Listening, gateway, orchestrator, serves
from tests.attacks.stage import Stage
from tests.attacks.visitor import Visitor
from tests.engines.conftest import IMAGE, SOCKET
from tests.engines.probes import new_id

from .measures import machine
from .report import table
from .stage import free_port

CORES = os.cpu_count() or 1
EVERY_S = 0.004
FLOOD = "block = b'flood ' * 10_000\nwhile True:\n    os.write(1, block)\n    os.write(2, block)"

# What each attacker's console does for as long as it is measured; how many attackers there are.
ATTACKS: dict[str, tuple[str, int]] = {
    "CPU, as many as cores": ("for _ in range(8):\n    if not os.fork():\n        while True: pass", CORES),
    "fork bomb": (
        "if not os.fork():\n    while True:\n        try: os.fork()\n        except OSError: time.sleep(0.001)",
        1,
    ),
    "memory": (
        "if not os.fork():\n    while True:\n        child = os.fork()\n        if not child:\n"
        "            held = [bytearray(b'x') * (8 << 20) for _ in range(64)]\n        os.waitpid(child, 0)",
        1,
    ),
    "/tmp and /dev/shm": (
        "if not os.fork():\n    while True:\n        for folder in ('/tmp', '/app', '/dev/shm'):\n"
        "            fill(folder, 64 << 20)\n            [os.unlink(name) for name in glob.glob(folder + '/filled-*')]",
        1,
    ),
    "open files and inotify": (
        "if not os.fork():\n    libc = ctypes.CDLL(None)\n    while True:\n        held = []\n"
        "        refused(lambda: [held.append(open('/dev/null')) for _ in range(1000)])\n"
        "        [libc.inotify_init1(0) for _ in range(500)]\n        os.closerange(100, 512)",
        1,
    ),
    "flood of output": (f"threading.Thread(target=lambda: exec({FLOOD!r}, globals())).start()", 1),
    "SIGTERM ignored, and stopped": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, {1, 2, 15})\n"
        "for _ in range(20):\n    if not os.fork():\n        while True: time.sleep(1)",
        2,
    ),
}


def measure(*, seconds: float, rounds: int, starts: int) -> str:
    return asyncio.run(_measure(seconds, rounds, starts))


async def _measure(seconds: float, rounds: int, starts: int) -> str:
    busy = os.getloadavg()[0]
    client = docker.APIClient(base_url=f"unix://{SOCKET}", version="auto")
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = await _neighbours(Stage(Path(folder), client), seconds, rounds)
        with tempfile.TemporaryDirectory() as folder:
            costs = await _costs(Stage(Path(folder), client), starts)
    finally:
        client.close()
    neighbours = table(["a neighbour's attack", "before, ms", "during, ms", "allowed, ms"], rows)
    wall = table(["a container", "median, ms", "quartiles, ms"], costs)
    return (
        f"Measured on {datetime.date.today()} by `make bench-neighbours`. Machine: {machine()}; its load average was"
        f" {busy:.1f} at the start.\n\nThe 95th percentile of a visitor's requests to his sandbox, before and while"
        f" neighbours attack: the medians of {rounds} rounds. Allowed is twice the time before, or 10 ms more,"
        " whichever is larger.\n\n"
        f"{neighbours}\n\nFrom the create call until its two sockets are there, {starts} times each in turn:\n\n{wall}"
    )


# -- neighbours ------------------------------------------------------------------------------------------------------


async def _neighbours(stage: Stage, seconds: float, rounds: int) -> list[list[str]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ATTACKS}
    try:
        async with AsyncExitStack() as running:
            await running.enter_async_context(orchestrator(stage, HTAGWEB_MAX_PER_USER="50"))
            await (await serves(stage)).close()
            at = await running.enter_async_context(gateway(stage, free_port()))
            for _ in range(rounds):
                for name in ATTACKS:
                    found[name].append(await _round(at, name, seconds))
    finally:
        await stage.close()
    return [_row(name, measured) for name, measured in found.items()]


def _row(name: str, measured: list[tuple[float, float]]) -> list[str]:
    before, during = (statistics.median(each) for each in zip(*measured, strict=True))
    allowed = max(2 * before, before + 10)
    met = "" if during < allowed else " (missed)"
    return [f"{name}{met}", f"{before:.1f}", f"{during:.1f}", f"{allowed:.1f}"]


async def _round(at: Listening, name: str, seconds: float) -> tuple[float, float]:
    """The 95th percentiles before and during the attack, in ms."""
    code, attackers = ATTACKS[name]
    visitor, *hostile = [Visitor(at) for _ in range(1 + attackers)]
    for each in (visitor, *hostile):
        await each.take_over()
    await _latencies(visitor, 0.5)
    before = await _latencies(visitor, seconds)
    for attacker in hostile:
        await attacker.run(code)
    measuring = asyncio.create_task(_latencies(visitor, seconds))
    if "stopped" in name:
        for attacker in hostile:
            await attacker.post("/-/stop", b"app=console")
    during = await measuring
    for each in (visitor, *hostile):
        await each.post("/-/stop", b"app=console")
    return _p95(before), _p95(during)


async def _latencies(visitor: Visitor, seconds: float) -> list[float]:
    """In ms, of requests one after the other on one connection."""
    wire = await visitor.server.connect()
    request = visitor.head("GET", "/console/", {})
    took, until = [], time.perf_counter() + seconds
    try:
        while (began := time.perf_counter()) < until:
            await wire.send(request)
            response = await wire.response(within_s=30)
            assert response.body == b"console"
            took.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(EVERY_S)
    finally:
        wire.abort()
    return took


def _p95(took: list[float]) -> float:
    return statistics.quantiles(took, n=20)[-1]


# -- the wall --------------------------------------------------------------------------------------------------------


class BareEngine(DockerEngine):
    """The same container with its mount and its labels, and nothing of the wall."""

    def create_options(self, spec: SandboxSpec, image: Image) -> Options:
        options = super().create_options(spec, image)
        kept = ("NetworkMode", "Mounts", "Runtime", "LogConfig", "RestartPolicy")
        # Its files have to go somewhere.
        host = {option: options["HostConfig"][option] for option in kept}
        return {**options, "HostConfig": host}


async def _costs(stage: Stage, starts: int) -> list[list[str]]:
    at: dict[str, Callable[..., DockerEngine]] = {"with the wall": DockerEngine, "without it": BareEngine}
    engines = {
        name: make(instance=stage.instance, run_volume=stage.instance, base_url=stage.base_url)
        for name, make in at.items()
    }
    uids = UidAllocator()
    took: dict[str, list[float]] = {name: [] for name in at}
    try:
        for _ in range(starts):
            for name, engine in engines.items():
                took[name].append(await _start(stage, engine, uids.take()))
    finally:
        for engine in engines.values():
            await engine.close()
        await stage.close()
    rows = []
    for name, times in took.items():
        low, median, high = statistics.quantiles(times, n=4)
        rows.append([name, f"{median:.0f}", f"{low:.0f}-{high:.0f}"])
    difference = statistics.median(took["with the wall"]) - statistics.median(took["without it"])
    return [*rows, ["what the wall costs", f"{difference:.0f}", ""]]


async def _start(stage: Stage, engine: DockerEngine, uid: int) -> float:
    sandbox = new_id()
    stage.run.create(sandbox, uid)
    spec = SandboxSpec(
        sandbox_id=sandbox, uid=uid, directory=str(stage.run.sockets(sandbox)), image=IMAGE, generation=1
    )
    began = time.perf_counter()
    await engine.start(spec, on_step=lambda _: None)
    await stage.run.wait_for_sockets(sandbox, uid, timeout_s=20)
    took_ms = (time.perf_counter() - began) * 1000
    await engine.stop(sandbox)
    stage.run.remove(sandbox)
    return took_ms
