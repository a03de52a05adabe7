"""Load on one running proxy, and what that cost it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from . import traffic
from .measures import cpu_s, memory_kb, two_cores
from .stage import HERE, Running, Stage
from .upstream import LARGE

SETTLE_S = 1.0  # what a proxy does after the last of many connections was opened


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    connections: tuple[int, ...]
    request: Callable[[int, str, int], bytes]  # of a port, a visitor's cookie, and a number below `different`
    different: int = 1


WORKLOADS = [
    Workload("70 B POST", (1, 16, 64), lambda port, cookie, _: traffic.post("/bench/click", port, cookie)),
    Workload(
        "the same with all of a browser's headers",
        (16,),
        lambda port, cookie, _: traffic.post("/bench/click", port, cookie, more=traffic.BROWSER),
    ),
    Workload(
        "70 B POST, each with a query of its own",
        (16,),
        lambda port, cookie, number: traffic.post(f"/bench/click?{number}", port, cookie),
        different=300,  # for each visitor: more together than anybody remembers
    ),
    Workload("4 KB page", (1, 16, 64), lambda port, cookie, _: traffic.get("/bench/page", port, cookie)),
    Workload("1 MB down", (1, 16, 64), lambda port, cookie, _: traffic.get("/bench/large", port, cookie)),
    Workload("1 MB up", (16,), lambda port, cookie, _: traffic.post("/bench/upload", port, cookie, LARGE)),
]


@dataclass(slots=True)
class Figures:
    """Of one proxy under one load, over all rounds."""

    count: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    errors: int = 0
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)

    @property
    def cpu_us_each(self) -> float:
        return 1e6 * self.cpu_s / self.count

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def latency_us(self) -> tuple[float, float]:
        """The medians over the rounds of p50 and p99."""
        return median(self.p50_us), median(self.p99_us)


class Load:
    """Runs load generators on the core that isn't measured."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        _, self._core = two_cores()

    def http(self, proxy: Running, workload: Workload, connections: int, seconds: int, into: Figures) -> None:
        path = self._write(
            [
                workload.request(proxy.port, cookie, number)
                for number in range(workload.different)
                for cookie in self._visitors(connections)
            ]
        )
        threads = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s", "-s", str(HERE / "requests.lua")]
        self._measure(["wrk", *threads, f"http://127.0.0.1:{proxy.port}", "--", str(path)], proxy, into)

    def websocket(self, proxy: Running, connections: int, seconds: int, into: Figures) -> None:
        self._measure(self._websockets(proxy, connections, seconds), proxy, into)

    def idle_kb_each(self, proxy: Running, connections: int) -> float:
        """How much the memory of a proxy that has just begun grows by each open WebSocket."""
        with self._held(proxy, 50):  # what is only loaded or made with the first ones
            pass
        time.sleep(SETTLE_S)
        before = memory_kb(proxy.pid)
        with self._held(proxy, connections):
            time.sleep(SETTLE_S)
            return (memory_kb(proxy.pid) - before) / connections

    def _held(self, proxy: Running, connections: int) -> _Held:
        return _Held(self._pinned(self._websockets(proxy, connections, 0)))

    def _websockets(self, proxy: Running, connections: int, seconds: float) -> list[str]:
        # No visitor may have more than 16.
        visitors = self._visitors(min(connections, len(self._stage.cookies)))
        path = self._write(
            [traffic.handshake(proxy.port, visitors[number % len(visitors)]) for number in range(connections)]
        )
        return [sys.executable, "-m", "benchmarks.websocket_load", str(proxy.port), str(path), str(seconds)]

    def _visitors(self, number: int) -> list[str]:
        return self._stage.cookies[:number]

    def _write(self, each: list[bytes]) -> Path:
        path = self._stage.directory / "requests"
        traffic.write(path, each)
        return path

    def _pinned(self, command: list[str]) -> list[str]:
        return ["taskset", "-c", str(self._core), *command]

    def _measure(self, command: list[str], proxy: Running, into: Figures) -> None:
        before = cpu_s(proxy.pid)
        done = subprocess.run(self._pinned(command), cwd=HERE.parent, stdout=subprocess.PIPE, check=True, timeout=120)
        into.cpu_s += cpu_s(proxy.pid) - before
        found = json.loads(done.stdout.splitlines()[-1])
        into.count += found["count"]
        into.seconds += found["seconds"]
        into.errors += found["errors"]
        into.p50_us.append(found["p50_us"])
        into.p99_us.append(found["p99_us"])


class _Held:
    """WebSockets that are open for as long as this context is."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise ConnectionError("the WebSockets could not be opened")

    def __exit__(self, *failure: object) -> None:
        self._process.communicate(timeout=30)
