"""Work that says it takes long, `with htagweb.busy("report", up_to="10m"):`, holds off the timeouts, within limits."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

MAX_LABEL = 60


class Busy:
    """All such work of a sandbox. May be used by any thread. `send` takes a frame for the orchestrator.

    `budget_s` is how long it may hold off the timeouts in all; more than one at the same time count once.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self.budget_s = 0.0
        self._send = send
        self._lock = threading.Lock()
        self._works: list[Work] = []
        self._since = 0.0  # when the present stretch began
        self._held_until = 0.0

    def work(self, label: str, up_to: str | float = "10m") -> Work:
        return Work(self, " ".join(str(label).split())[:MAX_LABEL], seconds(up_to))

    def begin(self, work: Work) -> None:
        with self._lock:
            now = time.monotonic()
            self._count(now)
            work.until = now + work.up_to_s
            self._works.append(work)
            self._held_until = self._end(now)
            frame = self._frame(now)
        self._send(frame)

    def end(self, work: Work) -> None:
        with self._lock:
            now = time.monotonic()
            self._count(now)
            self._works.remove(work)
            if now < self._held_until:
                self._held_until = self._end(now)
            frame = self._frame(now)
        self._send(frame)

    def held_until(self) -> float:
        """When the timeouts begin to count again, or when they last did."""
        return self._held_until

    def repeat(self) -> None:
        """For an orchestrator that has just come."""
        with self._lock:
            frame = self._frame(time.monotonic()) if self._works else None
        if frame is not None:
            self._send(frame)

    def _count(self, now: float) -> None:
        """Take what has passed from the budget."""
        if self._works:
            self.budget_s -= max(0.0, min(now, self._held_until) - self._since)
        self._since = now

    def _end(self, now: float) -> float:
        return min(max((work.until for work in self._works), default=now), now + self.budget_s)

    def _frame(self, now: float) -> dict[str, Any]:
        last = max(self._works, key=lambda work: work.until, default=None)
        up_to_s = max(0.0, last.until - now) if last is not None else 0.0
        return {"type": "busy", "label": last.label if last is not None else "", "up_to_s": up_to_s}


class Work:
    """One piece of it: a context manager, also an asynchronous one."""

    def __init__(self, busy: Busy, label: str, up_to_s: float) -> None:
        self.label = label
        self.up_to_s = up_to_s
        self.until = 0.0
        self._busy = busy

    def __enter__(self) -> Self:
        self._busy.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._busy.end(self)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._busy.end(self)


def seconds(text: str | float) -> float:
    """Raises ValueError for what is no duration."""
    if isinstance(text, (int, float)):
        return float(text)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration: write it as 90s, 10m or 1h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
