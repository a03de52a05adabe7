"""What may be used once: the answers of a provider, the codes between hosts. Gateways check all else about them; that
none counts at two workers, only somebody whom all of them ask can tell."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST = 100_000
MOST_LIFE_S = 3600.0


class Spent:
    """In memory: after a restart one that is still young counts once more, in the same browser."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: dict[str, float] = {}  # oldest first

    def spend(self, mark: str, life_s: float) -> bool:
        """False if it was spent before. After `life_s` nobody takes it any more."""
        now = self._now()
        if self._until.get(mark, 0.0) > now:
            return False
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now and len(self._until) < MOST:
                break
            del self._until[oldest]
        self._until[mark] = now + min(life_s, MOST_LIFE_S)
        return True
