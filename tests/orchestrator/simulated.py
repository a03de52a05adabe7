"""The machine of the simulation: an engine that is slow, breaks and restarts, and harnesses without a wire.

It knows the truth, whatever an orchestrator believes: who used which sandbox, how each ended, and what memory is left.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from htagweb_orchestrator.admission import GIB
from htagweb_orchestrator.engines.base import Died, Found, Relist, SandboxSpec, Stats
from htagweb_orchestrator.errors import EngineUnavailable
from htagweb_orchestrator.harness import HarnessFailed, Hello, Listener
from htagweb_orchestrator.model import Address, SandboxId, Step, UnixAddress
from htagweb_orchestrator.registry import Key

MIB = 1024**2
BLANK = 18 * MIB
USES = {"heavy": 90 * MIB}  # what an app's sandbox takes, where it isn't LIGHT
LIGHT = 24 * MIB
BROKEN = "broken"  # never gets to its first page


class Violated(AssertionError):
    """An invariant does not hold."""


@dataclass(eq=False)
class Box:
    """A container, and all that really happened to it."""

    spec: SandboxSpec
    running: bool = True
    exit_code: int | None = None
    out_of_memory: bool = False
    hangs: bool = False
    memory_bytes: int = BLANK
    app: str = ""
    version: str = ""
    stage: str = "blank"
    owner: Key | None = None
    session: dict[str, Any] = field(default_factory=dict)
    link: Wire | None = None


class Machine:
    """It outlives orchestrators. `latency_s` is what an engine call takes now, `down` whether it refuses them all."""

    def __init__(self, rng: Random, *, cores: int, memory_bytes: int) -> None:
        self.rng = rng
        self.cores = cores
        self.memory_bytes = memory_bytes
        self.taken_by_others = 0
        self.boxes: dict[SandboxId, Box] = {}
        self.latency_s = 0.15
        self.down = False
        self.engines: list[SimulatedEngine] = []
        self.happened: Counter[str] = Counter()
        self.creating = 0
        self.used: set[SandboxId] = set()
        self.used_bytes = 0
        self.most = 0
        self.violated: Callable[[str], None] = lambda what: None
        self.on_claim: Callable[[Key, dict[str, Any]], None] = lambda owner, session: None

    def memory(self) -> tuple[int, int]:
        """(total, available), as /proc/meminfo says."""
        return self.memory_bytes, self.memory_bytes - self.taken_by_others - self.used_bytes

    def takes(self, box: Box, memory_bytes: int) -> None:
        if box.running:
            self.used_bytes += memory_bytes - box.memory_bytes
            box.memory_bytes = memory_bytes

    # -- what a container engine does --------------------------------------------------------------------------------

    def run(self, spec: SandboxSpec) -> None:
        """A container whose sockets are there at once."""
        if not Path(spec.directory).is_dir():
            raise EngineUnavailable("bind source path does not exist")
        if any(box.running and box.spec.uid == spec.uid for box in self.boxes.values()):
            self.violated(f"two sandboxes run under uid {spec.uid}")
        self.boxes[spec.sandbox_id] = Box(spec)
        self.used_bytes += BLANK
        self.most = max(self.most, len(self.boxes))
        self.happened["containers"] += 1
        for name in ("app.sock", "control.sock"):
            path = f"{spec.directory}/{name}"
            os.mknod(path, 0o600 | stat.S_IFSOCK)
            os.chown(path, spec.uid, spec.uid)

    def die(self, box: Box, code: int, *, out_of_memory: bool = False, unseen: bool = False) -> None:
        if not box.running:
            return
        self.used_bytes -= box.memory_bytes
        box.running, box.exit_code, box.out_of_memory = False, code, out_of_memory
        if box.link is not None:
            box.link.lost()
        if not unseen:
            self.tell(Died(sandbox_id=box.spec.sandbox_id, exit_code=code, out_of_memory=out_of_memory))

    def remove(self, sandbox: SandboxId) -> None:
        if (box := self.boxes.get(sandbox)) is not None:
            self.die(box, 137)
            del self.boxes[sandbox]

    def tell(self, event: Died | Exception) -> None:
        for engine in self.engines:
            engine.events_queue.put_nowait(event)

    def restart(self, *, keeps_containers: bool) -> None:
        """The engine restarts; with live-restore its containers run on."""
        self.down = True
        self.tell(EngineUnavailable("the engine went away"))
        if not keeps_containers:
            for box in self.boxes.values():
                self.die(box, 255, unseen=True)


class SimulatedEngine:
    """One orchestrator's way to the machine. When that is killed (`dead`), nothing that it still does has an effect."""

    name = "simulated"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.dead = False
        self.starting = 0
        self.events_queue: asyncio.Queue[Died | Exception] = asyncio.Queue()
        self.before_start: Callable[[SandboxSpec], None] = lambda spec: None

    def alive(self) -> None:
        if self.dead:
            raise asyncio.CancelledError

    async def _call(self, *, may_fail: bool = False) -> None:
        self.alive()
        await asyncio.sleep(self.machine.latency_s * self.machine.rng.uniform(0.7, 1.3))
        self.alive()
        if self.machine.down:
            raise EngineUnavailable("the engine does not answer")
        if may_fail and self.machine.rng.random() < 0.002:
            raise EngineUnavailable("the engine refuses, this once")

    async def check(self, images: Sequence[str]) -> str:
        await self._call()
        return "simulated 1"

    async def start(self, spec: SandboxSpec, *, on_step: Callable[[Step], None]) -> None:
        self.alive()
        self.before_start(spec)
        self.starting += 1
        if self.starting > 2 * self.machine.cores:
            self.machine.violated(f"{self.starting} starts at once")
        try:
            on_step(Step.CREATING)
            await self._call(may_fail=True)
            self.machine.run(spec)
            on_step(Step.STARTING)
        except asyncio.CancelledError:
            if self.dead and self.machine.rng.random() < 0.5:  # it was asked for already, and nobody takes that back
                asyncio.get_running_loop().call_later(self.machine.latency_s, self._late, spec)
            raise
        finally:
            self.starting -= 1

    def _late(self, spec: SandboxSpec) -> None:
        if Path(spec.directory).is_dir() and not self.machine.down:
            self.machine.happened["containers of killed orchestrators"] += 1
            self.machine.run(spec)

    def address(self, spec: SandboxSpec) -> Address:
        return UnixAddress(path=f"{spec.directory}/app.sock", uid=spec.uid)

    def control_address(self, spec: SandboxSpec) -> Address:
        return UnixAddress(path=f"{spec.directory}/control.sock", uid=spec.uid)

    async def stop(self, sandbox_id: SandboxId) -> None:
        await self._call(may_fail=True)
        self.machine.remove(sandbox_id)

    async def list_managed(self) -> list[Found]:
        await self._call()
        return [
            Found(
                sandbox_id=sandbox_id,
                running=box.running,
                uid=box.spec.uid,
                image=box.spec.image,
                exit_code=box.exit_code,
                out_of_memory=box.out_of_memory,
            )
            for sandbox_id, box in self.machine.boxes.items()
        ]

    async def events(self) -> AsyncGenerator[Died | Relist, None]:
        await self._call()
        self.events_queue = asyncio.Queue()
        self.machine.engines.append(self)
        try:
            yield Relist()
            while True:
                event = await self.events_queue.get()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.machine.engines.remove(self)

    async def stats(self, sandbox_ids: Sequence[SandboxId]) -> dict[SandboxId, Stats]:
        await self._call()
        boxes = {each: box for each in sandbox_ids if (box := self.machine.boxes.get(each)) and box.running}
        return {each: Stats(memory_bytes=box.memory_bytes, cpu_s=0.0, pids=3) for each, box in boxes.items()}

    async def logs(self, sandbox_id: SandboxId) -> str:
        return ""

    async def close(self) -> None:
        pass


