"""May one more sandbox start? The answer and the reservation are one step: no await lies between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import CapacityExceeded, RateLimited, UserLimitReached
from .model import AppName, UserId
from .registry import Sandbox

GIB = 1024**3
UNKNOWN_USE = 64 * 1024 * 1024  # what a start is counted with, until sandboxes of this app have been measured


def available_memory(meminfo: str | None = None) -> tuple[int, int]:
    """(total, available) bytes of the machine, from /proc/meminfo; the same inside a container."""
    text = meminfo if meminfo is not None else Path("/proc/meminfo").read_text()
    table = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if line.endswith("kB")}
    return table["MemTotal"], table["MemAvailable"]


class Admission:
    """Limits per user, by memory, and on how fast one user may start.

    `memory` returns (total, available) bytes. Below two thirds of min(15 %, 2 GiB) nothing new starts.
    """

    def __init__(
        self,
        *,
        max_per_user: int,
        starts_per_minute: int = 30,
        memory: Callable[[], tuple[int, int]] = available_memory,
    ) -> None:
        self._max_per_user = max_per_user
        self._starts_per_minute = starts_per_minute
        self._memory = memory
        self._recent: dict[UserId, deque[float]] = {}

    def admit(self, user: UserId, now: float, *, of_user: Sequence[Sandbox], starting: int) -> None:
        """Raise UserLimitReached, RateLimited or CapacityExceeded; otherwise the start is counted."""
        if len(of_user) >= self._max_per_user:
            raise UserLimitReached(
                f"You have {len(of_user)} apps running; {self._max_per_user} is the limit. End one to open another.",
                limit=str(self._max_per_user),
                longest_idle=longest_idle(of_user, now),
            )
        total, available = self._memory()
        low = min(total * 15 // 100, 2 * GIB)
        if available - starting * UNKNOWN_USE < low * 2 // 3:
            raise CapacityExceeded("The server has no room for one more app right now. Try again in a minute.")
        self._count(user, now)

    def room_to_spare(self) -> bool:
        """Is more than min(15 %, 2 GiB) of the memory available? Else the warm pool gives way."""
        total, available = self._memory()
        return available > min(total * 15 // 100, 2 * GIB)

    def _count(self, user: UserId, now: float) -> None:
        if len(self._recent) > 10_000:  # forget those who have been quiet, so that visitors can't fill this table
            self._recent = {u: times for u, times in self._recent.items() if times and now - times[-1] < 60}
        times = self._recent.setdefault(user, deque())
        while times and now - times[0] > 60:
            times.popleft()
        if len(times) >= self._starts_per_minute:
            raise RateLimited("Too many starts within a minute. Wait a minute, then try again.")
        times.append(now)


def longest_idle(sandboxes: Sequence[Sandbox], now: float) -> AppName:
    return max(sandboxes, key=lambda sandbox: sandbox.lease.idle_s(now)).lease.app
