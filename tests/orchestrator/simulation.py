"""A day of many users on one machine, in simulated time: bursts, crashes, a slow engine, kills of every part.

`python -m tests.orchestrator.simulation --users 10000` plays one, and prints what broke an invariant. With the same
seed and PYTHONHASHSEED=0 the same day comes again.

All of the control plane is real, and so are the run directory and the store of sessions. The engine and the wire to the
harnesses are simulated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from unittest import mock

from htagweb_orchestrator import arrivals, control, pool, pulse, starter
from htagweb_orchestrator.admission import GIB
from htagweb_orchestrator.line import MOST
from htagweb_orchestrator.model import UserId
from htagweb_orchestrator.rundir import UidAllocator
from tests.orchestrator.simulated import Wire
from tests.orchestrator.simulated_platform import APPS, CORES, SOURCE, Gateway, Platform
from tests.orchestrator.simulated_users import User
from tests.orchestrator.virtual_time import run

LONGEST_WAIT_S = 7200.0  # in the line


class World(Platform):
    """The platform, its users, and what befalls them."""

    async def day(self, hours: float) -> None:
        main = asyncio.current_task()
        assert main is not None
        self._ours.add(main)
        await self.start_orchestrator()
        began_s = self.now()
        bursts = [self.rng.uniform(0, 3600 * hours) for _ in range(6)]
        people = []
        for number in range(self.users):
            arrivals = []
            for _ in range(self.rng.choice((1, 2, 3))):
                burst = self.rng.random() < 0.4
                at_s = self.rng.choice(bursts) + self.rng.uniform(0, 30) if burst else self.rng.uniform(0, 3600 * hours)
                arrivals.append(began_s + at_s)
            people.append(self.spawn(User(self, UserId(f"user-{number}")).live(sorted(arrivals))))
        accidents = self.spawn(self._accidents(began_s + 3600 * hours))
        await asyncio.gather(*people, accidents)
        await self._evening()

    async def _accidents(self, until_s: float) -> None:
        rng = self.rng
        kinds = [self._killed, self._killed, self._stopped, self._slow, self._engine_restarts, self._machine_restarts]
        kinds += [self._short_of_memory, self.restart_gateway, self._new_version]
        while self.now() < until_s:
            await asyncio.sleep(rng.expovariate(1 / 1800))
            await rng.choice(kinds)()

    async def _killed(self) -> None:
        await self.stop_orchestrator(kill=True)
        await asyncio.sleep(self.rng.uniform(0.2, 5))
        running = [box for box in self.machine.boxes.values() if box.running]
        for box in self.rng.sample(running, min(2, len(running))):  # while nobody looks
            self.machine.die(box, 1)
        await asyncio.sleep(self.rng.uniform(0.2, 5))
        await self.start_orchestrator()

    async def _stopped(self) -> None:
        await self.stop_orchestrator(kill=False)
        await asyncio.sleep(self.rng.uniform(0.2, 10))
        await self.start_orchestrator()

    async def _slow(self) -> None:
        self.told["slow engine"] += 1
        self.machine.latency_s = 10.0
        await asyncio.sleep(self.rng.uniform(60, 300))
        if self.rng.random() < 0.5:
            await self._killed()
        self.machine.latency_s = 0.15

    async def _engine_restarts(self) -> None:
        self.told["engine restarts"] += 1
        self.machine.restart(keeps_containers=self.rng.random() < 0.5)
        await asyncio.sleep(self.rng.uniform(1, 30))
        self.machine.down = False

    async def _machine_restarts(self) -> None:
        self.told["machine restarts"] += 1
        await self.stop_orchestrator(kill=True)
        self.machine.restart(keeps_containers=False)
        self.boot += "'"
        self.gateway = Gateway()
        self.announced |= dict.fromkeys(self.machine.boxes, self.now())  # with the machine, all is forgotten
        await asyncio.sleep(30.0)
        self.machine.down = False
        await self.start_orchestrator()

    async def _short_of_memory(self) -> None:
        self.told["short of memory"] += 1
        total, available = self.machine.memory()
        low = min(total * 15 // 100, 2 * GIB)
        self._others_grew_s = self.now()
        self.machine.taken_by_others = max(0, available - int(low * self.rng.uniform(0.5, 1.2)))
        await asyncio.sleep(self.rng.uniform(60, 900))
        self.machine.taken_by_others = 0

    async def _new_version(self) -> None:
        app = self.rng.choice(APPS)
        (self.root / "apps" / f"{app}.py").write_text(f"{SOURCE}    version = {self.now()}\n")
        await asyncio.sleep(120.0)

    async def _evening(self) -> None:
        """Everybody has gone: nothing may be left but the warm pool, and after the stop not even that."""
        await asyncio.sleep(2 * 3600.0)
        plane = self.plane
        assert plane is not None
        left = [sandbox.key for sandbox in plane.sandboxes() if sandbox.lease.user]
        if left:
            self.violated(f"they have left, and these run: {left}")
        if {sandbox.id for sandbox in plane.sandboxes()} != set(self.machine.boxes):
            self.violated("the orchestrator knows other sandboxes than the engine")
        await self.stop_orchestrator(kill=False)
        await asyncio.sleep(1.0)
        for what, found in {
            "containers": self.machine.boxes,
            "directories": plane._run.ids(),
            "sandboxes in the registry": plane.sandboxes(),
            "uids": plane._uids._taken,
            "places in the line": plane._arrivals.line._waiting,
            "watches": plane._hub._watchers,
            "tasks": self._theirs(),
        }.items():
            if found:
                self.violated(f"leaked {what}: {found}")
        if self.machine.used_bytes:
            self.violated(f"leaked memory: {self.machine.used_bytes}")
        if max(self.waits_s) > LONGEST_WAIT_S:
            self.violated(f"somebody waited for {max(self.waits_s):.0f} s in the line")


class Unforeseen(logging.Handler):
    """An exception that only reached the log breaks an invariant, too."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._world.violations.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextlib.contextmanager
