"""What sandboxes take of the memory, and what the platform itself takes beside them. `make bench-memory` runs this."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import docker

from htagweb_orchestrator.admission import available_memory
from tests.e2e.stack import Stack, until
from tests.engines.conftest import SOCKET

from .measures import machine
from .report import table
from .start import Visitor, platform

MIB, GIB = 1024**2, 1024**3
CROWDS = (0, 100, 200)
MOST_MIB = 22.0  # of a sandbox with the smallest app
SETTLE_S = 5.0  # after the last start, for what starting took to be given back


def measure() -> str:
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder, _engine() as client:
        with platform(Path(folder), HTAGWEB_WARM_MAX="0") as stack:
            rows, sandboxes, before = [], [0.0], available_memory()[1]
            for crowd in CROWDS:
                _fill(stack, crowd)
                time.sleep(SETTLE_S)
                ours = {service: _of_service(client, stack, service) for service in ("gateway", "orchestrator")}
                sandboxes = [row["memory_bytes"] / MIB for row in stack.rows() if row["memory_bytes"]]
                taken = (before - available_memory()[1]) / MIB
                rows.append([str(crowd), *(f"{figure:.1f}" for figure in ours.values())])
                print(f"{crowd}: {ours}, {taken:.0f} MiB of the machine", file=sys.stderr, flush=True)
    return _section(rows, sandboxes, taken)


def _fill(stack: Stack, crowd: int) -> None:
    """Until so many visitors have the smallest app open."""
    there = len(stack.rows())
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: Visitor(stack.port).open("hello"), range(crowd - there)))
    until(lambda: sum(row["state"] == "ready" for row in stack.rows()) == crowd, what=f"{crowd} sandboxes")


@contextmanager
def _engine() -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=f"unix://{SOCKET}", version="auto")
    try:
        yield client
    finally:
        client.close()


def _of_service(client: docker.APIClient, stack: Stack, service: str) -> float:
    """In MiB, by its cgroup, without file cache that the kernel gives back at once."""
    container = stack.docker_compose("ps", "-q", service).stdout.strip()
    memory = client.stats(container, stream=False, one_shot=True)["memory_stats"]
    details = memory["stats"]
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))  # cgroup v1, v2
    return float(memory["usage"] - cache) / MIB


def _section(rows: list[list[str]], sandboxes: list[float], taken_mib: float) -> str:
    crowd = CROWDS[-1]
    median, machine_mib = statistics.median(sandboxes), taken_mib / crowd
    missed = "" if median <= MOST_MIB else " (missed)"
    figures = [
        ["a sandbox by its cgroup, median", f"{median:.1f}", f"{MOST_MIB:.0f}{missed}"],
        ["the largest of them", f"{max(sandboxes):.1f}", ""],
        ["what the machine has less for each, the engine's own share included", f"{machine_mib:.1f}", ""],
    ]
    return "\n\n".join(
        [
            f"Measured by `make bench-memory` on a machine with {machine()}: {crowd} visitors, each with the smallest"
            f" app in a sandbox of his own. That makes {GIB / MIB / median:.0f} sandboxes in a GiB by their cgroups,"
            f" and {GIB / MIB / machine_mib:.0f} by what the machine has left. File cache that the kernel gives back at"
            " once is not counted.",
            table(["in MiB", "memory", "target"], figures),
            table(["sandboxes", "gateway, MiB", "orchestrator, MiB"], rows),
        ]
    )