class Wire:
    """Takes the place of harness.HarnessLink: the harness behind it answers like an honest one, after a while."""

    def __init__(self, box: Box, engine: SimulatedEngine, listener: Listener) -> None:
        self.stage = box.stage
        self.closed = False
        self._box = box
        self._engine = engine
        self._machine = engine.machine
        self._listener = listener
        self._changes = 0

    @classmethod
    async def connect(
        cls, sandbox: SandboxId, address: UnixAddress, listener: Any, **limits: float
    ) -> tuple[Wire, Hello]:
        engine: SimulatedEngine = listener.plane.engine
        engine.alive()
        await asyncio.sleep(0.1)
        engine.alive()
        box = engine.machine.boxes.get(sandbox)
        if box is None or not box.running:
            raise HarnessFailed("nobody is there")
        if box.link is not None:
            box.link.close()
        box.link = cls(box, engine, listener)
        return box.link, Hello(protocol=1, generation=box.spec.generation, stage=box.stage)

    def lost(self) -> None:
        """The sandbox is gone, or it hung up."""
        if not self.closed:
            self.closed = True
            if not self._engine.dead:
                self._listener.link_lost(self._box.spec.sandbox_id, "")

    def close(self) -> None:
        self.closed = True

    async def _answer(self, seconds: float) -> None:
        self._engine.alive()
        await asyncio.sleep(seconds * self._machine.rng.uniform(0.8, 1.5))
        while self._box.hangs and self._box.running and not self.closed:  # noqa: ASYNC110  one of three
            await asyncio.sleep(1.0)
        self._engine.alive()
        if self.closed or not self._box.running:
            raise HarnessFailed("the sandbox ended before it answered")

    async def load(self, load: Mapping[str, Any], files: Sequence[tuple[str, bytes]]) -> None:
        if self._box.stage != "blank":
            self._machine.violated(f"a sandbox of {self._box.app} was loaded twice")
        self._box.stage, self._box.app, self._box.version = "loaded", load["app"], load["version"]
        self._machine.takes(self._box, USES.get(load["app"], LIGHT))
        await self._answer(0.05)
        if load["app"] == BROKEN or self._machine.rng.random() < 0.003:
            raise HarnessFailed("NameError", "Traceback: NameError")

    async def claim(self, claim: Mapping[str, Any]) -> None:
        box, sandbox = self._box, self._box.spec.sandbox_id
        if box.stage != "loaded" or sandbox in self._machine.used:
            self._machine.violated(f"sandbox {sandbox} was claimed at stage {box.stage}, used: {box.owner}")
        plane: Any = self._listener.plane  # type: ignore[attr-defined]
        lease = plane.sandboxes(sandbox)[0].lease
        if (lease.app, lease.version) != (box.app, box.version):
            self._machine.violated(f"{lease.app} was claimed from a sandbox that has loaded {box.app}")
        self._machine.used.add(sandbox)
        mine = [each.id for each in plane.sandboxes() if each.key == (lease.user, lease.app) and each.ending is None]
        alive = [each for each in mine if each in self._machine.boxes and self._machine.boxes[each].running]
        if len(alive) > 1:
            self._machine.violated(f"{len(alive)} live sandboxes of {(lease.user, lease.app)}")
        box.stage, box.owner, box.session = "claimed", (lease.user, lease.app), dict(claim["session"])
        self._machine.on_claim(box.owner, box.session)
        self._machine.happened["claims"] += 1
        await self._answer(0.02)

    async def change(self, key: str, value: Any) -> bool:
        """The app changes its session; True once the orchestrator has acknowledged it."""
        self._box.session[key] = value
        if self.closed:
            return False
        refused = await self._listener.session_changed(self._box.spec.sandbox_id, {key: value}, [])
        return refused is None and not self._engine.dead

    async def session(self, changed: Mapping[str, Any], deleted: Sequence[str]) -> None:
        self._box.session.update(changed)

    async def ping(self) -> None:
        await self._answer(0.01)

    async def end(self, reason: str, grace_s: float) -> None:
        await self._answer(0.05)
        self._machine.die(self._box, 0)


def roomy(users: int) -> int:
    """Memory for as many as this simulation lets in, unless somebody else takes it."""
    return 16 * GIB + users * 8 * MIB
