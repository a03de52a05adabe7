"""Whose lease is over. A decision without I/O; the control plane carries it out."""

from __future__ import annotations

from collections.abc import Iterable

from .model import Ending, State
from .registry import Sandbox


def due(sandboxes: Iterable[Sandbox], now: float, *, idle_counts: bool) -> list[tuple[Sandbox, Ending, str]]:
    """Sandboxes to end now, with the ending and its sentence for people.

    `idle_counts` is False while silence proves nothing: no gateway reports, or not every gateway has reported since
    the orchestrator's start.
    """
    over = []
    for sandbox in sandboxes:
        if sandbox.state is not State.READY:
            continue
        left_s, why = sandbox.left(now)
        if why is Ending.IDLE and not idle_counts:
            left_s, why = sandbox.lease.lifetime_left_s(now), Ending.LIFETIME
        if left_s > 0:
            continue
        limit_s = sandbox.lease.limits.idle_timeout_s if why is Ending.IDLE else sandbox.lease.limits.max_lifetime_s
        said = "nothing happened for" if why is Ending.IDLE else "it had run for"
        over.append((sandbox, why, f"{said} {duration(limit_s)}"))
    return over


def duration(seconds: float) -> str:
    """A length of time for people: `15 minutes`, `1 hour`, `3 seconds`."""
    for size, unit in ((3600, "hour"), (60, "minute"), (1, "second")):
        if (seconds >= size and seconds % size == 0) or size == 1:
            count = seconds / size
            return f"{count:g} {unit}" + ("" if count == 1 else "s")
    raise AssertionError("unreachable")
