"""Takes over what changed in htagweb.toml while the orchestrator runs: what it says about apps, and limits for all.

The rest is wired into the parts at their start, so it waits for a restart, and says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from . import configuration
from .configuration import ConfigError
from .keys import KEYS, LIMIT_KEYS
from .settings import AppLimits, Settings

LIVE = frozenset({*LIMIT_KEYS, "access", "apps", "home", "images"})
"""Fields of Settings that a change counts of at once."""


class ConfigFile:
    """`problems` is what keeps a change from being used, for operators."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Before the settings are loaded: a change in between is then seen by `look`."""
        self._environ = environ
        self._path = configuration.file_of(environ)
        self._content, _ = _read(self._path)
        self._coming: bytes | None = None  # what it has now, if that was seen once
        self.problems: tuple[str, ...] = ()

    def look(self, present: Settings) -> Settings | None:
        """`present` with what has changed in the file, if something of it counts now: once two looks have found the
        same. An editor may empty a file before it writes it, and half of one can be TOML that opens apps to everybody.
        Blocks."""
        content, replaced = _read(self._path)
        if content == self._content:
            if replaced:  # by an editor; a container goes on seeing the file that was mounted
                self.problems = (f"{self._path.name} was replaced by a new file, which is seen after a restart",)
            self._coming = None
            return None
        if content != self._coming:
            self._coming = content
            return None
        before, self._content = self._content, content
        try:
            wanted = Settings.load(self._environ)
        except ConfigError as error:
            self.problems = error.problems
            return None
        if _read(self._path)[0] != content:  # what was loaded may be something else: once more from the beginning
            self._content, self._coming = before, None
            return None
        waiting = [KEYS[field].name for field in KEYS if field not in LIVE and _differs(field, wanted, present)]
        if new := _new_walls(wanted, present):
            # The self-test has tried those only that were known at the start.
            what = "the runtime or the network, which no app had before"
            self.problems = tuple(
                f"{self._path.name}: {name}: {what}: nothing of the change is used before a restart" for name in new
            )
            return None
        self.problems = tuple(f"{self._path.name}: {name} is used after a restart" for name in waiting)
        changed = {field: getattr(wanted, field) for field in LIVE if _differs(field, wanted, present)}
        return msgspec.structs.replace(present, **changed) if changed else None


def _read(path: Path) -> tuple[bytes, bool]:
    """The file's bytes, and whether the name that it was mounted by leads to another file now."""
    try:
        with path.open("rb") as file:
            return file.read(), os.fstat(file.fileno()).st_nlink == 0
    except OSError:
        return b"", False


def _differs(field: str, one: Settings, other: Settings) -> bool:
    return bool(getattr(one, field) != getattr(other, field))


def _new_walls(wanted: Settings, present: Settings) -> list[str]:
    """What asks for one that nothing had: `runtime`, for all apps, or the tables of some."""
    known = {_wall(limits) for limits in present.all_limits()}
    if _wall(wanted.limits("")) not in known:
        return ["runtime"]
    return [f"apps.{name}" for name in wanted.apps if _wall(wanted.limits(name)) not in known]


def _wall(limits: AppLimits) -> tuple[str, str]:
    return limits.runtime, limits.network
