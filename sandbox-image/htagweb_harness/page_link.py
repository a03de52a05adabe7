"""What one open page of an htag 1 app has sent and is owed. Its connections break; the page goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MAX_PUSHES = 64
MAX_PUSH_BYTES = 256 * 1024
RETURNS_WITHIN_S = 30.0  # a page whose connection broke may come back that long and miss nothing


class PageLink:
    """Messages from the page are numbered `n`, frames to it `s`. Both only grow; each is treated once."""

    def __init__(self) -> None:
        self.accepted = 0  # the last message taken
        self.done = 0  # the last message answered
        self.used_at = time.monotonic()
        self._s = 0
        self._replies: dict[int, str] = {}  # kept until the page says that it has got them
        self._pushes: dict[int, str] = {}  # the last ones
        self._missed = 0  # the last push that was not kept
        self._connections = 0
        self._away_since = float("-inf")
        self._changed = asyncio.Event()

    @property
    def listens(self) -> bool:
        """Whether a push will reach it: it is connected, or lost its connection a moment ago."""
        return self._connections > 0 or time.monotonic() - self._away_since < RETURNS_WITHIN_S

    @property
    def connected(self) -> bool:
        return self._connections > 0

    @contextmanager
    def connection(self) -> Iterator[None]:
        self._connections += 1
        try:
            yield
        finally:
            self._connections -= 1
            self.used_at = time.monotonic()

    def broke(self) -> None:
        """The connection did not end by the page's own will."""
        self._away_since = time.monotonic()

    def reply(self, n: int, actions: dict[str, Any]) -> None:
        self.done = n
        s = self._next()
        self._replies[s] = self._frame(s, actions)

    def push(self, actions: dict[str, Any]) -> bool:
        """False if nobody is there to take it; the page is then shown the whole state when it comes back."""
        s = self._next()
        if not self.listens:
            self._missed = s
            self._pushes.clear()
            return False
        self._pushes[s] = self._frame(s, actions)
        size = sum(map(len, self._pushes.values()))
        while len(self._pushes) > 1 and (len(self._pushes) > MAX_PUSHES or size > MAX_PUSH_BYTES):
            self._missed = next(iter(self._pushes))
            size -= len(self._pushes.pop(self._missed))
        return True

    def received(self, got: int) -> None:
        """The page has all frames up to this one."""
        for frames in (self._replies, self._pushes):
            for s in [s for s in frames if s <= got]:
                del frames[s]

    def missed_something(self, got: int) -> bool:
        return self._missed > got

    def show_all(self, actions: dict[str, Any]) -> None:
        """A frame that makes up for what was missed: the whole state."""
        self._missed = 0
        self._pushes.clear()
        s = self._next()
        self._replies[s] = self._frame(s, actions)

    def after(self, got: int) -> list[tuple[int, str]]:
        return sorted((s, text) for frames in (self._replies, self._pushes) for s, text in frames.items() if s > got)

    async def change(self) -> None:
        """Returns after the next frame. Look at `after` first, without an await in between."""
        self._changed.clear()
        await self._changed.wait()

    def _next(self) -> int:
        self._s += 1
        self._changed.set()
        return self._s

    def _frame(self, s: int, actions: dict[str, Any]) -> str:
        return json.dumps({"s": s, "done": self.done, "actions": actions})
