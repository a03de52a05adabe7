"""The line of visitors who wait for a place: who came first is served first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .errors import CapacityExceeded
from .model import AppName
from .registry import Sandbox

MOST = 200  # places in the line
GONE_S = 15.0  # who hasn't asked for so long has closed his page: the waiting page asks several times a second


class WaitingLine:
    """`room` says whether this sandbox could start now. Who waits because of a limit of his own app, as `held_up` says,
    holds up nobody behind him."""

    def __init__(
        self, *, room: Callable[[Sandbox], bool], held_up: Callable[[Sandbox], bool], now: Callable[[], float]
    ) -> None:
        self._room = room
        self._held_up = held_up
        self._now = now
        self._waiting: dict[Sandbox, asyncio.Future[None]] = {}  # in the order of their coming
        self._served_s: deque[float] = deque(maxlen=10)

    def __contains__(self, sandbox: Sandbox) -> bool:
        return sandbox in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, sandbox: Sandbox) -> asyncio.Future[None]:
        """Take the last place; the future is done when it is this one's turn. Raises CapacityExceeded if it is full."""
        if len(self._waiting) >= MOST:
            raise CapacityExceeded("The server is full, and so is the line of those who wait. Try again in a minute.")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sandbox.asked_s = self._now()
        self._waiting[sandbox] = turn
        turn.add_done_callback(lambda _: self._waiting.pop(sandbox, None))
        return turn

    def place(self, sandbox: Sandbox) -> int | None:
        """1 for who is next; None for one that doesn't wait."""
        if sandbox not in self._waiting:
            return None
        return list(self._waiting).index(sandbox) + 1

    def expected_s(self, place: int) -> float | None:
        """How long the one at this place may have to wait yet, going by the last ones; None where nobody was served."""
        if len(self._served_s) < 2:
            return None
        each_s = (self._now() - self._served_s[0]) / len(self._served_s)
        return place * each_s

    def serve(self) -> None:
        """Let in as many from the front as there is room for."""
        held_up: set[AppName] = set()  # whoever is let in only adds to it, so each app is asked about once
        for sandbox, turn in list(self._waiting.items()):
            if sandbox.lease.app in held_up or self._held_up(sandbox):
                held_up.add(sandbox.lease.app)
                continue
            if not self._room(sandbox):
                return
            self._waiting.pop(sandbox, None)
            self._served_s.append(self._now())
            if not turn.done():
                turn.set_result(None)

    def comes_before(self, sandbox: Sandbox) -> bool:
        """Does anybody wait whom this one may not overtake?"""
        one_of_each = {other.lease.app: other for other in self._waiting}
        return sandbox.lease.app in one_of_each or not all(map(self._held_up, one_of_each.values()))

    def gone(self) -> list[Sandbox]:
        """Those whose visitors have left."""
        now = self._now()
        return [sandbox for sandbox in self._waiting if now - sandbox.asked_s > GONE_S]
