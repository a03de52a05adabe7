"""What visitors' apps keep: for each user and app that has the key `data`, one folder, the sandbox's /data.

    DATA/                   root 0700
    DATA/<key>/             root 0700    the key is a hash of user and app
    DATA/<key>/about.json   root 0600    whose it is
    DATA/<key>/d/           the uid of the present sandbox, 0700

What lies in d/ is hostile, and was written under another uid each time. So nothing in there is opened by path or
through a link, and nobody but root reaches it from the host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator
from hashlib import sha256
from pathlib import Path

import msgspec

from .model import AppName, Struct, UserId
from .quantities import show_size
from .rundir import FOLDER

MAX_FILES, MAX_DEPTH = 10_000, 50


class TooMuch(Exception):
    """`str()` says what of it, for people."""


class About(Struct, frozen=True):
    """Whose folder it is. `used_s` is wall time: a folder outlives boots."""

    user: UserId  # "" for one that a version was tried out with
    app: AppName
    used_s: float
    bytes: int = 0  # when it was measured last
    files: int = 0


class DataFolders:
    """Blocks: callers use a thread. Two calls for one folder must not overlap, nor a call with its sandbox's start."""

    def __init__(self, path: Path, *, wall_s: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall_s = wall_s

    def prepare(self, user: UserId, app: AppName, uid: int, *, scratch: str = "") -> str:
        """Make the folder, or give all that is in it to another uid; return its key. `scratch` stands in for a user
        where there is none. Raises TooMuch, OSError."""
        key = key_of(UserId(user or scratch), app)
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        with _opened(self._path) as data:
            with contextlib.suppress(FileExistsError):
                os.mkdir(key, 0o700, dir_fd=data)
            with _opened(key, data) as own:
                self._write(own, self._about(own) or About(user=user, app=app, used_s=0.0))
                with contextlib.suppress(FileExistsError):
                    os.mkdir("d", 0o700, dir_fd=own)
                with _opened("d", own) as folder:
                    for parent, name, _ in _walk(folder):
                        os.chown(name, uid, uid, dir_fd=parent, follow_symlinks=False)
                    os.fchown(folder, uid, uid)
                    os.fchmod(folder, 0o700)
        return key

    def measure(self, user: UserId, app: AppName, most_bytes: int) -> str:
        """What is too much of it, in a few words; "" if nothing is. Raises OSError."""
        with _opened(self._path) as data, _opened(key_of(user, app), data) as own, _opened("d", own) as folder:
            about = self._about(own) or About(user=user, app=app, used_s=0.0)
            try:
                found = [entry.st_blocks * 512 for _, _, entry in _walk(folder)]
            except TooMuch as error:
                return str(error)
            self._write(own, msgspec.structs.replace(about, bytes=sum(found), files=len(found)))
            return (
                f"it keeps {show_size(sum(found))}, more than {show_size(most_bytes)}"
                if sum(found) > most_bytes
                else ""
            )

    def all(self) -> dict[str, About]:
        """By key."""
        found: dict[str, About] = {}
        if self._path.is_dir():
            with _opened(self._path) as data:
                for key in sorted(os.listdir(data)):
                    with contextlib.suppress(OSError), _opened(key, data) as own:
                        about = self._about(own)
                        if about is not None:
                            found[key] = about
        return found

    def has(self, user: UserId, app: AppName) -> bool:
        return (self._path / key_of(user, app)).exists()

    def remove(self, keys: Collection[str]) -> None:
        """Removing what is gone is a success. Raises OSError."""
        if not self._path.is_dir():
            return
        with _opened(self._path) as data:
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(key, dir_fd=data)

    def hand_over(self, before: UserId, after: UserId) -> None:
        """What one user has becomes another's, save where that one has something of the app already."""
        for key, about in self.all().items():
            new = key_of(after, about.app)
            if about.user != before or (self._path / new).exists():
                continue
            with _opened(self._path) as data:
                with _opened(key, data) as own:
                    self._write(own, msgspec.structs.replace(about, user=after))
                os.rename(key, new, src_dir_fd=data, dst_dir_fd=data)

    def _about(self, own: int) -> About | None:
        try:
            with open(os.open("about.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=own), "rb") as file:
                return msgspec.json.decode(file.read(), type=About)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _write(self, own: int, about: About) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open("about.json.new", flags, 0o600, dir_fd=own), "wb") as file:
            file.write(msgspec.json.encode(msgspec.structs.replace(about, used_s=self._wall_s())))
        os.rename("about.json.new", "about.json", src_dir_fd=own, dst_dir_fd=own)


def key_of(user: UserId, app: AppName) -> str:
    return sha256(f"{user}\0{app}".encode("utf-8", "surrogateescape")).hexdigest()[:40]


def _walk(folder: int) -> Iterator[tuple[int, str, os.stat_result]]:
    """(folder's descriptor, name, stat) of all that lies below. Raises TooMuch: so much nobody needs."""
    count = 0

    def below(parent: int, depth: int) -> Iterator[tuple[int, str, os.stat_result]]:
        nonlocal count
        if depth > MAX_DEPTH:
            raise TooMuch(f"it keeps folders in folders, more than {MAX_DEPTH} deep")
        with os.scandir(parent) as entries:
            for entry in entries:
                count += 1
                if count > MAX_FILES:
                    raise TooMuch(f"it keeps more than {MAX_FILES} files")
                found = entry.stat(follow_symlinks=False)
                yield parent, entry.name, found
                if stat.S_ISDIR(found.st_mode):
                    with _opened(entry.name, parent) as inner:
                        yield from below(inner, depth + 1)

    return below(folder, 1)


@contextlib.contextmanager
def _opened(name: str | Path, parent: int | None = None) -> Iterator[int]:
    folder = os.open(name, FOLDER, dir_fd=parent)
    try:
        yield folder
    finally:
        os.close(folder)
