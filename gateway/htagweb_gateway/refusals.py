"""Whom this worker refused without asking the orchestrator, for its audit log. Told in batches and a moment later, so
that neither the answer nor the time that it takes shows that it was noted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from htagweb_orchestrator.api import MOST_REFUSED
from htagweb_orchestrator.model import Refusal

log = logging.getLogger(__name__)

WINDOW_S = 60.0  # in which the same is told once
IN_WINDOW = 60  # different ones; more are counted, in the log: strangers must not push out what happened before
PENDING = 1000  # while no orchestrator is there to hear


class Refusals:
    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._known: set[Refusal] = set()
        self._pending: list[Refusal] = []
        self._left_out = 0

    def add(self, refusal: Refusal) -> None:
        now = self._clock()
        if now - self._since >= WINDOW_S:
            if self._left_out:
                log.warning("refusals left out of the audit log", extra={"count": self._left_out})
            self._since, self._left_out = now, 0
            self._known.clear()
        if refusal in self._known:
            return
        if len(self._known) >= IN_WINDOW or len(self._pending) >= PENDING:
            self._left_out += 1
            return
        self._known.add(refusal)
        self._pending.append(refusal)

    def take(self) -> list[Refusal]:
        """The next report, which is the caller's to send, or to `put_back`."""
        taken, self._pending = self._pending[:MOST_REFUSED], self._pending[MOST_REFUSED:]
        return taken

    def put_back(self, taken: Sequence[Refusal]) -> None:
        self._pending[:0] = taken
