"""The platform of the simulation: a real control plane on a simulated machine, what a gateway knows, and what must hold
at any instant."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from htagweb_orchestrator import pool
from htagweb_orchestrator.admission import GIB, Admission
from htagweb_orchestrator.catalogue import Catalogue
from htagweb_orchestrator.control import ControlPlane
from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator.model import Route, RouteChanged, RouteGone, SandboxId, Seen, Snapshot, UserId
from htagweb_orchestrator.output import OutputFiles
from htagweb_orchestrator.registry import Key, Sandbox
from htagweb_orchestrator.rundir import RunDirectory
from htagweb_orchestrator.sessions import Sessions
from htagweb_orchestrator.settings import AppSettings, Settings
from tests.orchestrator.simulated import BROKEN, Machine, SimulatedEngine, roomy

T = TypeVar("T")
CORES = 2
SOURCE = "from htag import Tag\n\n\nclass App(Tag.div):\n    pass\n"
APPS = ("hello", "hello", "hello", "todo", "heavy", "rare", "brief", BROKEN)  # as often as they are opened
WARM_MOST = 10
PER_USER = 3
REPORT_S = 5.0  # between two reports of a gateway


class Plane(ControlPlane):
    """The real one, watched at each step that could pass a limit."""

    engine: SimulatedEngine

    def __init__(self, world: Platform, **parts: Any) -> None:
        super().__init__(**parts)
        self._world = world
        self._links.plane = self  # type: ignore[attr-defined]
        self._line = self._arrivals.line
        self._let_in, self._line.serve = self._line.serve, self._watched_serve  # type: ignore[method-assign]
        self._arrival, self._arrivals.sandbox_for = self._arrivals.sandbox_for, self._watched_arrival  # type: ignore[method-assign, assignment]

    def _watched_arrival(self, *asked: Any) -> Sandbox:
        before = list(self._line._waiting)
        sandbox = self._arrival(*asked)
        if sandbox.turn is None:
            self._not_overtaken(sandbox, before)
        self._world.within_limits(self, sandbox)
        return sandbox

    def _watched_serve(self) -> None:
        before = list(self._line._waiting)
        self._let_in()
        for number, sandbox in enumerate(before):
            if sandbox not in self._line:
                self._not_overtaken(sandbox, [other for other in before[:number] if other in self._line])
                self._world.within_limits(self, sandbox)
                self._world.waits_s.append(self._now() - sandbox.lease.created_s)

    def _not_overtaken(self, sandbox: Sandbox, waiting: list[Sandbox]) -> None:
        for other in waiting:
            if other.lease.app == sandbox.lease.app or not self._arrivals.held_up(other):
                self._world.violated(f"{sandbox.key} was let in before {other.key}, who came earlier")


class Run(RunDirectory):
    """Of an orchestrator that may be killed: from then on it can change nothing."""

    engine: SimulatedEngine

    def create(self, sandbox_id: SandboxId, uid: int) -> None:
        self.engine.alive()
        super().create(sandbox_id, uid)

    def write_lease(self, lease: Any) -> None:
        self.engine.alive()
        super().write_lease(lease)

    def seal(self, sandbox_id: SandboxId, uid: int) -> str:
        self.engine.alive()
        return super().seal(sandbox_id, uid)

    def remove(self, sandbox_id: SandboxId) -> None:
        self.engine.alive()
        super().remove(sandbox_id)


@dataclass
class Gateway:
    """One worker's route table, and when each sandbox was last used."""

    routes: dict[Key, Route] = field(default_factory=dict)
    used_s: dict[SandboxId, float] = field(default_factory=dict)
    fresh: set[SandboxId] = field(default_factory=set)


