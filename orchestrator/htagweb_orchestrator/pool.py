"""Sandboxes that were started before anybody asked. Each is used once, by one user, and never goes back.

A blank one has imported what its image brings and knows no app; it serves every app of its kind. A loaded one has
imported one version of one app besides: for apps that somebody opened within the last hour, or that load slowly.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .catalogue import Apps, PublishedApp
from .endings import Endings
from .errors import OrchestratorError
from .model import ASGI, AppName, Ending, State
from .registry import Lease, Registry, Sandbox
from .start_times import StartTimes
from .starter import Starter

log = logging.getLogger(__name__)

ROUND_S = 1.0  # how often it looks at least
IN_USE_S = 3600.0  # an app counts as in use for so long after somebody opened it
SLOW_LOAD_S = 0.5  # an app that takes longer to load is kept loaded whenever it was opened
DEMAND_S = 30.0  # as many blanks are kept as were taken within this time
BACK_OFF_S, BACK_OFF_MOST_S = 1.0, 60.0  # between starts of a kind that fail
MOST_TAKEN = 1000  # of one kind within that time are remembered; no warm_max is larger
RELOAD_S = 60.0  # before one that nobody took is loaded again: its app ends it, perhaps, each time


class Kind(NamedTuple):
    """What a blank sandbox is made with; it fits every app that wants the same."""

    image: str
    generation: int
    memory_bytes: int
    cpus: float
    pids: int
    tmp_bytes: int
    app_bytes: int
    runtime: str
    network: str
    data_bytes: int

    @classmethod
    def of(cls, made: PublishedApp | Lease) -> Kind:
        limits = made.limits
        return cls(
            made.image,
            made.generation,
            limits.memory_bytes,
            limits.cpus,
            limits.pids,
            limits.tmp_bytes,
            limits.app_bytes,
            limits.runtime,
            limits.network,
            limits.data_bytes,
        )


class Refill(NamedTuple):
    app: PublishedApp
    loaded: bool


class WarmPool:
    """`least` blanks are kept of each kind in use, up to `most` while many are taken; `most` bounds loaded ones, too.
    Where an app says otherwise, the largest of its kind's numbers counts.

    `lease` makes the lease of a sandbox without a user, with a new id and uid. `room` says whether the machine has
    memory to spare for so many more: the pool gives way first.
    """

    def __init__(
        self,
        *,
        least: int,
        most: int,
        registry: Registry,
        starter: Starter,
        endings: Endings,
        catalogue: Apps,
        times: StartTimes,
        lease: Callable[[PublishedApp], Lease],
        room: Callable[[int], bool],
        now: Callable[[], float],
    ) -> None:
        self._least = least
        self._most = most
        self._registry = registry
        self._starter = starter
        self._endings = endings
        self._catalogue = catalogue
        self._times = times
        self._lease = lease
        self._room = room
        self._now = now
        self._wake = asyncio.Event()
        self._boots: set[asyncio.Task[None]] = set()
        self._opened: dict[AppName, float] = {}  # when somebody opened the app last
        self._taken: dict[Kind, deque[float]] = {}
        self._failures: Counter[Kind] = Counter()
        self._not_before: dict[Kind, float] = {}
        self._unloadable: dict[AppName, str] = {}  # versions that failed to be loaded for nobody
        self._loaded: dict[tuple[AppName, str], float] = {}  # when a version was loaded that nobody took since

    # -- for a user ----------------------------------------------------------------------------------------------

    def take(self, app: PublishedApp) -> Sandbox | None:
        """A warm sandbox for this app, loaded if there is one; it is the caller's from here on, without an await."""
        now = self._now()
        kind = Kind.of(app)
        self._opened[app.name] = now
        self._unloadable.pop(app.name, None)
        self._taken.setdefault(kind, deque(maxlen=MOST_TAKEN)).append(now)
        self._wake.set()
        fitting = [sandbox for sandbox in self._warm() if Kind.of(sandbox.lease) == kind and sandbox.answers]
        loaded = [each for each in fitting if (each.lease.app, each.lease.version) == (app.name, app.version)]
        chosen = next(iter(loaded or [each for each in fitting if not each.lease.app]), None)
        if chosen is not None:
            chosen.state = State.STARTING
            self._loaded.pop((app.name, app.version), None)
        return chosen

    @property
    def filling(self) -> bool:
        """Is anything being started for visitors to come?"""
        return bool(self._boots)

    def may_warm(self, app: PublishedApp) -> bool:
        """Whether anything may be started for this app that nobody asked for."""
        return (self._most if app.warm_max is None else app.warm_max) > 0

    def lend(self, app: PublishedApp) -> Sandbox | None:
        """A blank one for something else than a visitor, unless it is the last: he may come. The caller ends it."""
        kind = Kind.of(app)
        fitting = [each for each in self._warm() if not each.lease.app and Kind.of(each.lease) == kind and each.answers]
        if len(fitting) < 2:
            return None
        fitting[0].state = State.STARTING
        self._wake.set()
        return fitting[0]

    # -- keeping it filled ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: compare what is there with what is wanted, after each claim and once a second."""
        while True:
            try:
                self.round()
            except Exception:
                log.exception("a round of the warm pool failed")
            self._wake.clear()
            try:
                async with asyncio.timeout(ROUND_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def round(self) -> None:
        """End what isn't wanted, start what is missing; starts run on as tasks of the pool."""
        blanks, loaded = self._wanted()
        if not self._room(0):
            blanks, loaded = {}, {}
        self._end_surplus(blanks, loaded)
        if any(sandbox.state is State.STARTING and sandbox.lease.user for sandbox in self._registry):
            return  # somebody waits: every start slot is his
        for missing in self._missing(blanks, loaded):
            if len(self._boots) >= (os.cpu_count() or 1):
                break
            if not self._room(len(self._boots) + 1):
                break  # else it would end again at once what it starts, for ever
            self._begin(missing)

    def _wanted(self) -> tuple[dict[Kind, int], dict[AppName, PublishedApp]]:
        """How many blanks of each kind, and which apps loaded."""
        now = self._now()
        published = {app.name: app for app in self._catalogue.published() if self._most_of(app)}
        most = max(map(self._most_of, published.values()), default=0)
        self._opened = {name: at for name, at in self._opened.items() if now - at < IN_USE_S and name in published}
        recent = sorted(self._opened, key=self._opened.__getitem__, reverse=True)
        slow = [name for name in published if name not in self._opened and self._loads_slowly(published[name])]
        loaded = {name: published[name] for name in (recent + slow)[:most] if self._least_of(published[name])}
        self._loaded = {version: at for version, at in self._loaded.items() if now - at < RELOAD_S}
        of_kind: dict[Kind, list[PublishedApp]] = {}
        for app in published.values():
            of_kind.setdefault(Kind.of(app), []).append(app)
        common = Counter({kind: len(apps) for kind, apps in of_kind.items()})
        kinds = {Kind.of(published[name]) for name in self._opened}
        kinds |= {Kind.of(app) for app in published.values() if app.warm_min}  # asked for by name: always
        for generation in (1, 2, ASGI):  # before anybody came: the kind that most apps of a generation want
            kinds |= {kind for kind, _ in common.most_common() if kind.generation == generation and common[kind] > 1}
        return {kind: self._blanks_wanted(kind, of_kind[kind], now) for kind in kinds}, loaded

    def _loads_slowly(self, app: PublishedApp) -> bool:
        """And could be: a version that failed to load for nobody waits for its next visitor."""
        return self._times.load_s(app.name) > SLOW_LOAD_S and app.version != self._unloadable.get(app.name)

    def _blanks_wanted(self, kind: Kind, apps: list[PublishedApp], now: float) -> int:
        taken = sum(now - at < DEMAND_S for at in self._taken.get(kind, ()))
        least = max(map(self._least_of, apps))
        return min(max(map(self._most_of, apps)), max(least, math.ceil(taken)))

    def _least_of(self, app: PublishedApp) -> int:
        return self._least if app.warm_min is None else app.warm_min

    def _most_of(self, app: PublishedApp) -> int:
        if app.limits.data_bytes:  # what its user keeps is mounted as it is made, so there must be one
            return 0
        return self._most if app.warm_max is None else app.warm_max

    def _end_surplus(self, blanks: dict[Kind, int], loaded: dict[AppName, PublishedApp]) -> None:
        seen: Counter[Kind] = Counter()
        for sandbox in self._warm():
            lease = sandbox.lease
            if not sandbox.answers:  # nobody could be given to it
                self._endings.end(sandbox, Ending.SURPLUS, polite=False)
                continue
            if lease.app:
                app = loaded.get(lease.app)
                if app is None or (app.version, Kind.of(app)) != (lease.version, Kind.of(lease)):
                    self._endings.end(sandbox, Ending.SURPLUS)
                continue
            kind = Kind.of(lease)
            seen[kind] += 1
            # One more than wanted may stay for now: demand goes up and down, and each end costs as much as a start.
            if kind not in blanks or seen[kind] > blanks[kind] + 1:
                self._endings.end(sandbox, Ending.SURPLUS)

    def _missing(self, blanks: dict[Kind, int], loaded: dict[AppName, PublishedApp]) -> Iterator[Refill]:
        """What to start, in order of use; what is on its way counts as there, so that the target is never passed."""
        pooled = [s for s in self._registry if not s.lease.user and s.state in (State.WARM, State.STARTING)]
        blank = Counter(Kind.of(sandbox.lease) for sandbox in pooled if not sandbox.lease.app)
        ready = {sandbox.lease.app for sandbox in pooled}
        by_kind = {Kind.of(app): app for app in self._catalogue.published()}
        now = self._now()
        for kind, wanted in blanks.items():
            if now >= self._not_before.get(kind, 0.0) and kind in by_kind:
                for _ in range(wanted - blank[kind]):
                    yield Refill(by_kind[kind], loaded=False)
        for name, app in loaded.items():
            if name in ready or (name, app.version) in self._loaded:
                continue
            if now >= self._not_before.get(Kind.of(app), 0.0):
                yield Refill(app, loaded=True)

    def _begin(self, refill: Refill) -> None:
        lease = self._lease(refill.app)
        if refill.loaded:
            lease = lease.replace(app=refill.app.name, version=refill.app.version)
            self._loaded[refill.app.name, refill.app.version] = self._now()
        sandbox = Sandbox(lease)
        self._registry.add(sandbox)
        task = asyncio.create_task(self._boot(sandbox, refill), name=f"warm {sandbox.error_id}")
        sandbox.start = task
        self._boots.add(task)
        task.add_done_callback(self._boots.discard)
        task.add_done_callback(lambda _: self._wake.set())

    async def _boot(self, sandbox: Sandbox, refill: Refill) -> None:
        kind = Kind.of(refill.app)
        try:
            await self._starter.warm(sandbox, refill.app, load=refill.loaded)
        except asyncio.CancelledError:
            self._endings.end(sandbox, Ending.SURPLUS, polite=False)
            raise
        except Exception as error:
            self._failures[kind] += 1
            pause_s = min(BACK_OFF_S * 2 ** (self._failures[kind] - 1), BACK_OFF_MOST_S)
            self._not_before[kind] = self._now() + pause_s
            if refill.loaded:  # the app's fault, perhaps: its visitor is told when he comes, from a start of his own
                self._opened.pop(refill.app.name, None)
                self._unloadable[refill.app.name] = refill.app.version
            facts = {"app": sandbox.described, "pause_s": pause_s, "reason": getattr(error, "reason", "")}
            log.warning("warm sandbox failed: %s", error.__cause__ or error, extra=facts)
            if not isinstance(error, OrchestratorError):
                log.exception("warm sandbox failed")
            self._endings.end(sandbox, Ending.FAILED, polite=False)
        else:
            self._failures.pop(kind, None)
            if sandbox.ending is None:
                sandbox.state = State.WARM

    def _warm(self) -> list[Sandbox]:
        return [sandbox for sandbox in self._registry if sandbox.state is State.WARM]

    async def close(self) -> None:
        """End every one of them: nobody's work is in there, and the next orchestrator starts its own."""
        for task in list(self._boots):
            task.cancel()
        await asyncio.gather(*self._boots, return_exceptions=True)
        for sandbox in self._warm():
            self._endings.end(sandbox, Ending.SURPLUS, polite=False)

    def rows(self) -> list[dict[str, Any]]:
        """For operators: each kind and each loaded app with how many are wanted, ready and starting."""
        blanks, loaded = self._wanted()
        states = Counter(
            (Kind.of(s.lease), s.lease.app, s.state) for s in self._registry if not s.lease.user and s.ending is None
        )
        wanted = {(kind, AppName("")): count for kind, count in blanks.items()}
        wanted |= {(Kind.of(app), name): 1 for name, app in loaded.items()}
        return [
            {
                "image": kind.image,
                "generation": kind.generation,
                "memory_bytes": kind.memory_bytes,
                "app": name,
                "wanted": wanted.get((kind, name), 0),
                "ready": states[kind, name, State.WARM],
                "starting": states[kind, name, State.STARTING],
            }
            for kind, name in sorted({*wanted, *((kind, name) for kind, name, _ in states)})
        ]
