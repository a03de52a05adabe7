"""One machine with a folder of apps, and control planes on it, one after the other or side by side."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

import argon2
from starlette.applications import Starlette

from htagweb_orchestrator.__main__ import SCHEMA
from htagweb_orchestrator.accounts import Accounts
from htagweb_orchestrator.admission import GIB, Admission
from htagweb_orchestrator.audit import Audit
from htagweb_orchestrator.catalogue import Catalogue
from htagweb_orchestrator.clock import boot_id, boottime_s
from htagweb_orchestrator.control import ControlPlane
from htagweb_orchestrator.data import DataFolders
from htagweb_orchestrator.database import Database
from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator.metrics import Metrics
from htagweb_orchestrator.model import (
    AppName,
    AppsChanged,
    Change,
    Route,
    RouteChanged,
    RouteGone,
    SandboxId,
    Seen,
    SignedIn,
    SignedOut,
    SignIn,
    Snapshot,
    State,
    UserId,
)
from htagweb_orchestrator.operators import Operators
from htagweb_orchestrator.output import OutputFiles
from htagweb_orchestrator.passwords import Failures, Passwords
from htagweb_orchestrator.people import People
from htagweb_orchestrator.people_routes import Audited, people_routes
from htagweb_orchestrator.registry import Lease
from htagweb_orchestrator.rundir import RunDirectory
from htagweb_orchestrator.service import gateway_api, operator_api
from htagweb_orchestrator.session_routes import session_routes
from htagweb_orchestrator.sessions import Sessions
from htagweb_orchestrator.settings import AppSettings, Settings
from htagweb_orchestrator.sign_ins import SignIns
from htagweb_orchestrator.start_times import StartTimes
from htagweb_orchestrator.tally import Tally
from htagweb_orchestrator.tokens import Tokens
from htagweb_orchestrator.verdicts import Verdicts
from htagweb_orchestrator.visitors import Visitors
from tests.orchestrator.engine import FakeEngine, Machine
from tests.orchestrator.harness import Harness

ALICE, BOB = UserId("alice"), UserId("bob")
HELLO, CLOCK = AppName("hello"), AppName("clock")
APPS = ("hello", "clock", "todo", "form", "plot", "upload", "router", "brief")
SOURCE = "from htag import Tag\n\n\nclass App(Tag.div):\n    pass\n"
BRIEF = AppName("brief")
BRIEF_S = 2.0  # its max_lifetime: its end proves that the reaper has looked


async def eventually(condition: Callable[[], object], *, within_s: float = 15.0) -> None:
    """Wait until `condition` holds; fail if it doesn't in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  a condition of any kind, not an event of ours
            await asyncio.sleep(0.005)


class Clock:
    """Time moves when the test says so."""

    def __init__(self) -> None:
        self.now_s = boottime_s()

    def __call__(self) -> float:
        return self.now_s

    def forward(self, seconds: float) -> None:
        self.now_s += seconds


class Watch:
    """A gateway worker's watch, followed as the gateway does it."""

    def __init__(self, plane: ControlPlane, gateway: str) -> None:
        self.gateway = gateway
        self.seen: list[Change] = []
        self.routes: dict[tuple[UserId, AppName], Route] = {}
        self.sign_ins: dict[str, SignIn] = {}
        self.over = asyncio.Event()
        self._plane = plane
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async with aclosing(self._plane.watch(self.gateway)) as changes:
            async for change in changes:
                self._take(change)
        self.over.set()

    def _take(self, change: Change) -> None:
        self.seen.append(change)
        match change:
            case Snapshot(routes=routes, sign_ins=signed_in):
                self.routes = {(route.user, route.app): route for route in routes}
                self.sign_ins = {each.id: each for each in signed_in}
            case RouteChanged(route=route):
                self.routes[route.user, route.app] = route
            case RouteGone(user=user, app=app):
                del self.routes[user, app]
            case AppsChanged():
                pass
            case SignedIn(sign_in=sign_in):
                self.sign_ins[sign_in.id] = sign_in
            case SignedOut(ids=ids):
                for ident in ids:
                    del self.sign_ins[ident]

    def states(self, user: UserId, app: AppName) -> list[tuple[State, str]]:
        """(state, step or ending) of each change of that route, in order."""
        routes = [change.route for change in self.seen if isinstance(change, RouteChanged)]
        return [(r.state, r.ending or r.step) for r in routes if (r.user, r.app) == (user, app)]

    async def report(self, seen: dict[SandboxId, Seen] | None = None) -> None:
        await self._plane.activity(self.gateway, seen or {})

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


