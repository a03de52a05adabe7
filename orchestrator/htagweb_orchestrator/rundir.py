"""The run directory: one folder a sandbox, holding its sockets and its lease.

    RUN/                root:root 0711   nobody else lists it
    RUN/<id>/           root:G    0710   the gateway's group may pass, the sandbox never sees it
    RUN/<id>/lease.json root      0600
    RUN/<id>/s/         root:S    0771   the sandbox's /run/app; sealed: root:root 0711
    RUN/<id>/s/app.sock, control.sock    the sandbox's own

What lies in s/ is hostile: a name there may be a link to anything, or a pipe that never ends. So nothing in it is
opened by path: folders are opened with O_NOFOLLOW and their entries looked at from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from .address import DialFailed
from .errors import IsolationBroken
from .model import SandboxId

T = TypeVar("T")

SOCKETS = frozenset({"app.sock", "control.sock"})
BOOT_LOG = "boot.log"
BOOT_LOG_BYTES = 64 * 1024
# This module is imported on Windows too, which has none of these; there it is `own_rundir` that does the work.
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class OfSandbox(Protocol):
    @property
    def sandbox(self) -> SandboxId: ...


class RunDirectory:
    """`path` is RUN as this process sees it; `gateway_gid` is G. Needs the rights to chown, and to pass anywhere."""

    def __init__(self, path: Path, gateway_gid: int) -> None:
        self.path = path
        self._gateway_gid = gateway_gid

    def sockets(self, sandbox_id: SandboxId) -> Path:
        """RUN/<id>/s."""
        return self.path / _checked(sandbox_id) / "s"

    def create(self, sandbox_id: SandboxId, uid: int) -> None:
        """Make the folders of a new sandbox, ready for its container. Raises FileExistsError for an id used before."""
        os.chmod(self.path, 0o711)
        with _opened(self.path) as run:
            os.mkdir(_checked(sandbox_id), 0o700, dir_fd=run)
            with _opened(sandbox_id, run) as own:
                os.mkdir("s", 0o700, dir_fd=own)
                with _opened("s", own) as sockets:
                    os.fchown(sockets, 0, uid)
                    os.fchmod(sockets, 0o771)
                os.fchown(own, 0, self._gateway_gid)
                os.fchmod(own, 0o710)

    def write_lease(self, lease: OfSandbox) -> None:
        """Replace lease.json in one step. A crash of the machine may lose the last one; no sandbox outlives that."""
        with self._own(lease.sandbox) as own:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open("lease.json.new", flags, 0o600, dir_fd=own), "wb") as file:
                file.write(msgspec.json.encode(lease))
            os.rename("lease.json.new", "lease.json", src_dir_fd=own, dst_dir_fd=own)

    def read_lease(self, sandbox_id: SandboxId, kind: type[T]) -> T | None:
        """None if there is none, or not one that can be read as `kind`."""
        try:
            with self._own(sandbox_id) as own:
                lease = os.open("lease.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=own)
                with open(lease, "rb") as file:
                    return msgspec.json.decode(file.read(), type=kind)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    async def wait_for_sockets(self, sandbox_id: SandboxId, uid: int, *, timeout_s: float) -> None:
        """Return when both sockets are there and are the sandbox's. Raises DialFailed after `timeout_s`."""
        delay_s = 0.002
        try:
            async with asyncio.timeout(timeout_s):
                while not self._has_sockets(sandbox_id, uid):
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 1.5, 0.02)
        except TimeoutError as error:
            raise DialFailed(f"the sandbox has not made its sockets after {timeout_s:g} s") from error

    def seal(self, sandbox_id: SandboxId, uid: int) -> str:
        """Take the folder from the sandbox, before a byte of its app is loaded; return what it wrote while booting.

        From here on it can neither add, remove, rename nor list. Raises IsolationBroken if anything but its two sockets
        is in there.
        """
        boot_log = self.boot_log(sandbox_id)
        with self._sockets(sandbox_id) as sockets:
            os.fchown(sockets, 0, 0)
            os.fchmod(sockets, 0o711)
            # Looked at after the change: whatever slipped in before it is seen now.
            names = set(os.listdir(sockets))
            if names != SOCKETS:
                raise IsolationBroken(f"the sandbox's directory holds {', '.join(sorted(names)) or 'nothing'}")
            for name in names:
                if not _is_socket_of(uid, name, sockets):
                    raise IsolationBroken(f"the sandbox's {name} is not a socket of its own")
        return boot_log

    def boot_log(self, sandbox_id: SandboxId) -> str:
        """What the harness wrote to its stderr before it served: the last 64 KiB, once. Also after the sandbox died."""
        try:
            with self._sockets(sandbox_id) as sockets:
                text = _read_tail(sockets)
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(BOOT_LOG, dir_fd=sockets)
                return text
        except FileNotFoundError:
            return ""

    def remove(self, sandbox_id: SandboxId) -> None:
        """Remove all of a sandbox that has ended, following no link. Removing what is gone is a success."""
        with _opened(self.path) as run, contextlib.suppress(FileNotFoundError):
            shutil.rmtree(_checked(sandbox_id), dir_fd=run)

    def ids(self) -> list[SandboxId]:
        """Of every sandbox that has a folder, running or not."""
        return [SandboxId(name) for name in os.listdir(self.path) if _is_id(name)]

    def _has_sockets(self, sandbox_id: SandboxId, uid: int) -> bool:
        try:
            with self._sockets(sandbox_id) as sockets:
                return all(_is_socket_of(uid, name, sockets) for name in SOCKETS)
        except FileNotFoundError:
            return False  # it was removed meanwhile

    @contextlib.contextmanager
    def _own(self, sandbox_id: SandboxId) -> Iterator[int]:
        with _opened(self.path) as run, _opened(_checked(sandbox_id), run) as own:
            yield own

    @contextlib.contextmanager
    def _sockets(self, sandbox_id: SandboxId) -> Iterator[int]:
        with self._own(sandbox_id) as own, _opened("s", own) as sockets:
            yield sockets


