"""The run directory of one program's own: below a folder that nobody else may enter, so nothing in it is hostile.

RUN/                the user's 0700
RUN/<id>/lease.json, process.json
RUN/<id>/s/         app.sock and control.sock; or, without Unix sockets, app.port and control.port
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TypeVar

import msgspec

from .address import DialFailed
from .model import SandboxId
from .rundir import BOOT_LOG, BOOT_LOG_BYTES, OfSandbox, RunDirectory

T = TypeVar("T")
DOORS = ("app", "control")


class OwnRunDirectory(RunDirectory):
    """Sandboxes run as the user that we are: there is nobody to give anything to, and nothing to seal."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, gateway_gid=-1)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, sandbox_id: SandboxId, uid: int) -> None:
        self.sockets(sandbox_id).parent.mkdir(mode=0o700)
        self.sockets(sandbox_id).mkdir(mode=0o700)

    def write_lease(self, lease: OfSandbox) -> None:
        own = self.sockets(lease.sandbox).parent
        new = own / "lease.json.new"
        new.write_bytes(msgspec.json.encode(lease))
        os.replace(new, own / "lease.json")

    def read_lease(self, sandbox_id: SandboxId, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self.sockets(sandbox_id).parent / "lease.json").read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    async def wait_for_sockets(self, sandbox_id: SandboxId, uid: int, *, timeout_s: float) -> None:
        delay_s = 0.002
        try:
            async with asyncio.timeout(timeout_s):
                while not self._listens(sandbox_id):
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 1.5, 0.02)
        except TimeoutError as error:
            raise DialFailed(f"the app's process listens nowhere after {timeout_s:g} s") from error

    def seal(self, sandbox_id: SandboxId, uid: int) -> str:
        return self.boot_log(sandbox_id)

    def boot_log(self, sandbox_id: SandboxId) -> str:
        try:
            log = self.sockets(sandbox_id).parent / BOOT_LOG
            data = log.read_bytes()
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                log.unlink()
        except OSError:
            return ""
        return data[-BOOT_LOG_BYTES:].decode(errors="replace")

    def remove(self, sandbox_id: SandboxId) -> None:
        shutil.rmtree(self.sockets(sandbox_id).parent, ignore_errors=True)

    def ids(self) -> list[SandboxId]:
        return [SandboxId(name) for name in os.listdir(self.path) if re.fullmatch("[0-9a-f]{32}", name)]

    def _listens(self, sandbox_id: SandboxId) -> bool:
        there = set(os.listdir(self.sockets(sandbox_id)))
        return all({f"{door}.sock", f"{door}.port"} & there for door in DOORS)
