"""Keeps the promise of api.Orchestrator, and the operators' verbs beside it.

Memory is a cache: what runs is the engine's list, for whom and since when is each sandbox's lease file. So a kill -9 at
any time loses nothing; `_reconcile` compares what should run with what does, and adopts, ends or forgets.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import statistics
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from . import reaper
from .admission import Admission
from .catalogue import Catalogue, PublishedApp
from .clock import boot_id, boottime_s
from .engines.base import Died, Engine, Found
from .errors import (
    Draining,
    EngineUnavailable,
    OrchestratorError,
    StartFailed,
    StartTimeout,
)
from .harness import HarnessLink
from .hub import Hub
from .model import (
    AppName,
    AppsChanged,
    Change,
    Ending,
    Route,
    RouteChanged,
    RouteGone,
    SandboxId,
    Seen,
    Snapshot,
    State,
    Step,
    UserId,
)
from .output import OutputFiles
from .registry import Key, Lease, Registry, Sandbox
from .rundir import RunDirectory, UidAllocator
from .sessions import Sessions, SessionTooLarge
from .settings import Settings
from .starter import Starter

log = logging.getLogger(__name__)

TICK_S = 0.25  # how often the reaper looks
SCAN_S = 1.0  # how often apps/ is compared
SWEEP_S = 60.0  # how often the engine's list is compared without a reason
ENDED_KEPT_S = 900.0  # how long an ending waits to be explained to its visitor
WRITE_S = 5.0  # how old the last activity in a lease file may be
SETTLE_S, SETTLED_S = 3.0, 15.0  # after a start, idle ends wait for the gateways' reports: at least, at most
GRACE_S = 1.0  # for a sandbox to end by itself when told to


class ControlPlane:
    """The only one who starts and ends sandboxes. `open` before use, `close` after; sandboxes outlive both."""

    def __init__(
        self,
        *,
        engine: Engine,
        catalogue: Catalogue,
        settings: Settings,
        run: RunDirectory,
        sessions: Sessions,
        output: OutputFiles,
        admission: Admission | None = None,
        now: Callable[[], float] = boottime_s,
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._settings = settings
        self._run = run
        self._sessions = sessions
        self._output = output
        self._admission = admission or Admission(max_per_user=settings.max_per_user)
        self._now = now
        self._boot_id = boot_id()
        self._registry = Registry()
        self._uids = UidAllocator()
        self._hub = Hub()
        self._starts: dict[SandboxId, asyncio.Task[None]] = {}
        self._disposals: dict[SandboxId, asyncio.Task[None]] = {}
        self._ended: dict[Key, tuple[Route, float]] = {}
        self._took_s: dict[AppName, deque[float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusal: OrchestratorError | None = EngineUnavailable("The server is starting. Try again in a moment.")
        self._opened_s = self._now()
        self._ticked_s = self._now()
        self._closing = False
        self._starter = Starter(
            engine=engine,
            run=run,
            catalogue=catalogue,
            sessions=sessions,
            output=output,
            listener=self,
            orphan_timeout_s=settings.orphan_timeout_s,
            session_size=settings.session_size_bytes,
            dev=settings.dev,
            now=now,
        )

    # -- life of the service -------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read apps/, find the engine, adopt what runs. Returns when that has been tried once; an engine that doesn't
        answer is asked again every two seconds, and every lease says so meanwhile."""
        await asyncio.to_thread(self._catalogue.scan)
        self._opened_s = self._now()
        opened = asyncio.Event()
        self._spawn(self._serve(opened), "engine")
        self._spawn(self._every(SCAN_S, self._scan), "catalogue")
        self._spawn(self._every(3600.0, self._prune), "prune")
        await opened.wait()

    async def _serve(self, opened: asyncio.Event) -> None:
        while True:
            try:
                version = await self._engine.check([self._settings.sandbox_image])
                await self._reconcile(adopt=True)
                break
            except OrchestratorError as error:
                if str(error) != str(self._refusal):
                    log.error(str(error), extra={"reason": error.reason})
                self._refusal = error
                opened.set()
                await asyncio.sleep(2)
        self._refusal = None
        opened.set()
        log.info(
            "orchestrator ready",
            extra={"engine": version, "apps": len(self._catalogue.cards()), "sandboxes": len(self._registry)},
        )
        self._spawn(self._every(TICK_S, self._tick), "reaper")
        self._spawn(self._every(SWEEP_S, self._reconcile), "sweep")
        await self._events()

    async def close(self) -> None:
        """Stop serving. Starts in progress are undone; running sandboxes are left to the next orchestrator."""
        self._closing = True
        self._refusal = Draining("The server is restarting. Try again in a moment.")
        self._hub.cut()
        for task in (*self._tasks, *self._starts.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._starts.values(), return_exceptions=True)
        await asyncio.gather(*self._disposals.values(), return_exceptions=True)
        for sandbox in self._registry:
            if sandbox.state is State.READY:
                self._starter.write_lease(sandbox)
            if sandbox.link is not None:
                sandbox.link.close()
        await self._engine.close()

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

    async def lease(self, user: UserId, app: AppName, *, query: str = "", wait_s: float = 0.0) -> Route:
        sandbox = self._registry.live((user, app))
        if sandbox is None:
            sandbox = self._reserve(user, app, query)
        if sandbox.state is State.STARTING and wait_s > 0:
            # wait() leaves the start alone when its caller leaves: another tab may be waiting too.
            await asyncio.wait({self._starts[sandbox.id]}, timeout=wait_s)
        return self._route(sandbox)

    def _reserve(self, user: UserId, app: AppName, query: str) -> Sandbox:
        """Look, admit and enter into the registry without an await in between: nobody else can pass the same limit."""
        if self._refusal is not None:
            raise self._refusal
        published = self._catalogue.get(app)
        now = self._now()
        starting = sum(sandbox.state is State.STARTING for sandbox in self._registry)
        self._admission.admit(user, now, of_user=self._registry.of_user(user), starting=starting)
        lease = Lease(
            sandbox=SandboxId(secrets.token_hex(16)),
            uid=self._uids.take(),
            user=user,
            app=app,
            version=published.version,
            image=published.image,
            generation=published.generation,
            limits=published.limits,
            boot_id=self._boot_id,
            created_s=now,
            last_activity_s=now,
        )
        sandbox = Sandbox(lease)
        self._registry.add(sandbox)
        self._ended.pop(sandbox.key, None)
        self._publish(sandbox)
        start = asyncio.create_task(self._start(sandbox, published, query), name=f"start {sandbox.error_id}")
        self._starts[sandbox.id] = start
        start.add_done_callback(lambda _: self._starts.pop(sandbox.id, None))
        return sandbox

    async def _start(self, sandbox: Sandbox, published: PublishedApp, query: str) -> None:
        facts = {"sandbox": sandbox.id, "app": sandbox.lease.app}
        try:
            await self._starter.start(sandbox, published, query=query, on_step=self._step)
        except asyncio.CancelledError:
            self._end(sandbox, sandbox.ending or Ending.LOST, polite=False)
            raise
        except OrchestratorError as error:
            why = str(error.__cause__ or error)
            log.warning("sandbox failed", extra={**facts, "reason": error.reason, "why": why})
            if not isinstance(error, (StartFailed, StartTimeout)):
                self._output.add(sandbox.id, f"{error}\n")
            if self._settings.dev:
                sandbox.traceback = (self._output.read(sandbox.id) or "")[-8000:]
            # "could not be started" is what the page says anyway; a timeout or the engine's refusal says more.
            self._end(sandbox, Ending.FAILED, "" if isinstance(error, StartFailed) else str(error), polite=False)
        except Exception:
            log.exception("sandbox failed", extra=facts)
            self._end(sandbox, Ending.FAILED, polite=False)
        else:
            if sandbox.ending is None:
                sandbox.state = State.READY
                took_s = self._now() - sandbox.lease.created_s
                self._took_s.setdefault(sandbox.lease.app, deque(maxlen=20)).append(took_s)
                self._step(sandbox, Step.READY)
                log.info("sandbox ready", extra={**facts, "took_s": round(took_s, 3), **sandbox.steps_ms})

    def _step(self, sandbox: Sandbox, step: Step) -> None:
        sandbox.step = step
        if sandbox.ending is None:
            self._publish(sandbox)

    async def find(self, user: UserId, app: AppName) -> Route | None:
        sandbox = self._registry.live((user, app))
        if sandbox is not None:
            return self._route(sandbox)
        ended = self._ended.get((user, app))
        return ended[0] if ended else None

    async def activity(self, gateway: str, seen: Mapping[SandboxId, Seen]) -> None:
        now = self._now()
        for sandbox_id, report in seen.items():
            sandbox = self._registry.get(sandbox_id)
            if sandbox is None or sandbox.state is not State.READY:
                continue
            sandbox.sockets[gateway] = report.sockets
            at = now - max(0.0, report.idle_s)
            if at > sandbox.lease.last_activity_s:
                sandbox.lease = sandbox.lease.replace(last_activity_s=at, idle_frozen_s=0.0)
        self._hub.reported(gateway)

    async def release(self, user: UserId, app: AppName, ending: Ending) -> bool:
        sandbox = self._registry.live((user, app))
        if sandbox is None:
            return False
        await asyncio.shield(self._end(sandbox, ending))
        return True

    async def watch(self, gateway: str) -> AsyncGenerator[Change, None]:
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
            platform=self._settings.platform(),
            apps=self._catalogue.cards(),
            routes=(*live, *(route for route, _ in self._ended.values())),
        )

    def _route(self, sandbox: Sandbox) -> Route:
        took = self._took_s.get(sandbox.lease.app)
        return sandbox.route(
            self._now(), expected_s=statistics.median(took) if took else None, outdated=self.outdated(sandbox)
        )

    def _publish(self, sandbox: Sandbox) -> None:
        self._hub.publish(RouteChanged(route=self._route(sandbox)))

    # -- endings -------------------------------------------------------------------------------------------------

    def _end(self, sandbox: Sandbox, ending: Ending, detail: str = "", *, polite: bool = True) -> asyncio.Task[None]:
        """End a sandbox, once; callers after the first get the same task. It returns when nothing is left of it."""
        task = self._disposals.get(sandbox.id)
        if task is not None:
            return task
        sandbox.state, sandbox.ending, sandbox.detail = State.ENDED, ending, detail
        self._registry.retire(sandbox)
        route = self._route(sandbox)
        self._ended[sandbox.key] = (route, self._now())
        self._hub.publish(RouteChanged(route=route))
        facts = {"sandbox": sandbox.id, "app": sandbox.lease.app, "why": ending, "detail": detail}
        log.info("sandbox ended", extra=facts)
        task = asyncio.create_task(self._dispose(sandbox, polite), name=f"end {sandbox.error_id}")
        self._disposals[sandbox.id] = task
        task.add_done_callback(lambda _: self._disposals.pop(sandbox.id, None))
        start = self._starts.get(sandbox.id)
        if start is not None and start is not asyncio.current_task():
            start.cancel()
        return task

    async def _dispose(self, sandbox: Sandbox, polite: bool) -> None:
        start = self._starts.get(sandbox.id)
        if start is not None:  # the engine must not create what we are about to remove
            await asyncio.wait({start})
        if sandbox.link is not None:
            if polite and not sandbox.died.is_set():
                await self._ask_to_end(sandbox, sandbox.link)
            sandbox.link.close()
        while True:
            try:
                await self._engine.stop(sandbox.id)
                break
            except EngineUnavailable as error:
                if self._closing:
                    return  # the next orchestrator finds it: its lease has no live owner
                log.warning("sandbox not removed yet: %s", error, extra={"sandbox": sandbox.id})
                await asyncio.sleep(2)
        self._run.remove(sandbox.id)
        self._uids.give_back(sandbox.lease.uid)
        self._registry.remove(sandbox)

    async def _ask_to_end(self, sandbox: Sandbox, link: HarnessLink) -> None:
        assert sandbox.ending is not None
        try:
            async with asyncio.timeout(GRACE_S):
                await link.end(sandbox.ending.value, GRACE_S)
                await sandbox.died.wait()
        except (TimeoutError, Exception):  # a hostile or stuck harness: the engine ends it in any case
            log.debug("sandbox did not end by itself", extra={"sandbox": sandbox.id})

    async def _tick(self) -> None:
        """Reap, freeze idle clocks while nobody reports, keep lease files young, forget old endings."""
        now = self._now()
        passed_s, self._ticked_s = now - self._ticked_s, now
        watched = self._hub.watched
        for sandbox in self._registry:
            if sandbox.state is not State.READY:
                continue
            lease = sandbox.lease
            if not watched:
                sandbox.lease = lease.replace(idle_frozen_s=lease.idle_frozen_s + passed_s)
            if now - sandbox.written_s > WRITE_S and (not watched or lease.last_activity_s > sandbox.written_s):
                self._starter.write_lease(sandbox)
        since_s = now - self._opened_s
        settled = since_s > SETTLED_S or (since_s > SETTLE_S and self._hub.all_reported)
        for sandbox, why, said in reaper.due(self._registry, now, idle_counts=watched and settled):
            self._end(sandbox, why, said)
        for key, (_, at) in list(self._ended.items()):
            if now - at < ENDED_KEPT_S and len(self._ended) <= 5000:
                break  # in the order of their ends, so the rest is younger
            del self._ended[key]
            self._hub.publish(RouteGone(user=key[0], app=key[1]))

    async def _events(self) -> None:
        """Follow the engine's events for ever; it reconnects by itself and says Relist when it has."""
        while True:
            try:
                async with aclosing(self._engine.events()) as events:
                    async for event in events:
                        if isinstance(event, Died):
                            self._died(event)
                        else:
                            await self._reconcile()
            except OrchestratorError as error:
                log.warning("%s", error, extra={"reason": error.reason})
            await asyncio.sleep(1)

    def _died(self, event: Died) -> None:
        sandbox = self._registry.get(event.sandbox_id)
        if sandbox is None or sandbox.died.is_set():
            return
        sandbox.exit_code, sandbox.out_of_memory = event.exit_code, event.out_of_memory
        sandbox.died.set()
        if sandbox.state is not State.READY:
            return  # a start sees it by itself, an ending waits for it
        if event.out_of_memory:
            ending, detail = Ending.MEMORY, "it needed more memory than it may have"
        elif sandbox.exit_reason or event.exit_code == 0:
            ending, detail = Ending.EXITED, sandbox.exit_reason or "the app ended itself"
        else:
            known = event.exit_code is not None
            ending, detail = Ending.CRASHED, f"exit code {event.exit_code}" if known else "it was removed"
        self._end(sandbox, ending, detail, polite=False)

    # -- what should run, and what does --------------------------------------------------------------------------

    async def _reconcile(self, *, adopt: bool = False) -> None:
        before = {sandbox.id for sandbox in self._registry}
        found = {each.sandbox_id: each for each in await self._engine.list_managed()}
        directories = set(self._run.ids())
        for each in found.values():
            if self._registry.get(each.sandbox_id) is None and not (adopt and self._adopt(each)):
                log.info("foreign sandbox removed", extra={"sandbox": each.sandbox_id})
                await self._engine.stop(each.sandbox_id)
                self._run.remove(each.sandbox_id)
        for sandbox in self._registry:
            # Reserved after the list was made, or on its way up or down: the list says nothing of it.
            if sandbox.id not in before or sandbox.state is not State.READY:
                continue
            now_found = found.get(sandbox.id)
            if now_found is None or not now_found.running:
                self._died(
                    Died(
                        sandbox_id=sandbox.id,
                        exit_code=now_found.exit_code if now_found else None,
                        out_of_memory=now_found.out_of_memory if now_found else False,
                    )
                )
            elif sandbox.id not in directories:
                self._end(sandbox, Ending.LOST, "its run directory is gone")
        for left in directories:
            if self._registry.get(SandboxId(left)) is None:
                self._run.remove(SandboxId(left))

    def _adopt(self, found: Found) -> bool:
        """Take over a sandbox that ran under an earlier orchestrator; False if it has no lease that still holds."""
        lease = self._run.read_lease(found.sandbox_id, Lease)
        if (
            not found.running
            or lease is None
            or lease.state != "claimed"
            or lease.boot_id != self._boot_id
            or (lease.sandbox, lease.uid) != (found.sandbox_id, found.uid)
            or self._registry.live((lease.user, lease.app)) is not None
        ):
            return False
        sandbox = Sandbox(lease, state=State.READY, step=Step.READY, written_s=self._now())
        spec = self._starter.spec(lease)
        sandbox.address = self._engine.address(spec)
        sandbox.control_address = self._engine.control_address(spec)
        self._uids.reserve(lease.uid)
        self._registry.add(sandbox)
        self._publish(sandbox)
        self._spawn(self._relink(sandbox), f"relink {sandbox.error_id}")
        log.info("sandbox adopted", extra={"sandbox": sandbox.id, "app": lease.app})
        return True

    async def _relink(self, sandbox: Sandbox) -> None:
        """Until it answers: a handler may be blocking its harness. A hostile one need not answer at all; its idle time
        and its lifetime end it like any other."""
        delay_s = 0.2
        while sandbox.state is State.READY and not sandbox.died.is_set():
            try:
                sandbox.link = await self._starter.connect(sandbox)
                return
            except Exception as error:
                log.debug("control connection not made: %s", error, extra={"sandbox": sandbox.id})
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 10.0)

    # -- harness.Listener ----------------------------------------------------------------------------------------

    def output(self, sandbox: SandboxId, text: str, dropped: int) -> None:
        self._output.add(sandbox, text, dropped)

    def exits(self, sandbox: SandboxId, reason: str) -> None:
        found = self._registry.get(sandbox)
        if found is not None:
            found.exit_reason = reason or "the app ended itself"

    def link_lost(self, sandbox: SandboxId) -> None:
        found = self._registry.get(sandbox)
        if found is not None and found.state is State.READY and not self._closing:
            self._spawn(self._relink(found), f"relink {found.error_id}")

    async def session_changed(
        self, sandbox: SandboxId, changed: Mapping[str, Any], deleted: Sequence[str]
    ) -> str | None:
        found = self._registry.get(sandbox)
        if found is None:
            return "this sandbox has ended"
        user = found.lease.user
        try:
            await self._sessions.patch(user, changed, deleted)
        except SessionTooLarge as error:
            return str(error)
        except sqlite3.Error as error:
            log.error("session not stored: %s", error, extra={"sandbox": sandbox})
            return "the session could not be stored; the old value was kept"
        for other in self._registry.of_user(user):
            if other is not found and other.link is not None and not other.link.closed:
                self._spawn(self._tell(other.link, changed, deleted), f"session {other.error_id}")
        return None

    async def _tell(self, link: HarnessLink, changed: Mapping[str, Any], deleted: Sequence[str]) -> None:
        try:
            await link.session(changed, deleted)
        except Exception as error:  # it gets the whole record at its next claim; a broken link is noticed elsewhere
            log.debug("session change not delivered: %s", error)

    # -- background rounds ---------------------------------------------------------------------------------------

    async def _scan(self) -> None:
        if await asyncio.to_thread(self._catalogue.scan):
            self._catalogue.keep({sandbox.lease.version for sandbox in self._registry})
            self._hub.publish(AppsChanged(apps=self._catalogue.cards()))
            for sandbox in self._registry.all_live():
                if sandbox.state is State.READY and self.outdated(sandbox):
                    self._publish(sandbox)

    async def _prune(self) -> None:
        await self._sessions.prune()
        await asyncio.to_thread(self._output.prune)

    # -- for operators.py ----------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self._refusal is None

    @property
    def watched(self) -> bool:
        return self._hub.watched

    def sandboxes(self, prefix: str = "") -> list[Sandbox]:
        """Those known here, on their way up and down included."""
        return [sandbox for sandbox in self._registry if sandbox.id.startswith(prefix)]

    def ended(self, prefix: str) -> list[Route]:
        """Endings of the last quarter of an hour whose sandbox id begins with `prefix`."""
        return [route for route, _ in self._ended.values() if route.sandbox.startswith(prefix)]

    def outdated(self, sandbox: Sandbox) -> bool:
        """Is it of another version than the one that is published now?"""
        try:
            return self._catalogue.get(sandbox.lease.app).version != sandbox.lease.version
        except OrchestratorError:
            return True

    async def end(self, sandboxes: Sequence[Sandbox], ending: Ending) -> None:
        """End all of these at once; returns when nothing is left of them."""
        await asyncio.gather(*(asyncio.shield(self._end(sandbox, ending)) for sandbox in sandboxes))