class UidAllocator:
    """Gives every living sandbox a uid of its own: the kernel counts much by uid, and a socket's owner is its proof.

    Begins anywhere and goes round, so that a uid rests for long after its sandbox has ended. The range fits an engine
    that maps 65,536 ids.
    """

    def __init__(self, first: int = 20000, last: int = 59999) -> None:
        self._first, self._count = first, last - first + 1
        self._next = random.randrange(self._count)
        self._taken: set[int] = set()

    def take(self) -> int:
        """Raises IndexError when all are taken."""
        for step in range(self._count):
            uid = self._first + (self._next + step) % self._count
            if uid not in self._taken:
                self._next = uid - self._first + 1
                self._taken.add(uid)
                return uid
        raise IndexError("every uid is taken")

    def reserve(self, uid: int) -> None:
        """Take this one: its sandbox was found running."""
        self._taken.add(uid)

    def give_back(self, uid: int) -> None:
        self._taken.discard(uid)


def _is_id(name: str) -> bool:
    return re.fullmatch("[0-9a-f]{32}", name) is not None


def _checked(sandbox_id: SandboxId) -> SandboxId:
    if not _is_id(sandbox_id):
        raise ValueError(f"{sandbox_id!r} is no sandbox id")
    return sandbox_id


@contextlib.contextmanager
def _opened(name: str | Path, parent: int | None = None) -> Iterator[int]:
    folder = os.open(name, FOLDER, dir_fd=parent)
    try:
        yield folder
    finally:
        os.close(folder)


def _is_socket_of(uid: int, name: str, folder: int) -> bool:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == uid


def _read_tail(sockets: int) -> str:
    """ "" unless boot.log is a plain file: no link is followed, and no pipe waited for."""
    try:
        log = os.open(BOOT_LOG, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=sockets)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):  # none, a link, a socket
            return ""
        raise
    try:
        found = os.fstat(log)
        if not stat.S_ISREG(found.st_mode):
            return ""
        return os.pread(log, BOOT_LOG_BYTES, max(0, found.st_size - BOOT_LOG_BYTES)).decode(errors="replace")
    finally:
        os.close(log)