class Plane(ControlPlane):
    """The real one, with what tests ask of it in one line."""

    clock: Clock
    engine: FakeEngine
    operators: Operators
    auth: str
    sign_ins: SignIns
    accounts: Accounts
    visitors: Visitors
    tokens: Tokens
    people: People
    audit: Audit
    metrics: Metrics
    rounds = 0  # of the reaper

    async def _tick(self) -> None:
        await super()._tick()
        self.rounds += 1

    async def until_ready(self, user: UserId, app: AppName, query: str = "") -> Route:
        """Lease, and wait for it as a visitor does."""
        route = await self.lease(user, app, query=query, wait_s=5.0)
        assert route.state is State.READY, route
        return route

    async def until_ended(self, user: UserId, app: AppName) -> Route:
        """Wait for the end of what this user has; return how it is explained."""
        async with asyncio.timeout(15):
            while (route := await self.find(user, app)) is None or route.state is not State.ENDED:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return route

    async def gateway(self, name: str = "gateway-1") -> Watch:
        """A gateway watches and has reported, and the time is over in which idle ends wait for that."""
        watch = Watch(self, name)
        await eventually(lambda: watch.seen)
        await watch.report()
        self.clock.forward(16.0)
        return watch

    async def reaped(self, seconds: float) -> None:
        """Let `seconds` pass and the reaper look, all of it with the clock standing still."""
        brief = await self.until_ready(UserId(f"witness-{secrets.token_hex(4)}"), BRIEF)
        self.clock.forward(max(seconds, BRIEF_S))
        await self.until_ended(brief.user, brief.app)


