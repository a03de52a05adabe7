"""A machine whose containers are scripted harnesses, and an engine over it that misbehaves when told to."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from htagweb_orchestrator.engines.base import Died, Found, Relist, SandboxSpec, Stats
from htagweb_orchestrator.model import Address, SandboxId, Step, UnixAddress
from tests.orchestrator.harness import Harness

H = TypeVar("H", bound=Harness)
Event = Died | Relist | Exception


@dataclass(eq=False)
class Container:
    spec: SandboxSpec
    instance: str
    harness: Harness
    exit_code: int | None = None
    out_of_memory: bool = False

    @property
    def running(self) -> bool:
        return self.exit_code is None


class Machine:
    """What a container engine keeps: it outlives orchestrators, and may serve several installations."""

    def __init__(self) -> None:
        self.containers: dict[SandboxId, Container] = {}
        self.usual: type[Harness] = Harness
        self.upcoming: deque[type[Harness]] = deque()  # scripts of the next ones; honest when empty
        self.listeners: list[tuple[str, asyncio.Queue[Event]]] = []
        self.harnesses: list[Harness] = []
        self.most = 0  # how many there were at the same time

    def next(self, *scripts: type[Harness]) -> None:
        self.upcoming.extend(scripts)

    def run(self, spec: SandboxSpec, instance: str) -> Container:
        script = self.upcoming.popleft() if self.upcoming else self.usual
        harness = script(spec, lambda code: self.die(spec.sandbox_id, code))
        self.harnesses.append(harness)
        container = self.containers[spec.sandbox_id] = Container(spec, instance, harness)
        self.most = max(self.most, len(self.containers))
        return container

    def die(self, sandbox: SandboxId, code: int, *, out_of_memory: bool = False, unseen: bool = False) -> None:
        """Its first process ends; the container stays in the list. `unseen`: the event gets lost."""
        container = self.containers[sandbox]
        if not container.running:
            return
        container.exit_code, container.out_of_memory = code, out_of_memory
        container.harness.killed()
        if not unseen:
            self.tell(container.instance, Died(sandbox_id=sandbox, exit_code=code, out_of_memory=out_of_memory))

    def remove(self, sandbox: SandboxId, *, code: int = 137, unseen: bool = False) -> None:
        if sandbox in self.containers:
            self.die(sandbox, code, unseen=unseen)
            del self.containers[sandbox]

    def tell(self, instance: str, event: Event) -> None:
        for listening, queue in self.listeners:
            if listening == instance:
                queue.put_nowait(event)

    def harness(self, sandbox: SandboxId, kind: type[H] = Harness) -> H:  # type: ignore[assignment]
        found = self.containers[sandbox].harness
        assert isinstance(found, kind)
        return found


class FakeEngine:
    """`broken[verb]` is raised by every call of that verb, `held[verb]` is what each waits for first."""

    name = "fake"

    def __init__(self, machine: Machine, instance: str = "htagweb") -> None:
        self.machine = machine
        self.instance = instance
        self.calls: Counter[str] = Counter()
        self.broken: dict[str, Exception] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.starting: Callable[[SandboxSpec], None] = lambda spec: None
        self.steps: Sequence[Step] = (Step.CREATING, Step.STARTING)
        self.use: dict[SandboxId, Stats] = {}

    def hold(self, verb: str) -> asyncio.Event:
        """From now on calls of `verb` hang until the returned event is set."""
        self.held[verb] = asyncio.Event()
        return self.held[verb]

    async def _asked(self, verb: str) -> None:
        self.calls[verb] += 1
        if verb in self.held:
            await self.held[verb].wait()
        if verb in self.broken:
            raise self.broken[verb]

    async def check(self, images: Sequence[str]) -> str:
        await self._asked("check")
        return "fake 1"

    async def start(self, spec: SandboxSpec, *, on_step: Callable[[Step], None]) -> None:
        self.starting(spec)
        for step in self.steps:
            on_step(step)
        await self._asked("start")
        self.machine.run(spec, self.instance)

    def address(self, spec: SandboxSpec) -> Address:
        return UnixAddress(path=f"{spec.directory}/app.sock", uid=spec.uid, peer_uid=False)

    def control_address(self, spec: SandboxSpec) -> Address:
        # The peer is the test's own process; only who owns the socket file can be true to life here.
        return UnixAddress(path=f"{spec.directory}/control.sock", uid=spec.uid, peer_uid=False)

    async def stop(self, sandbox_id: SandboxId) -> None:
        await self._asked("stop")
        self.machine.remove(sandbox_id)

    async def list_managed(self) -> list[Found]:
        await self._asked("list_managed")
        return [
            Found(
                sandbox_id=each.spec.sandbox_id,
                running=each.running,
                uid=each.spec.uid,
                image=each.spec.image,
                exit_code=each.exit_code,
                out_of_memory=each.out_of_memory,
            )
            for each in self.machine.containers.values()
            if each.instance == self.instance
        ]

    async def events(self) -> AsyncGenerator[Died | Relist, None]:
        await self._asked("events")
        listener = (self.instance, asyncio.Queue[Event]())
        self.machine.listeners.append(listener)
        try:
            yield Relist()
            while True:
                event = await listener[1].get()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.machine.listeners.remove(listener)

    async def stats(self, sandbox_ids: Sequence[SandboxId]) -> dict[SandboxId, Stats]:
        await self._asked("stats")
        return {each: self.use[each] for each in sandbox_ids if each in self.use}

    async def logs(self, sandbox_id: SandboxId) -> str:
        await self._asked("logs")
        return f"the engine says: exit code {self.machine.containers[sandbox_id].exit_code}"

    async def close(self) -> None:
        await self._asked("close")
