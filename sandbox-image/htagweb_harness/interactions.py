"""How long the app takes over each thing that its visitor did.

Interactions begin and end in the app's event loop. The control thread watches them: it lives while a handler blocks the
loop. A handler that awaits is cancelled when its time is over; ending one that blocks is the orchestrator's part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

NEVER = float("inf")
TOO_LONG = "This took too long and was given up."


class Interaction:
    """`began` is when its present step began: each step of a generator has the whole time."""

    def __init__(self, task: asyncio.Task[object] | None) -> None:
        self.began = time.monotonic()
        self.task = task
        self.scope: asyncio.Timeout | None = None
        self.overran = False

    def cancel(self) -> None:
        """In the loop. What blocked the loop until now is over by then, and nothing is cancelled."""
        if self.scope is not None:
            self.scope.reschedule(0.0)


class Interactions:
    """`held_until` is when work that said it takes long stops (or stopped) holding time still, by time.monotonic.

    `look_by` makes sure that the control thread calls `overdue` at that time or earlier.
    """

    def __init__(self, held_until: Callable[[], float], look_by: Callable[[float], None]) -> None:
        self.limit_s = NEVER
        self._held_until = held_until
        self._look_by = look_by
        self._running: set[Interaction] = set()
        self._any = False  # has one begun since the last look?

    @contextmanager
    def running(self) -> Iterator[Interaction]:
        """For what doesn't await: it can't be cancelled."""
        interaction = Interaction(_current_task())
        self._running.add(interaction)
        self._any = True
        self._look_by(interaction.began + self.limit_s)
        try:
            yield interaction
        finally:
            self._running.discard(interaction)

    @asynccontextmanager
    async def cancellable(self) -> AsyncIterator[Interaction]:
        """Raises TimeoutError in place of what was under way when its time was over."""
        async with asyncio.timeout(None) as scope:
            with self.running() as interaction:
                interaction.scope = scope
                yield interaction

    def step(self) -> None:
        """The present task's interaction has shown something, and goes on."""
        task = _current_task()
        for interaction in self._running:
            if interaction.task is task:
                interaction.began = time.monotonic()

    # -- what the control thread calls -----------------------------------------------------------------------------

    def overdue(self, now: float) -> list[Interaction]:
        """Those whose time is over; each of them once."""
        late = [each for each in list(self._running) if not each.overran and self._deadline(each) <= now]
        for interaction in late:
            interaction.overran = True
        return late

    def still_overdue(self) -> bool:
        return any(interaction.overran for interaction in list(self._running))

    def next_look(self, now: float) -> float:
        """When to look again. Where many come one after the other, each of them need not wake the thread."""
        any_began, self._any = self._any, False
        deadlines = [self._deadline(each) for each in list(self._running) if not each.overran]
        return min(deadlines, default=now + self.limit_s if any_began else NEVER)

    def cancel(self, interaction: Interaction) -> None:
        """In the loop."""
        if interaction in self._running:
            interaction.cancel()

    def _deadline(self, interaction: Interaction) -> float:
        return max(interaction.began, self._held_until()) + self.limit_s


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