class Stage:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.machine = Machine()
        self.free_bytes = 64 * GIB
        self.apps: dict[str, AppSettings] = {}
        self.planes: list[Plane] = []
        self.passwords = Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        self._stores: list[Sessions] = []
        self._databases: list[Database] = []
        self._audits: list[Audit] = []
        for folder in ("apps", "run", "state"):
            (root / folder).mkdir()
        for name in APPS:
            self.write(name)
        self.limit(BRIEF, max_lifetime_s=BRIEF_S)

    def write(self, name: str, source: str = SOURCE) -> Path:
        path = self.root / "apps" / f"{name}.py"
        path.write_text(source)
        return path

    def limit(self, app: str, **overrides: Any) -> None:
        self.apps[app] = AppSettings(overrides=overrides)

    @property
    def data(self) -> DataFolders:
        return DataFolders(self.root / "data")

    @property
    def run_directory(self) -> RunDirectory:
        return RunDirectory(self.root / "run", gateway_gid=10001)

    def plane(
        self,
        *,
        engine: FakeEngine | None = None,
        starts_per_minute: int = 1000,
        trials: bool = False,
        **values: Any,
    ) -> Plane:
        """A control plane that isn't open yet. With `trials` it tries out each version."""
        settings = Settings(
            apps_dir=self.root / "apps",
            state_dir=self.root / "state",
            apps=self.apps,
            **{"idle_timeout_s": 900.0, "warm_max": 0, **values},
        )
        engine = engine or FakeEngine(self.machine)
        verdicts = Verdicts(self.root / "state" / "verdicts.json") if trials else None
        catalogue = Catalogue(settings, verdicts=verdicts)
        output = OutputFiles(self.root / "state" / "output")
        admission = Admission(
            max_per_user=settings.max_per_user,
            starts_per_minute=starts_per_minute,
            memory=lambda: (64 * GIB, self.free_bytes),
        )
        people = Database(self.root / "state" / "accounts.sqlite", SCHEMA)
        self._databases.append(people)
        metrics = Metrics()
        audit = Audit(self.root / "state", heard=metrics.noted, wall_s=self.clock)
        self._audits.append(audit)
        signed_in = SignIns(people, life_s=settings.sign_in_life_s, wall_s=self.clock)
        plane = Plane(
            engine=engine,
            catalogue=catalogue,
            settings=settings,
            run=self.run_directory,
            sessions=self.store(settings, metrics),
            output=output,
            admission=admission,
            verdicts=verdicts,
            sign_ins=signed_in,
            audit=audit,
            data=self.data,
            tally=metrics,
            times=StartTimes(self.root / "state" / "starts.json"),
            now=self.clock,
        )
        plane.clock, plane.engine = self.clock, engine
        plane.operators = Operators(
            control=plane, engine=engine, catalogue=catalogue, output=output, audit=audit, now=self.clock
        )
        metrics.show(plane, plane.operators)
        plane.metrics = metrics
        plane.sign_ins, plane.accounts, plane.audit = signed_in, Accounts(people), audit
        plane.tokens = Tokens(people, wall_s=self.clock)
        plane.auth = settings.auth
        plane.people = People(
            auth=settings.auth,
            control=plane,
            accounts=plane.accounts,
            sign_ins=signed_in,
            passwords=self.passwords,
            tokens=plane.tokens,
            audit=audit,
            wall_s=self.clock,
        )
        plane.visitors = Visitors(
            auth=settings.auth,
            take=settings.on_sign_in == "take",
            control=plane,
            accounts=plane.accounts,
            sign_ins=signed_in,
            passwords=self.passwords,
            failures=Failures(now=self.clock),
            tokens=plane.tokens,
            audit=audit,
        )
        self.planes.append(plane)
        return plane

    async def open(self, **values: Any) -> Plane:
        plane = self.plane(**values)
        await plane.sign_ins.load(plane.auth)
        await plane.tokens.load()
        await plane.open()
        return plane

    async def close_plane(self, plane: Plane) -> None:
        """An orderly stop of the orchestrator; what runs goes on, and has noticed."""
        self.planes.remove(plane)
        await plane.close()
        running = [c.harness for c in self.machine.containers.values() if c.instance == plane.engine.instance]
        await eventually(lambda: not any(each.connected for each in running if each.reading.is_set()))

    def store(self, settings: Settings, tally: Tally | None = None) -> Sessions:
        store = Sessions(self.root / "state" / "sessions.sqlite", size=settings.session_size_bytes, tally=tally)
        self._stores.append(store)
        return store

    @staticmethod
    def operator_app(plane: Plane) -> Audited:
        return Audited(
            operator_api(plane.operators, people_routes(plane.people), metrics=plane.metrics.text), plane.people
        )

    @classmethod
    def gateway_app(cls, plane: Plane) -> Starlette:
        return gateway_api(plane, session_routes(plane.visitors, cls.operator_app(plane)), metrics=plane.metrics.text)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """For as long as this lasts, another process holds a store's lock."""
        with closing(sqlite3.connect(self.root / "state" / name, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield
            other.execute("ROLLBACK")

    @contextmanager
    def broken_store(self) -> Iterator[None]:
        """For as long as this lasts, the store of sessions can't be read or written."""
        with closing(sqlite3.connect(self.root / "state" / "sessions.sqlite", isolation_level=None)) as other:
            other.execute("ALTER TABLE record RENAME TO lost")
            yield
            other.execute("ALTER TABLE lost RENAME TO record")

    def harness(self, route: Route) -> Harness:
        return self.machine.harness(route.sandbox)

    def nothing_left_of(self, sandbox: SandboxId) -> bool:
        return (
            sandbox not in self.machine.containers
            and sandbox not in self.run_directory.ids()
            and not any(plane.sandboxes(sandbox) for plane in self.planes)
        )

    def left_behind(self, *, instance: str = "htagweb", uid: int = 0, lease: bool = True, **changes: Any) -> Lease:
        """What an orchestrator that was killed leaves: a container, its directory and its lease file."""
        number = len(self.machine.containers)
        found = Lease(
            sandbox=SandboxId(secrets.token_hex(16)),
            uid=30000 + number,
            user=ALICE,
            app=HELLO,
            version="0" * 64,
            image="htagweb-sandbox",
            generation=1,
            limits=Settings().limits("hello"),
            boot_id=boot_id(),
            created_s=self.clock() - 100,
            state="claimed",
            claimed_s=self.clock() - 99,
            last_activity_s=self.clock() - 50,
        ).replace(**changes)
        run = self.run_directory
        run.create(found.sandbox, found.uid)
        if lease:
            run.write_lease(found)
        spec = SandboxSpec(
            sandbox_id=found.sandbox,
            uid=uid or found.uid,
            directory=str(run.sockets(found.sandbox)),
            image=found.image,
            generation=1,
        )
        self.machine.run(spec, instance).harness.stage = "claimed"
        return found

    async def close(self) -> None:
        for engine in (plane.engine for plane in self.planes):
            engine.broken.clear()
            for held in engine.held.values():
                held.set()
        for plane in self.planes:
            # While its engine's events are still followed, which say that an end is through.
            await eventually(lambda: not any(s.state is State.ENDED for s in plane.sandboxes()))  # noqa: B023
            await plane.close()
        for sandbox in list(self.machine.containers):
            self.machine.remove(sandbox)
        await eventually(lambda: not any(harness.tasks for harness in self.machine.harnesses))
        for store in self._stores:
            store.close()
        for audit in self._audits:
            await audit.close()
        for database in self._databases:
            database.close()
        self.passwords.close()
