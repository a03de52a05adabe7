"""Workers of one server: how each finds the others, and the process next door that all of them share.

Whoever comes first starts it, under a lock; it ends by itself, and all apps with it, some seconds after the last of
them has left. So any worker may die, and be replaced, without a user noticing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from .workplace import Options

START_S = 15.0  # from the process's start until it answers
HAS_UNIX = hasattr(socket, "SO_PEERCRED")  # who is at the other end can be asked


class Startup(msgspec.Struct, frozen=True, kw_only=True):
    """What the process next door is told, in a file of the folder."""

    options: Options
    sys_path: list[str]
    pythonpath: str | None  # what the apps' environment has of it


def fellowship(ordinal: int) -> str:
    """A name that all workers of this server have, and no other process; "" where there is just this one.

    `ordinal` tells the servers of one program apart.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:  # of uvicorn's or hypercorn's
        pid = parent.pid
    elif under_gunicorn():
        pid = os.getppid()
    else:
        return ""
    facts = json.dumps([pid, _began(pid), os.getcwd(), sys.prefix, ordinal])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def under_gunicorn() -> bool:
    return "gunicorn" in os.environ.get("SERVER_SOFTWARE", "")


def _began(pid: int) -> str:
    """Numbers of processes come again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class NextDoor:
    """The process next door of one fellowship. `folder` is where it works; only this user may enter."""

    def __init__(self, name: str) -> None:
        base = Path(tempfile.gettempdir(), f"htagweb-{_user()}")
        _own(base)
        self.folder = base / name
        self._lock = base / f"{name}.lock"
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        return self.folder / "control.sock"

    @property
    def port_path(self) -> Path:
        return self.folder / "control.port"

    @property
    def log_path(self) -> Path:
        return self.folder / "control.log"

    def port_and_secret(self) -> tuple[int, str]:
        port, secret = self.port_path.read_text().split()
        return int(port), secret

    def ensure(self, options: Options) -> bool:
        """Blocks until it answers; True if it was started for that. Raises RuntimeError if it doesn't."""
        if self._answers():
            return False
        with locked(self._lock):
            if self._answers():
                return False
            self._start(options)
            return True

    def _start(self, options: Options) -> None:
        _own(self.folder)
        pythonpath = os.environ.get("PYTHONPATH")
        startup = Startup(options=options, sys_path=[os.path.abspath(each) for each in sys.path], pythonpath=pythonpath)
        file = self.folder / "startup.json"
        file.write_bytes(msgspec.json.encode(startup))
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(startup.sys_path)}
        apart: dict[str, Any] = {"start_new_session": True}  # Ctrl-C is for the workers: it ends when they have
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        command = [sys.executable, "-m", "htagweb._control", str(self.folder)]
        self._popen = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, **apart)
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the process that all workers share did not start; its own words stand above")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            if HAS_UNIX:
                with socket.socket(socket.AF_UNIX) as unix:
                    unix.settimeout(1.0)
                    unix.connect(str(self.socket_path))
            else:
                port, _ = self.port_and_secret()
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except (OSError, ValueError):
            return False
        return True

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """For the process next door itself, at its end: while this lasts nobody starts another one."""
        with locked(self._lock):
            yield
            self._lock.unlink(missing_ok=True)

    @classmethod
    def of(cls, folder: Path) -> NextDoor:
        return cls(folder.name)


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else hashlib.sha256(str(Path.home()).encode()).hexdigest()[:8]


def _own(folder: Path) -> None:
    """Make it, or see that it is ours: anybody may make folders where temporary ones lie."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if hasattr(os, "getuid") and (
        not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077
    ):
        raise RuntimeError(f"{folder} belongs to somebody else, or others may enter it: remove it, or set TMPDIR")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system gives it back when that one dies."""
    while True:
        with open(path, "a+b") as file:
            _lock(file)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                    yield
                    return
        # Its last holder has removed it while we waited.


def _lock(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError:
        import msvcrt  # Windows

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        fcntl.flock(file, fcntl.LOCK_EX)


def new_secret() -> str:
    return secrets.token_hex(32)
