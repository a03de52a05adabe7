"""How sandboxes end: once each, for one reason, with nothing left. And why, for as long as somebody may ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from .audit import Event
from .engines.base import Died, Engine
from .errors import OrchestratorError
from .harness import HarnessLink
from .hub import Hub
from .model import Ending, Route, RouteChanged, RouteGone, State
from .registry import Key, Registry, Sandbox
from .rundir import RunDirectory, UidAllocator

log = logging.getLogger(__name__)

KEPT_S, KEPT = 900.0, 5000  # how long, and how many, endings wait to be explained to their visitors
RETRY_S = 2.0  # how often a removal that the engine refused is tried again
GRACE_S = 1.0  # for a sandbox to end by itself when told to
STOPPED = (0, 137, 143, 255)  # what an engine that stops or restarts leaves as the codes of its sandboxes


class Endings:
    def __init__(
        self,
        *,
        engine: Engine,
        run: RunDirectory,
        registry: Registry,
        uids: UidAllocator,
        hub: Hub,
        route: Callable[[Sandbox], Route],
        note: Callable[..., None],
        now: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._run = run
        self._registry = registry
        self._uids = uids
        self._hub = hub
        self._route = route
        self._note = note
        self._now = now
        self._disposals: dict[Sandbox, asyncio.Task[None]] = {}
        self._kept: dict[Key, tuple[Route, float]] = {}  # in the order of their ends
        self._closing = False

    def end(self, sandbox: Sandbox, ending: Ending, detail: str = "", *, polite: bool = True) -> asyncio.Task[None]:
        """End a sandbox, once; callers after the first get the same task. It returns when nothing is left of it.

        Its visitor's route says so at once. `polite` lets the harness end itself first: it may hold output and session
        changes still.
        """
        task = self._disposals.get(sandbox)
        if task is not None:
            return task
        sandbox.state, sandbox.ending, sandbox.detail = State.ENDED, ending, detail
        self._registry.retire(sandbox)
        if sandbox.lease.user:
            route = self._route(sandbox)
            self._kept.pop(sandbox.key, None)
            self._kept[sandbox.key] = route, self._now()
            self._hub.publish(RouteChanged(route=route))
        facts: dict[str, object] = {"sandbox": sandbox.id, "app": sandbox.described, "user": sandbox.lease.user}
        facts |= {"ending": ending, "detail": detail, "age_s": round(self._now() - sandbox.lease.created_s, 1)}
        log.info("sandbox ended", extra=facts)
        if sandbox.lease.user:
            self._note(
                Event.ENDED,
                sandbox.lease.user,
                app=sandbox.lease.app,
                sandbox=sandbox.id,
                ending=ending.value,
                detail=detail,
            )
        task = asyncio.create_task(self._dispose(sandbox, polite), name=f"end {sandbox.error_id}")
        self._disposals[sandbox] = task
        task.add_done_callback(lambda _: self._disposals.pop(sandbox, None))
        if sandbox.start is not None and sandbox.start is not asyncio.current_task():
            sandbox.start.cancel()
        return task

    def died(self, event: Died, *, deaf: bool = False) -> None:
        """The engine says that a sandbox ended; find the word for it.

        `deaf`: it ended while the engine's events could not be heard. Then a code that the engine itself may have
        caused says nothing of the app.
        """
        sandbox = self._registry.get(event.sandbox_id)
        if sandbox is None or sandbox.died.is_set():
            return
        sandbox.exit_code = event.exit_code
        sandbox.died.set()
        if sandbox.state not in (State.READY, State.WARM):
            return  # a start sees it by itself, an ending waits for it
        if event.out_of_memory:
            ending, detail = Ending.MEMORY, "it needed more memory than it may have"
        elif deaf and event.exit_code in STOPPED and not sandbox.exit_reason:
            ending, detail = Ending.LOST, "the engine was restarted"
        elif event.exit_code == 0:
            ending, detail = Ending.EXITED, sandbox.exit_reason or "the app ended itself"
        else:
            found = "it was removed" if event.exit_code is None else f"exit code {event.exit_code}"
            ending, detail = Ending.CRASHED, sandbox.exit_reason or found
        self.end(sandbox, ending, detail, polite=False)

    # -- what is remembered --------------------------------------------------------------------------------------

    def of(self, key: Key) -> Route | None:
        kept = self._kept.get(key)
        return kept[0] if kept else None

    def routes(self) -> Iterable[Route]:
        return [route for route, _ in self._kept.values()]

    def explained(self, key: Key) -> None:
        """Its visitor starts anew."""
        self._kept.pop(key, None)

    def forget_old(self) -> None:
        now = self._now()
        for key, (_, at) in list(self._kept.items()):
            if now - at < KEPT_S and len(self._kept) <= KEPT:
                break
            del self._kept[key]
            self._hub.publish(RouteGone(user=key[0], app=key[1]))

    # -- removing ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Finish the removals under way; one that the engine refuses is left to the next orchestrator."""
        self._closing = True
        await asyncio.gather(*self._disposals.values(), return_exceptions=True)

    async def _dispose(self, sandbox: Sandbox, polite: bool) -> None:
        if sandbox.start is not None:  # the engine must not create what we are about to remove
            await asyncio.wait({sandbox.start})
        if sandbox.link is not None:
            if polite and not sandbox.died.is_set():
                await self._ask_to_end(sandbox, sandbox.link)
            sandbox.link.close()
        while True:
            try:
                await self._engine.stop(sandbox.id)
                self._run.remove(sandbox.id)
                break
            except (OrchestratorError, OSError) as error:
                if self._closing:
                    return
                log.warning("sandbox not removed yet: %s", error, extra={"sandbox": sandbox.id})
                await asyncio.sleep(RETRY_S)
        self._uids.give_back(sandbox.lease.uid)
        self._registry.remove(sandbox)

    async def _ask_to_end(self, sandbox: Sandbox, link: HarnessLink) -> None:
        assert sandbox.ending is not None
        try:
            async with asyncio.timeout(GRACE_S):
                await link.end(sandbox.ending.value, GRACE_S)
                await sandbox.died.wait()
        except Exception as error:  # a hostile or stuck harness: the engine ends it in any case
            log.debug("sandbox did not end by itself: %r", error, extra={"sandbox": sandbox.id})
