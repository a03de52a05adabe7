"""The engine of processes, with programs of a test in them instead of the harness."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from htagweb_orchestrator import composition
from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator.engines.process import ProcessEngine, _Process
from htagweb_orchestrator.model import SandboxId
from htagweb_orchestrator.own_rundir import OwnRunDirectory
from htagweb_orchestrator.rundir import UidAllocator

from .probes import PRELUDE, eventually, new_id, read


class ProbeProcesses(ProcessEngine):
    """The real engine, but its processes run `program`, where there is one, and not the harness."""

    program: str | None = None

    def _spawn(self, spec: SandboxSpec) -> _Process:
        harness = self._program
        if self.program is not None:
            told = PRELUDE.replace("/run/app", spec.directory)
            self._program = (sys.executable, "-I", "-S", "-c", told + self.program)
        try:
            return super()._spawn(spec)
        finally:
            self._program = harness


class ProcessBench:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.run = OwnRunDirectory(root / "run")
        self.uids = UidAllocator()
        whole = composition.process_engine(root / "run")
        self.engine = ProbeProcesses(run=root / "run", program=whole._program, sites=whole._sites)

    def spec(self, **values: Any) -> SandboxSpec:
        sandbox_id, uid = new_id(), self.uids.take()
        self.run.create(sandbox_id, uid)
        spec = SandboxSpec(
            sandbox_id=sandbox_id, uid=uid, directory=str(self.run.sockets(sandbox_id)), image="", generation=1
        )
        return dataclasses.replace(spec, **values)

    async def start(self, program: str | None = "time.sleep(600)", **values: Any) -> SandboxSpec:
        self.engine.program = program
        spec = self.spec(**values)
        await self.engine.start(spec, on_step=lambda _: None)
        return spec

    async def told(self, spec: SandboxSpec) -> Any:
        def said() -> str:
            running = self.running(spec.sandbox_id)  # what it tells before it ends, counts
            found = read(Path(spec.directory, "told"))
            if not found and not running:
                pytest.fail(self.run.boot_log(spec.sandbox_id))
            return found

        return json.loads(await eventually(said))

    def pid(self, sandbox_id: SandboxId) -> int:
        return int(json.loads((self.run.path / sandbox_id / "process.json").read_text())["pid"])

    def note(self, sandbox_id: SandboxId, note: dict[str, Any]) -> None:
        (self.run.path / sandbox_id / "process.json").write_text(json.dumps(note))

    def runs_as(self, spec: SandboxSpec) -> int:
        return os.getuid()

    def running(self, sandbox_id: SandboxId) -> bool:
        return self.engine._processes[sandbox_id].exit_code is None

    def remove(self, sandbox_id: SandboxId) -> None:
        os.kill(self.pid(sandbox_id), signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(self.pid(sandbox_id), 0)

    def left(self) -> list[str]:
        """Of all that was started, what lives."""
        found: list[str] = []
        for sandbox_id in self.run.ids():
            if (self.run.path / sandbox_id / "process.json").exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid(sandbox_id), 0)
                    found.append(sandbox_id)
        return found

    def busy(self) -> int:
        return 0

    @asynccontextmanager
    async def another(self) -> AsyncIterator[ProcessBench]:
        (self._root / "other").mkdir()
        other = ProcessBench(self._root / "other")
        try:
            yield other
        finally:
            await other.close()

    async def close(self) -> None:
        await self.engine.close()
        shutil.rmtree(self._root, ignore_errors=True)


class DeafListener:
    """Takes what a harness says, and does nothing with it."""

    def output(self, sandbox: SandboxId, text: str, dropped: int) -> None: ...
    def exits(self, sandbox: SandboxId, reason: str) -> None: ...
    def busy(self, sandbox: SandboxId, label: str, up_to_s: float) -> None: ...
    def overran(self, sandbox: SandboxId) -> None: ...
    def link_lost(self, sandbox: SandboxId, breach: str) -> None: ...

    async def session_changed(
        self, sandbox: SandboxId, changed: Mapping[str, Any], deleted: Sequence[str]
    ) -> str | None:
        return None
