"""When people last did something, per sandbox: two numbers on the request path, sent to the orchestrator in batches."""

from __future__ import annotations

import time
from typing import Any

from htagweb_orchestrator.model import SandboxId, Seen

from .navigation import navigation


class Meter:
    """One sandbox as this worker sees it."""

    __slots__ = ("last", "sent", "sockets")

    def __init__(self) -> None:
        self.last = 0.0  # monotonic; 0 when this worker never saw anybody
        self.sockets = 0
        self.sent = (0.0, 0)

    def touch(self) -> None:
        self.last = time.monotonic()


class Activity:
    def __init__(self) -> None:
        self._meters: dict[SandboxId, Meter] = {}

    def meter(self, sandbox: SandboxId) -> Meter:
        found = self._meters.get(sandbox)
        if found is None:
            found = self._meters[sandbox] = Meter()
        return found

    def forget(self, sandbox: SandboxId) -> None:
        self._meters.pop(sandbox, None)

    def report(self, *, everything: bool) -> dict[SandboxId, Seen]:
        """What changed since the last report was taken over by `sent`, or all there is."""
        now = time.monotonic()
        return {
            sandbox: Seen(idle_s=now - meter.last, sockets=meter.sockets)
            for sandbox, meter in self._meters.items()
            if (meter.last or meter.sockets) and (everything or meter.sent != (meter.last, meter.sockets))
        }

    def sent(self, before: dict[SandboxId, tuple[float, int]]) -> None:
        for sandbox, values in before.items():
            if sandbox in self._meters:
                self._meters[sandbox].sent = values

    def values(self) -> dict[SandboxId, tuple[float, int]]:
        return {sandbox: (meter.last, meter.sockets) for sandbox, meter in self._meters.items()}


# What counts: a page load or an upload, here; data frames of a browser, in the relay. Not counted: polls, images, event
# streams that reconnect by themselves, pings, and whatever the app sends.
def is_activity(scope: dict[str, Any]) -> bool:
    return scope["method"] not in ("GET", "HEAD", "OPTIONS") or navigation(scope)
