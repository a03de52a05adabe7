"""Notices sandboxes that don't answer any more: a handler blocks the app's event loop, or the whole interpreter.

An honest harness tells by itself when an interaction takes too long. This is for where it can't, and believes nobody.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from .endings import Endings
from .model import Ending, State
from .reaper import duration
from .registry import Registry, Sandbox

PING_S = 3.0  # between an answer and the next question
MARGIN_S = 3.0  # the harness's own word, which says more, should come first
CREDIT_S = 1.0  # the most that one round counts: a machine that slept, or an orchestrator that stood, proves nothing


@dataclass(slots=True, eq=False)
class _Beat:
    next_s: float
    ping: asyncio.Task[None] | None = None
    silent_s: float = 0.0


class Pulse:
    def __init__(self, *, registry: Registry, endings: Endings) -> None:
        self._registry = registry
        self._endings = endings
        self._beats: dict[Sandbox, _Beat] = {}

    def round(self, now: float, passed_s: float) -> None:
        """Ask whose turn it is, and end who has been silent for longer than one interaction may take."""
        before, self._beats = self._beats, {}
        for sandbox in self._registry:
            if sandbox.state is State.READY:
                # Each has a moment of its own, also when all of them were adopted at once.
                beat = before.pop(sandbox, None) or _Beat(now + random.random() * PING_S)
                self._beats[sandbox] = beat
                self._feel(sandbox, beat, now, min(passed_s, CREDIT_S))
        for beat in before.values():
            _forget(beat)

    def _feel(self, sandbox: Sandbox, beat: _Beat, now: float, passed_s: float) -> None:
        if beat.ping is not None and beat.ping.done():
            answered = not beat.ping.cancelled() and beat.ping.exception() is None
            beat.ping = None
            if answered:
                beat.silent_s, beat.next_s = 0.0, now + PING_S
        if now < beat.next_s:
            return
        if beat.ping is None and sandbox.link is not None and not sandbox.link.closed:
            beat.ping = asyncio.create_task(sandbox.link.ping(), name=f"ping {sandbox.error_id}")
            # Its connection may break, and nobody look any more: that is no error to log.
            beat.ping.add_done_callback(lambda ping: ping.cancelled() or ping.exception())
            return
        beat.silent_s = 0.0 if sandbox.busy_left_s(now) > 0 else beat.silent_s + passed_s
        limit_s = sandbox.lease.limits.interaction_timeout_s
        if beat.silent_s > limit_s + MARGIN_S:
            self._endings.end(sandbox, Ending.TIMEOUT, f"it did not answer for {duration(limit_s)}", polite=False)

    async def close(self) -> None:
        pings = [beat.ping for beat in self._beats.values() if beat.ping is not None]
        for beat in self._beats.values():
            _forget(beat)
        await asyncio.gather(*pings, return_exceptions=True)


def _forget(beat: _Beat) -> None:
    if beat.ping is not None:
        beat.ping.cancel()
