"""The control connections to sandboxes that run: what is said on them, and making those again that were lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from . import reaper
from .belongings import Belongings
from .endings import Endings
from .errors import OrchestratorError
from .harness import HarnessLink
from .model import Ending, SandboxId, State
from .output import OutputFiles
from .registry import Registry, Sandbox

log = logging.getLogger(__name__)

RELINK_S = 0.2  # before a lost control connection is made again: the sandbox decides how often it loses it


class Links:
    """Keeps harness.Listener's promise. `connect` makes the connection of one sandbox."""

    def __init__(
        self,
        *,
        registry: Registry,
        output: OutputFiles,
        endings: Endings,
        belongings: Belongings,
        connect: Callable[[Sandbox], Awaitable[HarnessLink]],
        now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._output = output
        self._endings = endings
        self._belongings = belongings
        self._connect = connect
        self._now = now
        self._relinking: dict[SandboxId, asyncio.Task[None]] = {}
        self._closing = False

    def stop(self) -> None:
        """Make no connection again: they are about to be closed on purpose."""
        self._closing = True
        for task in list(self._relinking.values()):
            task.cancel()

    async def close(self) -> None:
        self.stop()
        await asyncio.gather(*list(self._relinking.values()), return_exceptions=True)

    def make_again(self, sandbox: Sandbox, delay_s: float = RELINK_S) -> None:
        """Until it answers: a handler may be blocking its harness. A hostile one need not answer at all; its idle time
        and its lifetime end it like any other."""
        # A connection that is lost before its hello is reported as lost, too, while it is being made.
        if self._closing or sandbox.id in self._relinking:
            return
        name = f"relink {sandbox.error_id}"
        self._relinking[sandbox.id] = asyncio.create_task(self._relink(sandbox, delay_s), name=name)

    async def _relink(self, sandbox: Sandbox, delay_s: float) -> None:
        try:
            while True:
                await asyncio.sleep(delay_s)
                if sandbox.state is not State.READY or sandbox.died.is_set():
                    return
                try:
                    sandbox.link = await self._connect(sandbox)
                    if sandbox.link.stage != "claimed":  # an orchestrator was killed while it gave it its user
                        self._endings.end(sandbox, Ending.LOST, "its start was broken off", polite=False)
                    if not sandbox.link.closed:
                        return
                except Exception as error:
                    log.debug("control connection not made: %s", error, extra={"sandbox": sandbox.id})
                delay_s = min(max(delay_s * 2, RELINK_S), 10.0)
        finally:  # here, and not a moment later: it may be lost again before this task counts as done
            self._relinking.pop(sandbox.id, None)

    # -- harness.Listener ----------------------------------------------------------------------------------------

    def output(self, sandbox: SandboxId, text: str, dropped: int) -> None:
        found = self._registry.get(sandbox)
        if found is not None:
            found.output_bytes += len(text) + dropped
        self._output.add(sandbox, text, dropped)

    def exits(self, sandbox: SandboxId, reason: str) -> None:
        found = self._registry.get(sandbox)
        if found is not None:
            found.exit_reason = reason or "the app ended itself"

    def busy(self, sandbox: SandboxId, label: str, up_to_s: float) -> None:
        found = self._registry.get(sandbox)
        if found is not None:
            found.busy.say(label, up_to_s, self._now())

    def overran(self, sandbox: SandboxId) -> None:
        found = self._registry.get(sandbox)
        if found is not None and found.state is State.READY:
            limit_s = found.lease.limits.interaction_timeout_s
            self._endings.end(found, Ending.TIMEOUT, f"one interaction took longer than {reaper.duration(limit_s)}")

    def link_lost(self, sandbox: SandboxId, breach: str) -> None:
        found = self._registry.get(sandbox)
        if found is None or found.state is not State.READY or self._closing:
            return
        if breach:
            self._output.add(sandbox, f"{breach}\n")
            self._endings.end(found, Ending.CRASHED, "it broke the rules of its control connection", polite=False)
        else:
            self.make_again(found)

    async def session_changed(
        self, sandbox: SandboxId, changed: Mapping[str, Any], deleted: Sequence[str]
    ) -> str | None:
        found = self._registry.get(sandbox)
        if found is None:
            return "this sandbox has ended"
        user = found.lease.user
        if not user:
            return "nobody uses this app yet"
        try:
            await self._belongings.patch_session(user, found.lease.app, changed, deleted, but=found)
        except OrchestratorError as error:
            return str(error)
        # Let the others be written before our ack is: who hears of another's change before his own is acknowledged may
        # know that his own came later, and won.
        await asyncio.sleep(0)
        return None
