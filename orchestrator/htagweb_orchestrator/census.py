"""What should run, and what does: the registry compared with the engine's list and with the run directory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import aclosing

from .endings import STOPPED, Endings
from .engines.base import Died, Engine, Found
from .errors import OrchestratorError
from .model import Ending, SandboxId, State, Step
from .registry import Lease, Registry, Sandbox
from .rundir import RunDirectory, UidAllocator
from .starter import Starter

log = logging.getLogger(__name__)

RETRY_S = 1.0  # before events that can't be followed are asked for again


class Census:
    def __init__(
        self,
        *,
        engine: Engine,
        run: RunDirectory,
        registry: Registry,
        uids: UidAllocator,
        endings: Endings,
        starter: Starter,
        boot_id: str,
        on_adopted: Callable[[Sandbox], None],
        spared: Collection[SandboxId],
        now: Callable[[], float],
    ) -> None:
        """`spared` are nobody's, and are to be left alone: the canaries of a self-test under way."""
        self._engine = engine
        self._run = run
        self._registry = registry
        self._uids = uids
        self._endings = endings
        self._starter = starter
        self._boot_id = boot_id
        self._on_adopted = on_adopted
        self._spared = spared
        self._now = now

    async def follow(self) -> None:
        """Follow the engine's events for ever; it reconnects by itself and says Relist when it has."""
        heard = False
        while True:
            try:
                async with aclosing(self._engine.events()) as events:
                    async for event in events:
                        if isinstance(event, Died):
                            self._endings.died(event)
                        else:
                            deaf, heard = heard, True  # each but the first Relist: some events got lost
                            await self.reconcile(deaf=deaf)
            except OrchestratorError as error:
                log.warning("%s", error, extra={"reason": error.reason})
            except Exception:
                log.exception("the engine's events can't be followed")
            await asyncio.sleep(RETRY_S)

    async def reconcile(self, *, adopt: bool = False, deaf: bool = False) -> None:
        """Compare the engine's list, the run directory and the registry; end or remove what is in one of them only.

        With `adopt` (once, at the start) what runs under a lease that holds is taken over. With `deaf` the
        engine's events were lost for a while, as they are when it restarts. Raises EngineUnavailable.
        """
        ready = [each for each in self._registry if each.state in (State.READY, State.WARM)]
        found = {each.sandbox_id: each for each in await self._engine.list_managed()}
        directories = set(self._run.ids())
        if adopt:
            for each in found.values():
                self._adopt(each)
            self._explain(directories, found)
        foreign = [each for each in found if self._registry.get(each) is None and each not in self._spared]
        await asyncio.gather(*map(self._remove, foreign))
        for sandbox in ready:  # of those that came after the list was made, it says nothing
            if sandbox.ending is not None:
                continue
            now_found = found.get(sandbox.id)
            if now_found is None or not now_found.running:
                self._endings.died(
                    Died(
                        sandbox_id=sandbox.id,
                        exit_code=now_found.exit_code if now_found else None,
                        out_of_memory=now_found.out_of_memory if now_found else False,
                    ),
                    deaf=deaf,
                )
            elif sandbox.id not in directories:
                self._endings.end(sandbox, Ending.LOST, "its run directory is gone")
        for left in directories:
            if self._registry.get(left) is None and left not in foreign and left not in self._spared:
                self._run.remove(left)

    async def _remove(self, foreign: SandboxId) -> None:
        """One that can't be removed is left to the next round: it must not keep the others from their visitors."""
        try:
            await self._engine.stop(foreign)
            self._run.remove(foreign)
        except (OrchestratorError, OSError) as error:
            log.warning("foreign sandbox not removed yet: %s", error, extra={"sandbox": foreign})
        else:
            log.info("foreign sandbox removed", extra={"sandbox": foreign})

    def _adopt(self, found: Found) -> None:
        """Take over a sandbox that ran under an earlier orchestrator, if it has a lease that still holds."""
        lease = self._run.read_lease(found.sandbox_id, Lease)
        if (
            not found.running
            or lease is None
            or lease.state != "claimed"
            or lease.boot_id != self._boot_id
            or (lease.sandbox, lease.uid) != (found.sandbox_id, found.uid)
            or self._registry.live((lease.user, lease.app)) is not None
        ):
            return
        sandbox = Sandbox(
            lease, state=State.READY, step=Step.READY, steps_ms=dict(lease.steps_ms), written_s=self._now()
        )
        spec = self._starter.spec(lease)
        sandbox.address = self._engine.address(spec)
        sandbox.control_address = self._engine.control_address(spec)
        self._uids.reserve(lease.uid)
        self._registry.add(sandbox)
        self._on_adopted(sandbox)
        log.info("sandbox adopted", extra={"sandbox": sandbox.id, "app": lease.app})

    def _explain(self, directories: Iterable[SandboxId], found: Mapping[SandboxId, Found]) -> None:
        """End those that had a user and ended while no orchestrator was there to see it: each visitor hears why."""
        unknown = [each for each in directories if self._registry.get(each) is None]
        leases = [lease for each in unknown if (lease := self._run.read_lease(each, Lease)) is not None]
        for lease in sorted(leases, key=lambda lease: lease.claimed_s):
            ended = found.get(lease.sandbox)
            if lease.state != "claimed" or self._registry.live((lease.user, lease.app)) is not None:
                continue
            if ended is not None and (ended.running or ended.uid != lease.uid) and lease.boot_id == self._boot_id:
                continue  # what runs without a lease that holds is nobody's
            sandbox = Sandbox(lease, state=State.READY, step=Step.READY, steps_ms=dict(lease.steps_ms))
            self._uids.reserve(lease.uid)
            self._registry.add(sandbox)
            if lease.boot_id != self._boot_id:
                self._endings.end(sandbox, Ending.LOST, "the machine was restarted", polite=False)
            elif ended is None or (not ended.out_of_memory and ended.exit_code in (None, *STOPPED)):
                # An orphan ends itself with code 0, too; the others an engine leaves that stopped meanwhile.
                self._endings.end(sandbox, Ending.LOST, "it ended while the server was restarted", polite=False)
            else:
                self._endings.died(
                    Died(sandbox_id=sandbox.id, exit_code=ended.exit_code, out_of_memory=ended.out_of_memory)
                )
