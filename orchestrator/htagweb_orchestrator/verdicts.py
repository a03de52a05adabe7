"""How versions fared when they were tried out, kept across restarts: each is tried once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)


class Verdicts:
    """By what was tried, version and image; "" for what went well. `put` and `forget` in one thread; `of` in any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._found = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            self._found = {}  # they are found again

    def of(self, tried: str) -> str | None:
        """None for what wasn't tried yet."""
        return self._found.get(tried)

    def put(self, tried: str, problem: str, *, wanted: Iterable[str]) -> None:
        """`wanted` is what may be asked for from now on; the rest is forgotten."""
        keep = {*wanted, tried}
        self._write({**{each: said for each, said in self._found.items() if each in keep}, tried: problem})

    def forget(self, tried: str) -> bool:
        """Have it tried again; False if there is no verdict."""
        if tried not in self._found:
            return False
        self._write({each: said for each, said in self._found.items() if each != tried})
        return True

    def _write(self, found: dict[str, str]) -> None:
        self._found = found
        partial = self._path.with_suffix(".new")
        try:
            partial.write_bytes(msgspec.json.encode(found))
            os.replace(partial, self._path)
        except OSError as error:
            log.warning("verdicts can't be kept: %s", error)
