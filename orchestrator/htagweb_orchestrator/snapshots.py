"""Published versions on disk. A version is named by the hash of what it holds, so it never changes under anybody.

A version's file is the msgpack of its entry, generation and files; its name is the sha256 of that. What the
app is given besides counts too, as `given`, a digest that can't be turned back.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

RETIRED_S = 600.0
"""A version that nobody refers to stays this long: a start that began with it may still ask for its files."""


class SnapshotLost(Exception):
    """The file is gone, or isn't what its name says."""


class _Content(msgspec.Struct, frozen=True, array_like=True):
    entry: str
    generation: int
    files: list[tuple[str, bytes]]
    given: str = ""


class Snapshots:
    """The folder of versions. Callers in different threads may read while one of them writes."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._now = now
        self._retired: dict[str, float] = {}  # version -> since when

    def put(self, entry: str, generation: int, files: Mapping[str, bytes], given: str = "") -> str:
        """Keep a version and return its name. Raises OSError."""
        content = msgspec.msgpack.encode(_Content(entry, generation, sorted(files.items()), given))
        version = hashlib.sha256(content).hexdigest()
        path = self._folder / version
        if not path.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = self._folder / f".{version}"
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        return version

    def files(self, version: str) -> list[tuple[str, bytes]]:
        """(path, bytes), by path. Raises SnapshotLost."""
        path = self._folder / version
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SnapshotLost(version) from error
        if hashlib.sha256(content).hexdigest() != version:
            path.unlink(missing_ok=True)  # so that the next `put` writes it anew
            raise SnapshotLost(version)
        return msgspec.msgpack.decode(content, type=_Content).files

    def prune(self, wanted: Collection[str]) -> None:
        """Remove what has not been wanted for a while. Raises OSError."""
        if not self._folder.is_dir():
            return
        now = self._now()
        unwanted = {path.name for path in self._folder.iterdir()} - set(wanted)
        self._retired = {name: self._retired.get(name, now) for name in unwanted}
        for name, since in self._retired.items():
            if now - since >= RETIRED_S:
                (self._folder / name).unlink(missing_ok=True)
