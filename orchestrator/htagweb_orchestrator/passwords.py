"""Passwords: argon2 in threads of its own, and a bound on guessing."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from .errors import SignInLimited

T = TypeVar("T")

THREADS = 2  # each takes a core and 64 MiB for about 50 ms
WAITING = 40  # sign-ins under way at a time; more would only wait
LONGEST = 1024  # characters of a password
FORGOTTEN_S = 600.0  # how long a failure counts
OF_NAME, OF_ADDRESS = 10, 50  # failures within that time: of one name, and from one address, which a class may share


class Passwords:
    def __init__(self, hasher: argon2.PasswordHasher | None = None) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._under_way = 0
        self._nobodys = ""  # made when it is first needed: it takes as long as a sign-in

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, known: str | None, password: str) -> bool:
        """Does the password fit the hash? Without one it takes the same time, and doesn't. Raises SignInLimited when
        too many ask at once."""
        return await self._run(lambda: self._verify(known, password))

    def outdated(self, known: str) -> bool:
        """Was it made with other parameters than one would be now?"""
        return self._hasher.check_needs_rehash(known)

    def close(self) -> None:
        self._threads.shutdown()

    def _verify(self, known: str | None, password: str) -> bool:
        if not self._nobodys:
            self._nobodys = self._hasher.hash("of nobody")
        try:
            self._hasher.verify(known or self._nobodys, password[:LONGEST])
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        return known is not None

    async def _run(self, work: Callable[[], T]) -> T:
        if self._under_way >= WAITING:
            raise SignInLimited(
                "Too many people sign in at this moment. Try again in a few seconds.", retry_after_s="3"
            )
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._under_way -= 1


class Failures:
    """How often somebody guessed wrong, of each name and from each address.

    An attempt counts as a failure until `forgive` says otherwise, so that a hundred at once are no way round. A name or
    an address of "" is nobody, and free.
    """

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._recent: dict[str, deque[float]] = {}

    def attempt(self, name: str, address: str) -> None:
        """Count one. Raises SignInLimited, whose facts say in how many seconds another may be made."""
        now = self._now()
        bounds = {f"name {name}": OF_NAME if name else 0, f"address {address}": OF_ADDRESS if address else 0}
        bounds = {key: most for key, most in bounds.items() if most}
        for key, most in bounds.items():
            times = self._recent.get(key)
            while times and now - times[0] > FORGOTTEN_S:
                times.popleft()
            if times and len(times) >= most:
                left_s = math.ceil(FORGOTTEN_S - (now - times[0]))
                raise SignInLimited(
                    f"Too many sign-ins failed. Try again in {max(1, round(left_s / 60))} min.",
                    retry_after_s=str(left_s),
                )
        if len(self._recent) > 10_000:  # so that nobody fills this table
            self._recent = {k: times for k, times in self._recent.items() if times and now - times[-1] < FORGOTTEN_S}
        for key in bounds:
            self._recent.setdefault(key, deque()).append(now)

    def forgive(self, name: str, address: str) -> None:
        """That attempt was none: it went well."""
        self._recent.pop(f"name {name}", None)
        self.withdraw("", address)

    def withdraw(self, name: str, address: str) -> None:
        """That attempt was none: nothing was tried."""
        for key in (f"name {name}", f"address {address}"):
            if times := self._recent.get(key):
                times.pop()
                if not times:
                    del self._recent[key]
