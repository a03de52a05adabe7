"""From a visitor's wish to a sandbox that answers: admitted, in the line if there is no room, started."""

from __future__ import annotations

import asyncio
import logging
import secrets
import statistics
from collections.abc import Callable, Sequence

from .admission import Admission
from .audit import Event
from .catalogue import Apps, PublishedApp
from .endings import Endings
from .errors import CapacityExceeded, OrchestratorError, StartFailed, StartTimeout
from .line import WaitingLine
from .links import Links
from .model import AppName, Ending, SandboxId, State, Step, UserId
from .output import OutputFiles
from .pool import WarmPool
from .registry import Lease, Registry, Sandbox
from .rundir import UidAllocator
from .settings import Settings
from .start_times import StartTimes
from .starter import Starter
from .tally import Tally

log = logging.getLogger(__name__)


class Arrivals:
    """`lease` makes one of a sandbox that fits an app and has no user yet; `publish` tells of each change."""

    def __init__(
        self,
        *,
        registry: Registry,
        uids: UidAllocator,
        catalogue: Apps,
        settings: Settings,
        admission: Admission,
        pool: WarmPool,
        starter: Starter,
        links: Links,
        endings: Endings,
        output: OutputFiles,
        tally: Tally,
        times: StartTimes,
        lease: Callable[[PublishedApp], Lease],
        publish: Callable[[Sandbox], None],
        note: Callable[..., None],
        now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._uids = uids
        self._catalogue = catalogue
        self._settings = settings
        self._admission = admission
        self._pool = pool
        self._starter = starter
        self._links = links
        self._endings = endings
        self._output = output
        self._tally = tally
        self._times = times
        self._lease = lease
        self._publish = publish
        self._note = note
        self._now = now
        self.line = WaitingLine(room=self._has_room, held_up=self.held_up, now=now)

    def sandbox_for(self, user: UserId, app: AppName, query: str, client: str) -> Sandbox:
        """One that is on its way to this visitor. Raises what keeps him from having it.

        Looks, admits and enters into the registry without an await in between: nobody else can pass the same limit."""
        published = self._catalogue.get(app)
        now = self._now()
        most = self._catalogue.said(app).max_per_user
        self._admission.admit(user, client, now, of_user=self._registry.of_user(user), most=most)
        lease = self._lease(published).replace(user=user, app=app, version=published.version, last_activity_s=now)
        sandbox = Sandbox(lease)
        if self.line.comes_before(sandbox) or self.held_up(sandbox) or self._is_full():
            self._queue(sandbox)
        elif (warm := self._pool.take(published)) is not None:
            self._uids.give_back(lease.uid)
            warm.lease = lease.replace(sandbox=warm.id, uid=warm.lease.uid)
            sandbox = warm
        elif not self._has_room(sandbox):
            self._queue(sandbox)
        self._registry.add(sandbox)
        self._endings.explained(sandbox.key)
        self._publish(sandbox)
        sandbox.start = asyncio.create_task(self._start(sandbox, published, query), name=f"start {sandbox.error_id}")
        if (turn := sandbox.turn) is not None:  # whoever is ended while he waits, even at once, leaves the line
            sandbox.start.add_done_callback(lambda _: turn.cancel())
        return sandbox

    def _queue(self, sandbox: Sandbox) -> None:
        try:
            sandbox.turn = self.line.join(sandbox)
        except CapacityExceeded:
            self._uids.give_back(sandbox.lease.uid)
            raise

    def _is_full(self) -> bool:
        """Are there as many users' sandboxes as the operator allows?"""
        most = self._settings.max_sandboxes
        return most > 0 and sum(sandbox not in self.line for sandbox in self._registry.all_live()) >= most

    def held_up(self, sandbox: Sandbox) -> bool:
        """Are there as many of its app as the operator allows?"""
        app = sandbox.lease.app
        most = self._catalogue.said(app).max_sandboxes
        live = self._registry.all_live()
        return most > 0 and sum(other.lease.app == app and other not in self.line for other in live) >= most

    def _has_room(self, sandbox: Sandbox) -> bool:
        starting = [
            other.lease.app
            for other in self._registry
            if other.state is State.STARTING and other is not sandbox and other not in self.line
        ]
        return not self._is_full() and self._admission.fits(sandbox.lease.app, starting)

    async def _start(self, sandbox: Sandbox, published: PublishedApp, query: str) -> None:
        facts = {"sandbox": sandbox.id, "app": sandbox.lease.app}
        warm = sandbox.link is not None
        kind = "loaded" if sandbox.loaded else "blank" if warm else "cold"
        began_s, outcome = self._now(), "ended"
        try:
            if sandbox.turn is not None:
                await sandbox.turn
                began_s = self._now()
            try:
                await self._starter.start(sandbox, published, query=query, on_step=self._step)
            except StartFailed:
                if not warm or sandbox.answers:
                    raise
                sandbox, kind = self._replaced(sandbox), "cold"
                await self._starter.start(sandbox, published, query=query, on_step=self._step)
        except asyncio.CancelledError:
            self._endings.end(sandbox, sandbox.ending or Ending.LOST, polite=False)
            raise
        except OrchestratorError as error:
            outcome, why = error.reason, str(error.__cause__ or error)
            log.warning("sandbox failed", extra={**facts, "reason": error.reason, "why": why})
            if not isinstance(error, (StartFailed, StartTimeout)):
                self._output.add(sandbox.id, f"{error}\n")
            if self._settings.dev:
                sandbox.traceback = (self._output.read(sandbox.id) or "")[-8000:]
            # "could not be started" is what the page says anyway; a timeout or the engine's refusal says more.
            detail = "" if isinstance(error, StartFailed) else str(error)
            of_app = isinstance(error, (StartFailed, StartTimeout)) and sandbox.step is Step.LOADING
            self._endings.end(sandbox, Ending.FAILED if of_app else Ending.SERVER, detail, polite=False)
        except Exception:
            outcome = OrchestratorError.reason
            log.exception("sandbox failed", extra=facts)
            self._endings.end(sandbox, Ending.SERVER, polite=False)
        else:
            if sandbox.ending is None:
                outcome = "ready"
                sandbox.state = State.READY
                sandbox.lease = sandbox.lease.replace(steps_ms=sandbox.steps_ms)
                took_s = self._now() - sandbox.lease.created_s
                self._times.started(sandbox.lease.app, took_s)
                self._step(sandbox, Step.READY)
                if sandbox.link is None or sandbox.link.closed:  # it hung up with its last word
                    self._links.make_again(sandbox)
                self._note(Event.STARTED, sandbox.lease.user, app=sandbox.lease.app, sandbox=sandbox.id)
                log.info("sandbox ready", extra={**facts, "took_s": round(took_s, 3), **sandbox.steps_ms})
        finally:
            self._tally.started(sandbox.lease.app, kind, outcome, self._now() - began_s)

    def _replaced(self, sandbox: Sandbox) -> Sandbox:
        """One of the warm pool had died unseen: its visitor gets a new one, and hears nothing of it."""
        lease = sandbox.lease
        fresh = Sandbox(
            lease.replace(sandbox=SandboxId(secrets.token_hex(16)), uid=self._uids.take(), state="starting")
        )
        fresh.start, sandbox.start = sandbox.start, None
        self._registry.retire(sandbox)
        sandbox.lease = lease.replace(user=UserId(""))
        self._endings.end(sandbox, Ending.SURPLUS, "it had died in the warm pool", polite=False)
        self._registry.add(fresh)
        return fresh

    def _step(self, sandbox: Sandbox, step: Step) -> None:
        sandbox.step = step
        if sandbox.ending is None:
            self._publish(sandbox)

    def expected_s(self, sandbox: Sandbox) -> tuple[float | None, float | None]:
        """How long it takes by the last ones, and what one in twenty takes longer than; None for what isn't known."""
        place = self.line.place(sandbox)
        took = self._times.took_s(sandbox.lease.app)
        expected_s = statistics.median(took) if took else None
        if place is not None:
            expected_s = self.line.expected_s(place)
        return expected_s, _at_most(took) if took and sandbox.state is State.STARTING else None


def _at_most(took_s: Sequence[float]) -> float:
    """What one in twenty starts takes longer than."""
    if len(took_s) == 1:
        return took_s[0]
    return statistics.quantiles(took_s, n=20, method="inclusive")[-1]
