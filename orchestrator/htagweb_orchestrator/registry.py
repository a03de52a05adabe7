"""Sandboxes that run, and the lease file that each of them has on disk.

The engine's list and the lease files are the database; what is here is a cache of them, owned by the control plane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from .busy import Busy
from .harness import HarnessLink
from .model import ASGI, Address, AppName, Ending, Route, SandboxId, State, Step, Struct, UserId
from .settings import AppLimits

Key = tuple[UserId, AppName]


class Lease(Struct, frozen=True):
    """The right of one user to use a sandbox, as written to RUN/<id>/lease.json.

    Times are CLOCK_BOOTTIME seconds of boot `boot_id`. `state` is "starting" until just before the claim is sent.
    """

    sandbox: SandboxId
    uid: int
    user: UserId
    app: AppName
    version: str
    image: str
    generation: int
    limits: AppLimits
    boot_id: str
    created_s: float
    state: Literal["starting", "claimed"] = "starting"
    claimed_s: float = 0.0
    last_activity_s: float = 0.0
    idle_frozen_s: float = 0.0  # how much of the silence doesn't count: no gateway was there to report, or it was busy
    busy_used_s: float = 0.0  # of limits.busy_max_s
    steps_ms: dict[str, float] = msgspec.field(default_factory=dict)  # how long its start took, once it is ready

    def replace(self, **changes: object) -> Lease:
        return msgspec.structs.replace(self, **changes)

    def idle_s(self, now: float) -> float:
        return max(0.0, now - self.last_activity_s - self.idle_frozen_s)

    def lifetime_left_s(self, now: float) -> float:
        return self.limits.max_lifetime_s - (now - self.claimed_s)

    def left(self, now: float, *, held_s: float = 0.0) -> tuple[float, Ending]:
        """Seconds until the reaper ends it if nobody does anything, and which of the two limits that is. Idle time will
        stand still for the next `held_s`."""
        idle = self.limits.idle_timeout_s - self.idle_s(now) + held_s
        lifetime = self.lifetime_left_s(now)
        return (idle, Ending.IDLE) if idle <= lifetime else (lifetime, Ending.LIFETIME)


@dataclass(slots=True, eq=False)
class Sandbox:
    """One sandbox of this installation, from its reservation until nothing is left of it."""

    lease: Lease
    state: State = State.STARTING
    step: Step = Step.QUEUED
    address: Address | None = None
    control_address: Address | None = None
    link: HarnessLink | None = None
    loaded: bool = False  # has imported its app
    start: asyncio.Task[None] | None = None  # finished long ago for most; None for an adopted one
    steps_ms: dict[str, float] = field(default_factory=dict)
    sockets: dict[str, int] = field(default_factory=dict)  # open WebSockets, by reporting gateway
    died: asyncio.Event = field(default_factory=asyncio.Event)
    exit_code: int | None = None
    output_bytes: int = 0  # what its app wrote, kept or not
    exit_reason: str = ""  # the app said that it ends itself
    busy: Busy = field(default_factory=Busy)
    ending: Ending | None = None
    detail: str = ""
    traceback: str = ""  # for its visitor, in dev mode only
    asked_s: float = 0.0  # when its visitor asked for it last, while it waits in the line
    turn: asyncio.Future[None] | None = None  # done when it may start; None for one that need not wait
    written_s: float = 0.0  # when lease.json was last written

    @property
    def id(self) -> SandboxId:
        return self.lease.sandbox

    @property
    def key(self) -> Key:
        return self.lease.user, self.lease.app

    @property
    def answers(self) -> bool:
        """Does its control connection stand, as far as is known?"""
        return self.link is not None and not self.link.closed and not self.died.is_set()

    @property
    def described(self) -> str:
        kind = "ASGI" if self.lease.generation == ASGI else f"htag {self.lease.generation}"
        return self.lease.app or f"blank, {kind}"

    def busy_left_s(self, now: float) -> float:
        """For how long it holds off the idle and the interaction timeout, if it goes on with what it said."""
        return self.busy.left_s(now, self.lease.limits.busy_max_s - self.lease.busy_used_s)

    def left(self, now: float) -> tuple[float, Ending]:
        return self.lease.left(now, held_s=self.busy_left_s(now))

    def pass_time(self, now: float, passed_s: float, *, watched: bool) -> bool:
        """Let idle time stand still for as much of the last `passed_s` as it should; True if it did."""
        lease = self.lease
        passed_s = min(passed_s, now - lease.claimed_s)  # it may be younger than the round
        held_s = self.busy.held_s(now, passed_s, lease.limits.busy_max_s - lease.busy_used_s)
        frozen_s = held_s if watched else passed_s
        if frozen_s > 0:
            self.lease = lease.replace(
                idle_frozen_s=lease.idle_frozen_s + frozen_s, busy_used_s=lease.busy_used_s + held_s
            )
        return frozen_s > 0

    @property
    def error_id(self) -> str:
        return self.id[:12]

    def route(
        self,
        now: float,
        *,
        expected_s: float | None = None,
        expected_most_s: float | None = None,
        outdated: bool = False,
        place: int | None = None,
    ) -> Route:
        left_s, left_why = self.left(now) if self.state is State.READY else (None, None)
        return Route(
            place=place,
            user=self.lease.user,
            app=self.lease.app,
            sandbox=self.id,
            state=self.state,
            step=self.step,
            started_ago_s=now - self.lease.created_s,
            address=self.address if self.state is State.READY else None,
            ending=self.ending,
            detail=self.detail,
            error_id=self.error_id if self.ending is not None else "",
            traceback=self.traceback,
            left_s=left_s,
            left_why=left_why,
            idle_timeout_s=self.lease.limits.idle_timeout_s,
            steps_ms=dict(self.steps_ms),
            expected_s=expected_s,
            expected_most_s=expected_most_s,
            outdated=outdated,
        )


class Registry:
    """Sandboxes by id, and the one live sandbox of each user and app."""

    def __init__(self) -> None:
        self._by_id: dict[SandboxId, Sandbox] = {}
        self._live: dict[Key, Sandbox] = {}

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, sandbox: Sandbox) -> None:
        """Enter a new sandbox, or one of the warm pool that has got its user."""
        self._by_id[sandbox.id] = sandbox
        if sandbox.lease.user:
            self._live[sandbox.key] = sandbox

    def get(self, sandbox_id: SandboxId) -> Sandbox | None:
        return self._by_id.get(sandbox_id)

    def live(self, key: Key) -> Sandbox | None:
        """The sandbox that starts or runs for this user and app; one that is being ended is not live."""
        return self._live.get(key)

    def of_user(self, user: UserId) -> list[Sandbox]:
        return [sandbox for sandbox in self._live.values() if sandbox.lease.user == user]

    def all_live(self) -> Iterable[Sandbox]:
        return list(self._live.values())

    def retire(self, sandbox: Sandbox) -> None:
        """No longer live; it stays known by id until `remove`."""
        if self._live.get(sandbox.key) is sandbox:
            del self._live[sandbox.key]

    def remove(self, sandbox: Sandbox) -> None:
        self.retire(sandbox)
        self._by_id.pop(sandbox.id, None)
