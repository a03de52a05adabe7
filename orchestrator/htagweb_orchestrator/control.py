"""Keeps the promise of api.Orchestrator, and the operators' verbs beside it.

Memory is a cache: what runs is the engine's list, for whom and since when is each sandbox's lease file. So a kill -9 at
any time loses nothing; the census compares what should run with what does, and adopts, ends or forgets.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from . import reaper
from .access import allows
from .admission import Admission, network
from .api import MOST_REFUSED
from .app_images import AppImages
from .arrivals import Arrivals
from .audit import Audit, Event
from .belongings import Belongings
from .builds import Builds
from .catalogue import Apps, Catalogue, PublishedApp
from .census import Census
from .clock import boot_id, boottime_s
from .data import DataFolders
from .endings import Endings
from .engines.base import Advice, Engine
from .errors import (
    AppNotFound,
    AppPreparing,
    Draining,
    EngineUnavailable,
    IsolationBroken,
    OrchestratorError,
)
from .hub import Hub
from .image_maker import ImageMaker
from .kept import Kept
from .links import Links
from .model import (
    AppName,
    AppsChanged,
    Change,
    Ending,
    Icon,
    Refusal,
    Refused,
    Route,
    RouteChanged,
    SandboxId,
    Seen,
    Snapshot,
    State,
    UserId,
)
from .output import OutputFiles
from .pool import WarmPool
from .pulse import Pulse
from .registry import Lease, Registry, Sandbox
from .rundir import RunDirectory, UidAllocator
from .selftest import Check, Prover, SelfTest, judge
from .session_store import SessionStore
from .settings import Settings
from .sign_ins import SignIns
from .start_times import StartTimes
from .starter import Starter
from .tally import Tally
from .trials import Trials
from .verdicts import Verdicts

log = logging.getLogger(__name__)

RETRY_S = 2.0  # how often an engine that does not answer at the start is asked again
TICK_S = 0.25  # how often the reaper looks
SCAN_S = 0.35  # how often apps/ and the configuration are compared; a change of that is believed at the second look
SWEEP_S = 60.0  # how often the engine's list is compared without a reason
RETEST_S = 15.0  # how often an engine that failed the self-test is given another chance
EXPIRE_S = 5.0  # how often sign-ins are looked through for those that are over
WRITE_S = 5.0  # how old the last activity in a lease file may be
MEASURE_S, MEASURED = 30.0, 16  # how often sandboxes' memory is measured, and of how many: some engines are slow at it
DATA_S = 60.0  # how often what apps keep in /data is measured
MAKE_ROOM_EVERY_S, MAKE_ROOM_IDLE_S = 2.0, 60.0  # between two ends for lack of memory; nobody busier than that is ended
SETTLE_S, SETTLED_S = 3.0, 15.0  # after a start, idle ends wait for the gateways' reports: at least, at most


class ControlPlane:
    """The only one who starts and ends sandboxes. `open` before use, `close` after; sandboxes outlive both."""

    def __init__(
        self,
        *,
        engine: Engine,
        catalogue: Apps,
        settings: Settings,
        run: RunDirectory,
        sessions: SessionStore,
        output: OutputFiles,
        admission: Admission | None = None,
        prover: Prover | None = None,
        sign_ins: SignIns | None = None,
        audit: Audit | None = None,
        images: AppImages | None = None,
        maker: ImageMaker | None = None,
        verdicts: Verdicts | None = None,
        renews: bool = False,
        data: DataFolders | None = None,
        tally: Tally | None = None,
        times: StartTimes | None = None,
        now: Callable[[], float] = boottime_s,
    ) -> None:
        """With a `prover`, nothing is started before its engine has shown that it keeps sandboxes in. With `images`,
        which the catalogue knows too, and a `maker`, apps get the packages that they name. With `verdicts`, likewise,
        each version is tried out. With `renews`, who leases what he has of an older version gets the new one."""
        self._engine = engine
        self._catalogue = catalogue
        self._settings = settings
        self._run = run
        self._sessions = sessions
        self._sign_ins = sign_ins or SignIns(None, life_s=0.0)  # without: everybody is anonymous
        self._audit = audit
        self._tally = tally or Tally()
        self._times = times or StartTimes()
        self._output = output
        self._admission = admission or Admission(max_per_user=settings.max_per_user)
        self._now = now
        self._renews = renews
        self._boot_id = boot_id()
        self._registry = Registry()
        self._uids = UidAllocator()
        self._selftest = SelfTest(prover, run=run, uids=self._uids, settings=settings) if prover else None
        self.warnings: tuple[str, ...] = ()  # promises that the engine breaks, which the operator accepts
        self._scanning = asyncio.Lock()
        self._maker = maker
        self._builds: Builds | None = None
        if images is not None and maker is not None:
            self._builds = Builds(
                maker=maker,
                images=images,
                settings=settings,
                changed=self._scan,
                used=self.images_in_use,
                now=now,
                tally=self._tally,
            )
        self._hub = Hub()
        self._sign_ins.tell = self._hub.publish
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusal: OrchestratorError | None = EngineUnavailable("The server is starting. Try again in a moment.")
        self.draining = False  # nothing new is started; not remembered by the next orchestrator
        self._opened_s = self._now()
        self._ticked_s = self._now()
        self._taken_over = False  # what ran under an earlier orchestrator is known
        self._made_room_s = self._opened_s
        self._endings = Endings(
            engine=engine,
            run=run,
            registry=self._registry,
            uids=self._uids,
            hub=self._hub,
            route=self._route,
            note=self._note,
            now=now,
        )
        self._kept = (
            Kept(
                folders=data,
                registry=self._registry,
                endings=self._endings,
                anonymous_life_s=settings.anonymous_life_s,
            )
            if data is not None
            else None
        )
        self.belongings = Belongings(
            registry=self._registry,
            sessions=sessions,
            settings=settings,
            catalogue=catalogue,
            endings=self._endings,
            hub=self._hub,
            kept=self._kept,
            moved=self._moved,
        )
        self._links = Links(
            registry=self._registry,
            output=output,
            endings=self._endings,
            belongings=self.belongings,
            connect=lambda sandbox: self._starter.connect(sandbox),
            now=now,
        )
        self._starter = Starter(
            engine=engine,
            run=run,
            catalogue=catalogue,
            sessions=sessions,
            output=output,
            listener=self._links,
            orphan_timeout_s=settings.orphan_timeout_s,
            session_size=settings.session_size_bytes,
            dev=settings.dev,
            profile=self._sign_ins.person,
            session_key=settings.session_key,
            times=self._times,
            data=data,
            others=lambda sandbox: self._kept is not None and self._kept.others(sandbox),
            now=now,
        )
        self._pulse = Pulse(registry=self._registry, endings=self._endings)
        self._census = Census(
            engine=engine,
            run=run,
            registry=self._registry,
            uids=self._uids,
            endings=self._endings,
            starter=self._starter,
            boot_id=self._boot_id,
            on_adopted=self._adopted,
            spared=self._selftest.canaries if self._selftest else (),
            now=now,
        )
        self._pool = WarmPool(
            least=settings.warm_min,
            most=settings.warm_max,
            registry=self._registry,
            starter=self._starter,
            endings=self._endings,
            catalogue=catalogue,
            times=self._times,
            lease=self._new_lease,
            room=self._room_to_warm,
            now=now,
        )
        self._arrivals = Arrivals(
            registry=self._registry,
            uids=self._uids,
            catalogue=catalogue,
            settings=settings,
            admission=self._admission,
            pool=self._pool,
            starter=self._starter,
            links=self._links,
            endings=self._endings,
            output=output,
            tally=self._tally,
            times=self._times,
            lease=self._new_lease,
            publish=self._publish,
            note=self._note,
            now=now,
        )
        self._trials: Trials | None = None
        if verdicts is not None and isinstance(catalogue, Catalogue):
            self._trials = Trials(
                verdicts=verdicts,
                registry=self._registry,
                starter=self._starter,
                endings=self._endings,
                catalogue=catalogue,
                pool=self._pool,
                lease=self._new_lease,
                room=self._room_to_warm,
                changed=self._scan,
                now=now,
            )

    # -- life of the service -------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read apps/, find the engine, adopt what runs. Returns when that has been tried once; an engine that doesn't
        answer is asked again every RETRY_S, and every lease says so meanwhile."""
        await asyncio.to_thread(self._catalogue.scan)
        self._opened_s = self._now()
        opened = asyncio.Event()
        self._spawn(self._serve(opened), "engine")
        self._spawn(self._every(SCAN_S, self._scan), "catalogue")
        self._spawn(self._every(EXPIRE_S, self._expire), "sign-ins")
        self._spawn(self._every(3600.0, self._prune), "prune")
        self._spawn(self._every(SWEEP_S, self._prune_output), "prune output")
        self._spawn(self._every(SWEEP_S, self._keep_times), "times of starts")
        await opened.wait()

    async def _serve(self, opened: asyncio.Event) -> None:
        while True:
            try:
                version = await self._engine.check([self._settings.sandbox_image])
                await self._census.reconcile(adopt=True)
                break
            except OrchestratorError as error:
                refusal = error
            except Exception:
                log.exception("what runs could not be found out")
                refusal = EngineUnavailable("The server has a problem of its own. Its operator finds it in the log.")
            self._refuse(refusal)
            opened.set()
            await asyncio.sleep(RETRY_S)
        self._taken_over = True
        if opened.is_set():  # who watches knows of nothing that runs, and reported on what wasn't known: once more
            self._opened_s = self._now()
            self._hub.cut()
        if self._builds is not None:
            self._spawn(self._builds.run(), "builds")
        self._spawn(self._begin(version, opened), "self-test")
        self._spawn(self._every(TICK_S, self._tick), "reaper")
        self._spawn(self._every(SWEEP_S, self._census.reconcile), "sweep")
        self._spawn(self._every(MEASURE_S, self._measure), "measure")
        self._spawn(self._every(DATA_S, self._measure_data), "measure data")
        await self._census.follow()

    async def _begin(self, version: str, opened: asyncio.Event) -> None:
        """Start sandboxes from now on, once the engine has shown that it keeps them in. What ran before is served
        meanwhile; an engine that doesn't is tried again every RETEST_S, and every lease says what is broken."""
        checks: tuple[Check, ...] = ()
        while self._selftest is not None:
            try:
                checks = await self._selftest.run()
                self.warnings = judge(checks)
                break
            except OrchestratorError as error:
                self._refuse(error)
            except Exception:
                log.exception("the self-test failed")
                self._refuse(IsolationBroken("The server could not test its walls. Its operator finds why in the log."))
            opened.set()
            await asyncio.sleep(RETEST_S if isinstance(self._refusal, IsolationBroken) else RETRY_S)
        self._refusal = None
        for warning in self.warnings:
            log.warning("accepted: %s", warning)
        if self.warnings and opened.is_set():
            self._hub.cut()  # who watches begins again, with the warnings
        opened.set()
        self._spawn(self._pool.run(), "warm pool")
        if self._trials is not None:
            self._spawn(self._trials.run(), "trials")
        log.info(
            "orchestrator ready",
            extra={
                "engine": version,
                "apps": len(self._catalogue.cards()),
                "sandboxes": len(self._registry),
                "checks": f"{sum(check.holds for check in checks)} of {len(checks)} hold",
            },
        )

    def _refuse(self, refusal: OrchestratorError) -> None:
        """Every lease gets this; the log gets it once."""
        if str(refusal) != str(self._refusal):
            log.error(str(refusal), extra={"reason": refusal.reason})
        self._refusal = refusal

    async def close(self) -> None:
        """Stop serving. Starts in progress are undone; running sandboxes are left to the next orchestrator."""
        self._refusal = Draining("The server is restarting. Try again in a minute.")
        self._hub.close()
        starts = [sandbox.start for sandbox in self._registry if sandbox.start is not None]
        for task in (*self._tasks, *starts):
            task.cancel()
        self._links.stop()
        await asyncio.gather(*self._tasks, *starts, return_exceptions=True)
        await self._links.close()
        await self.belongings.close()
        await self._pool.close()
        await self._pulse.close()
        await self._endings.close()
        for sandbox in self._registry:
            if sandbox.state is State.READY:
                self._save(sandbox)
            if sandbox.link is not None:
                sandbox.link.close()
        await self._keep_times()
        await self._engine.close()
        if self._maker is not None:
            await self._maker.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Repeat for ever; one bad round is logged and survived."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except OrchestratorError as error:
                log.warning("%s", error, extra={"reason": error.reason})
            except Exception:
                log.exception("a round of background work failed")

    # -- api.Orchestrator ----------------------------------------------------------------------------------------

    async def lease(
        self, user: UserId, app: AppName, *, query: str = "", wait_s: float = 0.0, client: str = ""
    ) -> Route:
        try:
            return await self._lease(user, app, query, wait_s, client)
        except OrchestratorError as error:
            self._note(Event.REFUSED, user, app=app, why=error.reason, client=client, at_most_every_s=60.0)
            raise

    async def _lease(self, user: UserId, app: AppName, query: str, wait_s: float, client: str) -> Route:
        if not allows(self._catalogue.access_of(app), self._sign_ins.person(user)):
            raise AppNotFound(f"There is no app {app} here.", app=app)
        sandbox = self._registry.live((user, app))
        if sandbox is not None and self._renews and sandbox.state is State.READY and self.outdated(sandbox):
            self._endings.end(sandbox, Ending.UPDATED)
            sandbox = None
        if sandbox is None:
            if self._refusal is not None:
                raise self._refusal
            if self.draining:
                raise Draining("Apps that are open go on, but no new ones start for now. Try again in a while.")
            sandbox = self._arrivals.sandbox_for(user, app, query, client)
        if sandbox.state is State.STARTING and sandbox.start is not None and wait_s > 0:
            # wait() leaves the start alone when its caller leaves: another tab may be waiting too.
            await asyncio.wait({sandbox.start}, timeout=wait_s)
            sandbox = self._registry.live((user, app)) or sandbox
        return self._route(sandbox)

    def _new_lease(self, published: PublishedApp) -> Lease:
        """Of a sandbox that fits this app and has no user yet."""
        return Lease(
            sandbox=SandboxId(secrets.token_hex(16)),
            uid=self._uids.take(),
            user=UserId(""),
            app=AppName(""),
            version="",
            image=published.image,
            generation=published.generation,
            limits=published.limits,
            boot_id=self._boot_id,
            created_s=self._now(),
        )

    async def find(self, user: UserId, app: AppName) -> Route | None:
        sandbox = self._registry.live((user, app))
        if sandbox is not None:
            sandbox.asked_s = self._now()
            return self._route(sandbox)
        self._know_what_runs()
        return self._endings.of((user, app))

    def _know_what_runs(self) -> None:
        """Raise rather than say that nothing does."""
        if not self._taken_over and self._refusal is not None:
            raise self._refusal

    async def running(self, user: UserId) -> list[Route]:
        self._know_what_runs()
        return [self._route(sandbox) for sandbox in self._registry.of_user(user)]

    async def activity(self, gateway: str, seen: Mapping[SandboxId, Seen], refused: Sequence[Refusal] = ()) -> None:
        now = self._now()
        for sandbox_id, report in seen.items():
            sandbox = self._registry.get(sandbox_id)
            if sandbox is None or sandbox.state is not State.READY:
                continue
            sandbox.sockets[gateway] = report.sockets
            at = now - max(0.0, report.idle_s)
            if at > sandbox.lease.last_activity_s:
                sandbox.lease = sandbox.lease.replace(last_activity_s=at, idle_frozen_s=0.0)
        for refusal in refused[:MOST_REFUSED]:
            event = Event.REFUSED if refusal.why is Refused.FORBIDDEN else Event.SIGN_IN_REFUSED
            client = refusal.client if refusal.user else network(refusal.client)  # as strangers have many of
            self._note(event, refusal.user, app=refusal.app, why=refusal.why, client=client, at_most_every_s=60.0)
        self._hub.reported(gateway)

    async def release(self, user: UserId, app: AppName, ending: Ending) -> bool:
        sandbox = self._registry.live((user, app))
        if sandbox is None:
            self._know_what_runs()
            return False
        await asyncio.shield(self._endings.end(sandbox, ending))
        return True

    async def icon(self, app: AppName) -> Icon | None:
        return self._catalogue.icon(app)

    async def watch(self, gateway: str) -> AsyncGenerator[Change, None]:
        if self._hub.closed:
            return
        watcher = self._hub.join(gateway)
        try:
            yield self._snapshot()
            while (change := await watcher.next()) is not None:
                yield change
        finally:
            self._hub.leave(watcher)
            for sandbox in self._registry:
                sandbox.sockets.pop(gateway, None)

    def _snapshot(self) -> Snapshot:
        live = [self._route(sandbox) for sandbox in self._registry.all_live()]
        return Snapshot(
            platform=msgspec.structs.replace(self._settings.platform(self.warnings), home=self._catalogue.home()),
            apps=self._catalogue.cards(),
            routes=(*live, *self._endings.routes()),
            sign_ins=self._sign_ins.all(),
            complete=self._taken_over,
        )

    def _route(self, sandbox: Sandbox) -> Route:
        expected_s, expected_most_s = self._arrivals.expected_s(sandbox)
        return sandbox.route(
            self._now(),
            expected_s=expected_s,
            expected_most_s=expected_most_s,
            outdated=self.outdated(sandbox) and not self.draining,  # whoever went for the new one would get none
            place=self._arrivals.line.place(sandbox),
        )

    def _publish(self, sandbox: Sandbox) -> None:
        self._hub.publish(RouteChanged(route=self._route(sandbox)))

    # -- background rounds -------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Reap, freeze idle clocks while nobody reports, keep lease files young, forget old endings."""
        now = self._now()
        passed_s, self._ticked_s = now - self._ticked_s, now
        watched = self._hub.watched
        for sandbox in self._registry:
            if sandbox.state is not State.READY:
                continue
            lease = sandbox.lease
            frozen = sandbox.pass_time(now, passed_s, watched=watched)
            if now - sandbox.written_s > WRITE_S and (frozen or lease.last_activity_s > sandbox.written_s):
                self._save(sandbox)
        since_s = now - self._opened_s
        settled = since_s > SETTLED_S or (since_s > SETTLE_S and self._hub.all_reported)
        for sandbox, why, said in reaper.due(self._registry, now, idle_counts=watched and settled):
            self._endings.end(sandbox, why, said)
        self._pulse.round(now, passed_s)
        self._endings.forget_old()
        for sandbox in self._arrivals.line.gone():
            self._endings.end(sandbox, Ending.VISITOR, "nobody waited for it any more", polite=False)
        self._arrivals.line.serve()
        self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Short of memory, with the warm pool gone: end the longest idle, and see whether that was enough."""
        if self._admission.room_to_spare() or now < self._made_room_s + MAKE_ROOM_EVERY_S:
            return
        if any(sandbox.state is State.WARM for sandbox in self._registry):
            return
        idle = [s for s in self._registry if s.state is State.READY and s.lease.idle_s(now) > MAKE_ROOM_IDLE_S]
        idle = [sandbox for sandbox in idle if not sandbox.busy_left_s(now)]
        if idle:
            self._made_room_s = now
            longest = max(idle, key=lambda sandbox: sandbox.lease.idle_s(now))
            self._endings.end(longest, Ending.FULL, "the server ran short of memory")

    def _room_to_warm(self, more: int) -> bool:
        """May so many more be started that nobody asked for?"""
        return not self.draining and self._admission.room_to_spare(more)

    async def _measure(self) -> None:
        """What sandboxes use, for the reservations of the next starts."""
        ready = {sandbox.id: sandbox.lease.app for sandbox in self._registry if sandbox.state is State.READY}
        ready = dict(random.sample(list(ready.items()), min(MEASURED, len(ready))))
        for sandbox_id, use in (await self._engine.stats(list(ready))).items() if ready else ():
            self._admission.measured(ready[sandbox_id], use.memory_bytes)

    def _save(self, sandbox: Sandbox) -> None:
        """A disk that is full, or a directory that is gone, must not keep the reaper from the others."""
        try:
            self._starter.write_lease(sandbox)
        except OSError as error:
            log.warning("lease not written: %s", error, extra={"sandbox": sandbox.id})
            sandbox.written_s = self._now()

    def _adopted(self, sandbox: Sandbox) -> None:
        self._publish(sandbox)
        self._links.make_again(sandbox, 0.0)

    def _moved(self, sandbox: Sandbox) -> None:
        self._save(sandbox)
        self._publish(sandbox)

    async def _scan(self) -> None:
        async with self._scanning:
            changed = await asyncio.to_thread(self._catalogue.scan)
        if changed:
            self._catalogue.keep({sandbox.lease.version for sandbox in self._registry})
            self._hub.publish(AppsChanged(apps=self._catalogue.cards(), home=self._catalogue.home()))
            for sandbox in self._registry.all_live():
                if sandbox.state is not State.READY or not self.outdated(sandbox):
                    continue
                if self._renews and self._settings.dev:  # who is writing the app sees it at once
                    self._endings.end(sandbox, Ending.UPDATED)
                else:
                    self._publish(sandbox)

    async def _expire(self) -> None:
        await self._sign_ins.expire()

    async def _prune(self) -> None:
        await self._sessions.prune()
        if self._kept is not None:
            await self._kept.prune()

    async def _measure_data(self) -> None:
        if self._kept is not None:
            await self._kept.measure()

    async def _prune_output(self) -> None:
        await asyncio.to_thread(self._output.prune)  # often: an app that crashes at each start writes a file each time

    async def _keep_times(self) -> None:
        await asyncio.to_thread(self._times.save)

    async def published_anew(self) -> None:
        """What can be started has changed: tell the gateways now."""
        await self._scan()

    def _note(self, event: Event, who: str, *, at_most_every_s: float = 0.0, **facts: object) -> None:
        if self._audit is not None:
            self._audit.add(event, who, at_most_every_s=at_most_every_s, **facts)

    # -- for operators.py ----------------------------------------------------------------------------------------

    async def examine(self) -> tuple[Sequence[Check], Sequence[Advice]]:
        """The self-test once more, and what is worth knowing of the engine. Raises EngineUnavailable."""
        if self._selftest is None:
            return (), ()
        return await self._selftest.run(), await self._selftest.advice()

    @property
    def ready(self) -> bool:
        return self._refusal is None and not self.draining

    def drain(self, on: bool) -> None:
        """Refuse the new and finish the old, those who wait in the line included; or take visitors in again."""
        if on == self.draining:
            return
        self.draining = on
        live = list(self._registry.all_live())
        log.info("draining" if on else "not draining any more", extra={"sandboxes": len(live)})
        for sandbox in live:
            if self.outdated(sandbox):
                self._publish(sandbox)

    @property
    def waiting(self) -> int:
        """How many wait in the line."""
        return len(self._arrivals.line)

    @property
    def memory(self) -> tuple[int, int]:
        """(total, available) bytes of the machine."""
        return self._admission.memory

    @property
    def kept(self) -> Kept | None:
        """What apps keep for their visitors; None where nothing can be kept."""
        return self._kept

    @property
    def pool(self) -> WarmPool:
        return self._pool

    @property
    def trials(self) -> Trials | None:
        return self._trials

    @property
    def builds(self) -> Builds | None:
        return self._builds

    def images_in_use(self) -> set[str]:
        """Those that sandboxes run on, and that the next ones will."""
        return {sandbox.lease.image for sandbox in self._registry} | {app.image for app in self._catalogue.published()}

    @property
    def watched(self) -> bool:
        return self._hub.watched

    def sandboxes(self, prefix: str = "") -> list[Sandbox]:
        """Those known here, on their way up and down included."""
        return [sandbox for sandbox in self._registry if sandbox.id.startswith(prefix)]

    def ended(self, prefix: str) -> list[Route]:
        """Endings of the last quarter of an hour whose sandbox id begins with `prefix`."""
        return [route for route in self._endings.routes() if route.sandbox.startswith(prefix)]

    def outdated(self, sandbox: Sandbox) -> bool:
        """Is it of another version than the one that is published now?"""
        if not sandbox.lease.version:
            return False  # a blank one has none
        try:
            return self._catalogue.get(sandbox.lease.app).version != sandbox.lease.version
        except AppPreparing:
            return False  # nothing newer could be started
        except OrchestratorError:
            return True

    async def end(self, sandboxes: Sequence[Sandbox], ending: Ending) -> None:
        """End all of these at once; returns when nothing is left of them."""
        await asyncio.gather(*(asyncio.shield(self._endings.end(sandbox, ending)) for sandbox in sandboxes))
