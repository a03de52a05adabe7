"""May one more sandbox start? The answer and the reservation are one step: no await lies between them."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .errors import RateLimited, UserLimitReached
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
    """Limits of one user, and the machine's memory.

    `memory` returns (total, available) bytes. Below min(15 %, 2 GiB) the machine is short: the warm pool ends, then the
    longest idle. Below two thirds of that nothing new starts.
    """

    def __init__(
        self,
        *,
        max_per_user: int,
        starts_per_minute: int = 30,
        starts_per_address: int = 120,
        memory: Callable[[], tuple[int, int]] = available_memory,
    ) -> None:
        self._max_per_user = max_per_user
        self._memory = memory
        self._of_users = Rate(starts_per_minute)
        self._of_addresses = Rate(starts_per_address)
        self._used: dict[AppName, deque[int]] = {}

    def admit(
        self, user: UserId, client: str, now: float, *, of_user: Sequence[Sandbox], most: int | None = None
    ) -> None:
        """Raise UserLimitReached or RateLimited; otherwise the start is counted, for the user and for his address.

        `most` is how many the user may have, if this app has a limit of its own.
        """
        most = self._max_per_user if most is None else most
        if len(of_user) >= most:
            running = "1 app" if len(of_user) == 1 else f"{len(of_user)} apps"
            raise UserLimitReached(
                f"You have {running} running; {most} is the limit. End one to open another.",
                limit=str(most),
                running=str(len(of_user)),
                longest_idle=longest_idle(of_user, now),
            )
        address = network(client)
        if not (self._of_users.allows(user, now) and self._of_addresses.allows(address, now)):
            raise RateLimited("Too many starts within a minute. Wait a minute, then try again.")
        self._of_users.count(user, now)
        self._of_addresses.count(address, now)

    def fits(self, app: AppName, starting: Iterable[AppName]) -> bool:
        """Would one more of this app fit into memory, with those that start already and have not taken theirs yet?"""
        total, available = self._memory()
        reserved = sum(map(self.expected_bytes, starting)) + self.expected_bytes(app)
        return available - reserved >= _low(total) * 2 // 3

    def expected_bytes(self, app: AppName) -> int:
        """What a start is counted with: the p95 of what the last 50 measured sandboxes of this app used."""
        used = sorted(self._used.get(app, ()))
        return used[min(len(used) * 95 // 100, len(used) - 1)] if used else UNKNOWN_USE

    @property
    def memory(self) -> tuple[int, int]:
        """(total, available) bytes of the machine."""
        return self._memory()

    def measured(self, app: AppName, memory_bytes: int) -> None:
        self._used.setdefault(app, deque(maxlen=50)).append(memory_bytes)

    def room_to_spare(self, more: int = 0) -> bool:
        """Is the machine not short of memory, and wouldn't it be with so many sandboxes `more`?"""
        total, available = self._memory()
        return available - more * UNKNOWN_USE >= _low(total)


class Rate:
    """At most so many of each name within a minute; a name of "" is nobody, and free."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._recent: dict[str, deque[float]] = {}

    def allows(self, name: str, now: float) -> bool:
        times = self._recent.get(name)
        while times and now - times[0] > 60:
            times.popleft()
        return not name or not times or len(times) < self._most

    def count(self, name: str, now: float) -> None:
        if len(self._recent) > 10_000:  # forget those who have been quiet, so that visitors can't fill this table
            self._recent = {n: times for n, times in self._recent.items() if times and now - times[-1] < 60}
        self._recent.setdefault(name, deque()).append(now)


def network(client: str) -> str:
    """What one visitor has of addresses: of IPv4 the one, of IPv6 the /64. "" for what is no address, and for
    this machine itself, from where a proxy in front speaks for everybody."""
    try:
        ip = ipaddress.ip_address(client)
    except ValueError:
        return ""
    if ip.is_loopback:
        return ""
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))


def _low(total_bytes: int) -> int:
    return min(total_bytes * 15 // 100, 2 * GIB)


def longest_idle(sandboxes: Sequence[Sandbox], now: float) -> AppName:
    return max(sandboxes, key=lambda sandbox: sandbox.lease.idle_s(now)).lease.app
