"""What a sandbox said of work that takes long. It holds off the idle and the interaction timeout."""

from __future__ import annotations

from dataclasses import dataclass

MAX_LABEL = 60


@dataclass(slots=True)
class Busy:
    """Until its own end, or until the lease has no more of that time; the caller knows how much is left of it."""

    label: str = ""
    until_s: float = 0.0

    def say(self, label: str, up_to_s: float, now: float) -> None:
        """The sandbox's word, which replaces the last one. It may be any text and any number."""
        self.label = " ".join(label[:MAX_LABEL].split())
        self.until_s = now + up_to_s if up_to_s > 0 else 0.0

    def left_s(self, now: float, budget_s: float) -> float:
        return max(0.0, min(self.until_s - now, budget_s))

    def held_s(self, now: float, passed_s: float, budget_s: float) -> float:
        """How much of the last `passed_s` it held time still."""
        return max(0.0, min(passed_s, self.until_s - (now - passed_s), budget_s))
