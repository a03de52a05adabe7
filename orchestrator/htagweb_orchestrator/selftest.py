"""Does the engine keep what sandboxes are promised? One canary is made like any sandbox, and tries to get out of it.

An engine takes options, shows them when asked, and may enforce nothing of them (rootless ones without cgroup v2 do
so with limits). Only the attempt proves anything.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from .engines.base import Advice, Found, SandboxSpec
from .errors import EngineUnavailable, IsolationBroken
from .model import SandboxId, Struct
from .promises import PROMISES
from .rundir import RunDirectory, UidAllocator
from .settings import Settings

MIB = 1024**2
MEMORY, PIDS, FILES = 64 * MIB, 24, 1 * MIB  # small, so that trying to exceed them takes no time
RUNSC_MEMORY, RUNSC_PIDS = 256 * MIB, 256  # gVisor's own kernel lives on these, too
NO_DIRECTORY = 3  # the exit code of a probe that can't write its report

HAS_OWN_KERNEL = {"seccomp": "gVisor has a kernel of its own", "sockets": "gVisor has a kernel of its own"}
"""Not tried under runsc: its filter stands before the host's kernel, where a sandbox can't see it."""


class Check(Struct, frozen=True):
    """One promise, tried. `accepted`: it is broken, and the operator has said that this will do."""

    promise: str
    holds: bool
    found: str
    accepted: bool = False
    runtime: str = "runc"

    @property
    def sentence(self) -> str:
        what, advice = PROMISES[self.promise]
        return f"{what} This engine doesn't keep that ({self.promise}: {self.found}). {advice}"


class Prover(Protocol):
    """The part of an engine that this needs."""

    async def probe(self, spec: SandboxSpec, program: str, argument: str) -> Found:
        """Run a Python program in a sandbox that differs from others in its command alone; return how it ended.

        Nothing is left of it then. Raises as `Engine.start` does.
        """
        ...

    async def advice(self, networks: Collection[str]) -> list[Advice]:
        """What an operator should know of this engine, and of the networks that apps are given."""
        ...


class SelfTest:
    """`canaries` holds the ids of those under way: nobody else may take them for left-overs."""

    def __init__(self, engine: Prover, *, run: RunDirectory, uids: UidAllocator, settings: Settings) -> None:
        self._engine = engine
        self._run = run
        self._uids = uids
        self._image = settings.sandbox_image
        self._runtimes = sorted({limits.runtime for limits in settings.all_limits()})
        self._networks = {limits.network for limits in settings.all_limits()} - {""}
        self._accept_weak = frozenset(settings.accept_weak)
        self.canaries: set[SandboxId] = set()

    async def run(self) -> tuple[Check, ...]:
        """Try everything, under each runtime in use. A second or two. Raises EngineUnavailable or ImageNotFound."""
        checks: list[Check] = []
        for runtime in self._runtimes:
            checks += await self._try(runtime)
        return tuple(checks)

    async def advice(self) -> list[Advice]:
        """What is worth knowing besides. Raises EngineUnavailable."""
        return await self._engine.advice(self._networks)

    async def _try(self, runtime: str) -> list[Check]:
        canary, neighbour = self._new_id(), self._new_id()
        uid, other_uid = self._uids.take(), self._uids.take()
        self.canaries |= {canary, neighbour}
        memory, pids = (RUNSC_MEMORY, RUNSC_PIDS) if runtime == "runsc" else (MEMORY, PIDS)
        limits = {"memory": memory, "pids": pids, "files": FILES}
        try:
            self._run.create(canary, uid)
            self._run.create(neighbour, other_uid)
            spec = SandboxSpec(
                sandbox_id=canary,
                uid=uid,
                directory=str(self._run.sockets(canary)),
                image=self._image,
                generation=1,
                memory_bytes=memory,
                pids=pids,
                tmp_bytes=FILES,
                runtime=runtime,
            )
            ended = await self._engine.probe(spec, _program(), json.dumps({"limits": limits, "neighbour": neighbour}))
            return self._read(self._run.boot_log(canary), ended, runtime)
        finally:
            for sandbox in (canary, neighbour):
                with contextlib.suppress(OSError):
                    self._run.remove(sandbox)
            self.canaries -= {canary, neighbour}
            for taken in (uid, other_uid):
                self._uids.give_back(taken)

    def _read(self, report: str, ended: Found, runtime: str) -> list[Check]:
        told: dict[str, tuple[bool, str]] = {}
        for line in report.splitlines():
            with contextlib.suppress(msgspec.MsgspecError):
                promise, held, found = msgspec.json.decode(line, type=tuple[str, bool, str])
                told[promise] = held, found
        if not told and ended.exit_code == NO_DIRECTORY:
            told["directory"] = False, "got another directory than its own"
        if not told:
            raise EngineUnavailable(
                f"The sandboxes' self-test said nothing under runtime {runtime} (exit code {ended.exit_code})."
            )
        if ended.out_of_memory:  # with all that was in it, which is as good
            told.setdefault("memory", (True, "was ended for it"))
            if runtime == "runsc":  # whose kernel pays for each process, so that memory may end first
                told.setdefault("pids", (True, "was ended for the memory that they took"))
        if runtime == "runsc":
            told |= {promise: (True, why) for promise, why in HAS_OWN_KERNEL.items()}
        return [self._check(promise, *told.get(promise, (False, "was not tried")), runtime) for promise in PROMISES]

    def _check(self, promise: str, holds: bool, found: str, runtime: str) -> Check:
        accepted = not holds and promise in self._accept_weak
        return Check(promise=promise, holds=holds, found=found, accepted=accepted, runtime=runtime)

    @staticmethod
    def _new_id() -> SandboxId:
        return SandboxId(secrets.token_hex(16))


def judge(checks: Sequence[Check]) -> tuple[str, ...]:
    """The warnings that go with serving on this engine. Raises IsolationBroken where something else than accepted is
    broken: its text names each promise and what to change."""
    broken = [check for check in checks if not check.holds and not check.accepted]
    if broken:
        words = ", ".join(f'"{check.promise}"' for check in broken)
        raise IsolationBroken(
            f"{' '.join(check.sentence for check in broken)} Nothing is started until this is mended."
            f" To do without it: accept_weak = [{words}]."
        )
    return tuple(check.sentence for check in checks if not check.holds)


def _program() -> str:
    return Path(__file__).with_name("probe.py").read_text()
