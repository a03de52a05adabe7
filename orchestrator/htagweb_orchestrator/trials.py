"""Tries out each new version once: renders its first page for nobody, in a sandbox that is thrown away.

So an operator hears what is wrong before a visitor does. The sandbox is made, sealed and limited like any other; it has
an empty session and no user, and nothing that happens in it is kept.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable

from .catalogue import Catalogue, PublishedApp
from .endings import Endings
from .errors import OrchestratorError
from .harness import HarnessFailed
from .model import ASGI, Ending, State
from .pool import WarmPool
from .quantities import show_duration, show_size
from .registry import Lease, Registry, Sandbox
from .starter import Starter
from .verdicts import Verdicts

log = logging.getLogger(__name__)

ROUND_S = 0.25
PAUSE_S = 30.0  # before what could not be tried, through no fault of its own, is tried again
LAST_WORDS_S = 5.0
FLOOD_BYTES = 1024 * 1024
# What a class written for the other htag ends in.
OTHER_HTAG = re.compile(r"AttributeError: |(ImportError|ModuleNotFoundError|NameError): .*(htag|Tag|App|State|Router)")


class Trials:
    """The pool's rules hold: it lends the sandboxes, `room` says whether there is memory, and visitors go first."""

    def __init__(
        self,
        *,
        verdicts: Verdicts,
        registry: Registry,
        starter: Starter,
        endings: Endings,
        catalogue: Catalogue,
        pool: WarmPool,
        lease: Callable[[PublishedApp], Lease],
        room: Callable[[int], bool],
        changed: Callable[[], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._verdicts = verdicts
        self._registry = registry
        self._starter = starter
        self._endings = endings
        self._catalogue = catalogue
        self._pool = pool
        self._lease = lease
        self._room = room
        self._changed = changed
        self._now = now
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        """For ever. What is under way when it is cancelled is ended."""
        try:
            while True:
                try:
                    self._round()
                except Exception:
                    log.exception("a round of trying out apps failed")
                await asyncio.sleep(ROUND_S)
        finally:
            for task in self._under_way.values():
                task.cancel()
            await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def again(self, app: str) -> bool:
        """Try an app's newest version once more; False if it never was."""
        coming = self._catalogue.coming(app)
        return coming is not None and self._verdicts.forget(coming.tried)

    def _round(self) -> None:
        waits = any(sandbox.state is State.STARTING and sandbox.lease.user for sandbox in self._registry)
        if waits or self._pool.filling:  # visitors first, those to come included
            return
        for app in self._catalogue.untried():
            if len(self._under_way) >= (os.cpu_count() or 1) or not self._room(len(self._under_way) + 1):
                return
            if app.tried in self._under_way or self._now() < self._not_before.get(app.tried, 0.0):
                continue
            if self._pool.may_warm(app):
                task = asyncio.create_task(self._try(app), name=f"try {app.name}")
                self._under_way[app.tried] = task
                task.add_done_callback(lambda _, tried=app.tried: self._under_way.pop(tried, None))  # type: ignore[misc]

    async def _try(self, app: PublishedApp) -> None:
        sandbox = self._pool.lend(app) or Sandbox(self._lease(app))
        sandbox.lease = sandbox.lease.replace(app=app.name, version=app.version)
        self._registry.add(sandbox)
        try:
            problem = await self._problem(sandbox, app)
            await self._say(app, problem)  # at once: a version may be waiting for it
            if not problem and (flood := await self._flood(sandbox)):
                await self._say(app, flood)
        except Exception as error:  # the engine's fault, or a disk's: no verdict
            self._not_before = {tried: at for tried, at in self._not_before.items() if at > self._now()}
            self._not_before[app.tried] = self._now() + PAUSE_S
            known = isinstance(error, OrchestratorError | OSError)
            log.warning("app not tried out: %s", error, extra={"app": app.name}, exc_info=None if known else error)
        finally:
            self._endings.end(sandbox, Ending.SURPLUS, polite=False)

    async def _say(self, app: PublishedApp, problem: str) -> None:
        self._verdicts.put(app.tried, problem, wanted=self._catalogue.all_tried())
        level = logging.WARNING if problem else logging.INFO
        log.log(level, "app tried out: %s", problem or "well", extra={"app": app.name})
        await self._changed()

    async def _problem(self, sandbox: Sandbox, app: PublishedApp) -> str:
        """A sentence, "" if all went well."""
        look = f"(htagweb logs {sandbox.error_id})"
        try:
            await self._starter.try_out(sandbox, app)
        except TimeoutError:
            step = "rendering its first page" if sandbox.loaded else "importing it"
            return f"when it was tried out, {step} took longer than {show_duration(app.limits.start_timeout_s)} {look}"
        except HarnessFailed as error:
            step = "its first page failed" if sandbox.loaded else "it could not be imported"
            kind = f" on htag {app.generation}" if app.generation != ASGI else ""
            return f"when it was tried out{kind}, {step}: {error} {look}{self._hint(app, str(error))}"
        return ""

    async def _flood(self, sandbox: Sandbox) -> str:
        """Likewise, of what it wrote; that is on its way still when the page is there, so it ends politely first."""
        await asyncio.wait({self._endings.end(sandbox, Ending.SURPLUS)}, timeout=LAST_WORDS_S)
        if sandbox.output_bytes <= FLOOD_BYTES:
            return ""
        wrote = show_size(sandbox.output_bytes)
        return f"when it was tried out, it wrote {wrote} of output (htagweb logs {sandbox.error_id})"

    @staticmethod
    def _hint(app: PublishedApp, error: str) -> str:
        if missing := re.match(r"ModuleNotFoundError: No module named '(\w+)", error):
            if missing[1] != "htag":
                return f'; if that is a package, the app has to name it: dependencies = ["{missing[1]}"]'
        if app.generation == ASGI or app.pinned or not OTHER_HTAG.match(error):
            return ""
        other = "htag>=2" if app.generation == 1 else "htag<2"
        return f'; if it was written for the other htag, let it say so: dependencies = ["{other}"]'