def _simulated(world: World) -> Iterator[None]:
    """No wire, coarser rounds (a day has many), and chance from the seed alone."""
    ids = Random(world.rng.random())
    secrets = SimpleNamespace(token_hex=lambda size: ids.randbytes(size).hex())
    tick_s = 2.0 if world.users <= 1000 else 4.0
    with contextlib.ExitStack() as patches:
        for module, name, value in (
            (starter, "HarnessLink", Wire),
            (os, "cpu_count", lambda: CORES),
            (control, "TICK_S", tick_s),
            (control, "SCAN_S", 60.0),
            (pulse, "PING_S", 60.0),
            (control, "boot_id", lambda: world.boot),
            (control, "secrets", secrets),
            (arrivals, "secrets", secrets),
            # Few, so that one that is given out twice is noticed.
            (control, "UidAllocator", lambda: UidAllocator(20000, 20000 + 2 * world.most + MOST)),
            (pool, "ROUND_S", tick_s),
        ):
            patches.enter_context(mock.patch.object(module, name, value))
        yield


def play(*, users: int, seed: int, hours: float = 24) -> World:
    """One day; what was seen of it. Check `violations`."""
    random.seed(seed)
    logging.getLogger("htagweb_orchestrator").setLevel(logging.ERROR)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=memory) as root:
        world = World(Path(root), users=users, seed=seed)
        unforeseen = Unforeseen(world)
        logging.getLogger().addHandler(unforeseen)
        try:
            with _simulated(world):
                run(world.day(hours))
        finally:
            logging.getLogger().removeHandler(unforeseen)
            world.sessions.close()
    return world


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.orchestrator.simulation", description=__doc__)
    arguments.add_argument("--users", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = arguments.parse_args()
    began = time.monotonic()
    print(f"{given.users} users, seed {given.seed}")
    world = play(users=given.users, seed=given.seed)
    for what, count in sorted({**world.told, **world.machine.happened}.items()):
        print(f"{count:8} {what}")
    print(f"{world.machine.most:8} containers at most; longest wait in the line {max(world.waits_s):.0f} s")
    print(f"{time.monotonic() - began:8.0f} s of real time")
    for violation in world.violations[:50]:
        print("VIOLATED", violation)
    return 1 if world.violations else 0


if __name__ == "__main__":
    sys.exit(main())