class Platform:
    """`root` is an empty folder; in memory it is several times faster than on a disk."""

    def __init__(self, root: Path, *, users: int, seed: int) -> None:
        self.rng = Random(seed)
        self.users = users
        self.most = max(8, users // 10)
        self.root = root
        self.machine = Machine(Random(seed + 1), cores=CORES, memory_bytes=roomy(users))
        self.machine.violated = self.violated
        self.machine.on_claim = self._on_claim
        self.plane: Plane | None = None
        self.gateway = Gateway()
        self.told: Counter[str] = Counter()
        self.waits_s: list[float] = [0.0]
        self.violations: list[str] = []
        self.boot = "boot-1"
        self.announced: dict[SandboxId, float] = {}  # when a gateway heard of its end; an orchestrator may forget it
        self.used_s: dict[SandboxId, list[float]] = defaultdict(list)  # the truth
        self.acknowledged: dict[UserId, dict[str, int]] = {}
        self.over = False
        self._others_grew_s = 0.0
        self._ours: set[asyncio.Task[Any]] = set()
        for folder in ("apps", "run", "state"):
            (root / folder).mkdir()
        for app in {*APPS}:
            (root / "apps" / f"{app}.py").write_text(SOURCE)
        self.settings = Settings(
            apps_dir=root / "apps",
            state_dir=root / "state",
            max_sandboxes=self.most,
            max_per_user=PER_USER,
            warm_max=WARM_MOST,
            apps={
                "rare": AppSettings(max_sandboxes=max(2, users // 200)),
                "brief": AppSettings(overrides={"idle_timeout_s": 120.0, "max_lifetime_s": 900.0}),
            },
        )
        self.sessions = Sessions(root / "state" / "sessions.sqlite")

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def violated(self, what: str) -> None:
        self.violations.append(f"{self.now():.2f}: {what}")

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of the world outside: what isn't one belongs to the orchestrator, and dies with it."""
        task = asyncio.create_task(work)
        self._ours.add(task)
        task.add_done_callback(self._ours.discard)
        return task

    # -- the orchestrator ----------------------------------------------------------------------------------------

    async def start_orchestrator(self) -> None:
        engine = SimulatedEngine(self.machine)
        run_directory = Run(self.root / "run", gateway_gid=10001)
        run_directory.engine = engine
        plane = Plane(
            self,
            engine=engine,
            catalogue=Catalogue(self.settings),
            settings=self.settings,
            run=run_directory,
            sessions=self.sessions,
            output=OutputFiles(self.root / "state" / "output"),
            admission=Admission(max_per_user=PER_USER, memory=self.machine.memory),
            now=self.now,
        )
        plane.engine = engine
        engine.before_start = lambda spec: self._before_start(plane, spec)
        self.plane = plane
        await plane.open()
        self.watch = self.spawn(self._watch(plane))

    async def stop_orchestrator(self, *, kill: bool) -> None:
        plane, self.plane = self.plane, None
        assert plane is not None
        self.told["kills of the orchestrator" if kill else "orderly restarts"] += 1
        if kill:
            plane.engine.dead = True
            for box in self.machine.boxes.values():
                if box.link is not None:
                    box.link.close()
            while theirs := self._theirs():
                for task in theirs:
                    task.cancel()
                await asyncio.sleep(0)
        else:
            await plane.close()
            if theirs := self._theirs():
                self.violated(f"tasks are left after a stop: {theirs}")
        self.watch.cancel()

    def _theirs(self) -> list[asyncio.Task[Any]]:
        return sorted(
            (task for task in asyncio.all_tasks() if task not in self._ours), key=lambda task: task.get_name()
        )

    # -- what must hold at any instant ---------------------------------------------------------------------------

    def within_limits(self, plane: Plane, sandbox: Sandbox) -> None:
        """Called where a number rises: all of the limits, counted anew."""
        live = [each for each in plane._registry.all_live() if each not in plane._arrivals.line]
        if len(live) > self.most:
            self.violated(f"{len(live)} sandboxes, {self.most} allowed")
        app = sandbox.lease.app
        allowed = self.settings.app(app).max_sandboxes
        if allowed and sum(each.lease.app == app for each in live) > allowed:
            self.violated(f"more than {allowed} sandboxes of {app}")
        if len(plane._registry.of_user(sandbox.lease.user)) > PER_USER:
            self.violated(f"{sandbox.lease.user} has more than {PER_USER}")

    def _before_start(self, plane: Plane, spec: SandboxSpec) -> None:
        sandbox = plane._registry.get(spec.sandbox_id)
        if sandbox is None or spec.sandbox_id in self.machine.boxes:
            self.violated(f"{spec.sandbox_id} is started, and isn't known or is there already")
            return
        if sandbox.lease.user:
            self.within_limits(plane, sandbox)
        else:
            pooled = [each for each in plane._registry if not each.lease.user and each.ending is None]
            for kind, count in Counter((pool.Kind.of(each.lease), each.lease.app) for each in pooled).items():
                if count > (1 if kind[1] else WARM_MOST):
                    self.violated(f"the pool holds {count} of {kind}")
        total, available = self.machine.memory()
        if available < min(total * 15 // 100, 2 * GIB) // 2 and self.now() > self._others_grew_s + 60:
            self.violated(f"a start with {available // 2**20} MiB of memory left")

    def _on_claim(self, owner: Key, session: dict[str, int]) -> None:
        kept = self.acknowledged.get(owner[0], {})
        if lost := {key for key, value in kept.items() if session.get(key, -1) < value}:
            self.violated(f"the session of {owner[0]} lost {lost}")

    # -- the gateway ---------------------------------------------------------------------------------------------

    async def _watch(self, plane: Plane) -> None:
        gateway, name = self.gateway, "gateway"
        gateway.fresh = set(gateway.used_s)
        reports = self.spawn(self._report(plane, name))
        try:
            async with aclosing(plane.watch(name)) as changes:
                async for change in changes:
                    match change:
                        case Snapshot(routes=routes):
                            gateway.routes = {(route.user, route.app): route for route in routes}
                            self._announced(*routes)
                        case RouteChanged(route=route):
                            gateway.routes[route.user, route.app] = route
                            self._announced(route)
                        case RouteGone(user=user, app=app):
                            gateway.routes.pop((user, app), None)
        finally:
            reports.cancel()

    def _announced(self, *routes: Route) -> None:
        for route in routes:
            if route.ending is not None:
                self.announced.setdefault(route.sandbox, self.now())

    async def _report(self, plane: Plane, name: str) -> None:
        while True:
            gateway, now = self.gateway, self.now()
            seen = {each: Seen(idle_s=now - gateway.used_s[each]) for each in gateway.fresh}
            gateway.fresh = set()
            await plane.activity(name, seen)
            await asyncio.sleep(REPORT_S)

    async def restart_gateway(self) -> None:
        self.told["restarts of the gateway"] += 1
        self.watch.cancel()
        for unreported in self.gateway.fresh:  # the last seconds of it are lost
            self.used_s[unreported].clear()
        self.gateway = Gateway()  # knows no route until it watches: a dead one carries no click
        await asyncio.sleep(self.rng.uniform(0.5, 5.0))
        if self.plane is not None:
            self.watch = self.spawn(self._watch(self.plane))
