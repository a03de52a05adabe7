"""How long each app's starts took lately, kept across restarts: what the waiting page expects goes by it, and which
apps are kept loaded because they load slowly."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from .model import AppName, Struct

log = logging.getLogger(__name__)

LATEST = 20  # starts of an app
MOST_APPS = 1000  # those started last

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class Times(Struct, frozen=True):
    load_s: Seconds = 0.0  # its import, the last time
    took_s: Annotated[tuple[Seconds, ...], msgspec.Meta(max_length=LATEST)] = ()


class StartTimes:
    """`path` None: nothing is kept. A file that can't be read, or holds what it can't, is forgotten."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._changed = False
        self._of: dict[AppName, Times] = {}
        if path is not None:
            try:
                self._of = msgspec.json.decode(path.read_bytes(), type=dict[AppName, Times])
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
                pass

    def load_s(self, app: AppName) -> float:
        """How long this app took to load when it did last; 0 while nobody knows."""
        return self._of.get(app, Times()).load_s

    def took_s(self, app: AppName) -> Sequence[float]:
        """The last starts, from the wish to the first page."""
        return self._of.get(app, Times()).took_s

    def loaded(self, app: AppName, took_s: float) -> None:
        self._put(app, msgspec.structs.replace(self._of.get(app, Times()), load_s=took_s))

    def started(self, app: AppName, took_s: float) -> None:
        times = self._of.get(app, Times())
        self._put(app, msgspec.structs.replace(times, took_s=(*times.took_s, took_s)[-LATEST:]))

    def _put(self, app: AppName, times: Times) -> None:
        self._of.pop(app, None)  # the latest last
        self._of[app] = times
        if len(self._of) > MOST_APPS:
            del self._of[next(iter(self._of))]
        self._changed = True

    def save(self) -> None:
        """If there is news. A disk that is full costs no more than these."""
        if self._path is None or not self._changed:
            return
        self._changed = False  # before it is written: in a thread, while others start
        partial = self._path.with_suffix(".new")
        try:
            partial.write_bytes(msgspec.json.encode(self._of))
            os.replace(partial, self._path)
        except OSError as error:
            self._changed = True
            log.warning("the times of starts can't be kept: %s", error)
