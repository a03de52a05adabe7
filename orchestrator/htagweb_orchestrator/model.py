"""What the parts say to each other about: frozen values, no I/O, no clock.

Everything here travels as JSON between gateway and orchestrator, so it is made of msgspec structs. A time that
travels is an age in seconds (`…_ago_s`), never a point in time: two processes share no clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

import msgspec

UserId = NewType("UserId", str)
"""Opaque. The orchestrator never makes a path, a name or a label of it."""
AppName = NewType("AppName", str)
"""A DNS label: the first segment of the app's path."""
SandboxId = NewType("SandboxId", str)
"""32 hex digits, made by the orchestrator; the first 12 are shown to people as an error id."""


ASGI = 0
"""In place of a generation of htag: an app that is no htag class but an ASGI application."""


class State(StrEnum):
    WARM = "warm"  # started before anybody asked; no route ever has it
    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"


class Step(StrEnum):
    """How far a start has come; what the waiting page shows."""

    QUEUED = "queued"
    CREATING = "creating"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"


class Ending(StrEnum):
    """Why a sandbox is no more: one word, the same in page, list, metrics and audit log."""

    IDLE = "idle"
    LIFETIME = "lifetime"
    TIMEOUT = "timeout"  # an interaction took longer than interaction_timeout
    MEMORY = "memory"
    CRASHED = "crashed"
    EXITED = "exited"  # the app ended itself: `self.exit()`
    FAILED = "failed"  # it never got to its first page
    VISITOR = "visitor"  # the Stop button
    OPERATOR = "operator"
    UPDATED = "updated"
    FULL = "full"  # the machine ran short of memory, and this one was idle for the longest
    SURPLUS = "surplus"  # a warm one that nobody needs any more; no visitor sees it
    LOST = "lost"  # the engine or its record of the sandbox went away


class Struct(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all values here: frozen, built by keyword."""


class UnixAddress(Struct, tag="unix", frozen=True):
    """A socket file. `uid` owns it, and whoever dials must check that; see `address.dial`."""

    path: str
    uid: int
    peer_uid: bool = (
        True  # False under gVisor, whose gofer shows uid 0 as the peer: there only the inode's owner counts
    )


class TcpAddress(Struct, tag="tcp", frozen=True):
    """Where Unix sockets can't be had. `secret` is sent as `X-Htagweb-Secret` with each request."""

    host: str
    port: int
    secret: str


Address = UnixAddress | TcpAddress


class Route(Struct, frozen=True):
    """What is known of one user's sandbox of one app: where it is, how far, or why it ended."""

    user: UserId
    app: AppName
    sandbox: SandboxId
    state: State
    step: Step = Step.READY
    started_ago_s: float = 0.0
    address: Address | None = None  # while READY
    ending: Ending | None = None  # when ENDED
    detail: str = ""  # for people: "exit code 137", "idle for 15 minutes"
    error_id: str = ""  # `htagweb logs ERROR_ID` shows what the app said
    traceback: str = ""  # what it said last, in dev mode only
    left_s: float | None = None  # until the reaper ends it, if nobody does anything
    left_why: Ending | None = None  # IDLE or LIFETIME
    idle_timeout_s: float = 900.0
    expected_s: float | None = None  # median of this app's last starts; for one in the line, until its turn
    place: int | None = None  # in the line of those who wait for room, 1 for who is next
    outdated: bool = False  # a newer version of the app is published
    steps_ms: dict[str, float] = {}  # of its start, as its visitor waited: queue, create, start, load, render


class AppCard(Struct, frozen=True):
    """An app as visitors see it in the catalogue. `problem` is for operators.

    With a problem and no `version`, visitors are told that it is out of order. With both, the version is the last good
    one, and it is served.
    """

    name: AppName
    title: str
    description: str = ""
    generation: int = 1  # of htag, or ASGI
    version: str = ""
    problem: str = ""
    interaction_timeout_s: float = 60.0


class Platform(Struct, frozen=True):
    """Settings that a gateway needs. They travel with the watch, so that there is one configuration."""

    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-* are believed
    dev: bool = False
    home: str = ""  # the app served at "/", "" for the catalogue
    message_size: int = 16 * 1024 * 1024  # bytes of one WebSocket message
    message_rate: int = 1000  # WebSocket frames a second of one browser's socket in the long run; twice that at once
    sockets_per_user: int = 16
    warnings: tuple[str, ...] = ()  # promises that this engine does not keep, shown on every platform page


class Seen(Struct, frozen=True):
    """A gateway's report on one sandbox: how long ago a person last did something, and how many sockets are open."""

    idle_s: float
    sockets: int = 0


class Snapshot(Struct, tag="snapshot", frozen=True):
    platform: Platform
    apps: tuple[AppCard, ...]
    routes: tuple[Route, ...]
    complete: bool = True  # False: no engine has answered yet, so what runs isn't known; what was known stays so


class AppsChanged(Struct, tag="apps", frozen=True):
    apps: tuple[AppCard, ...]


class RouteChanged(Struct, tag="route", frozen=True):
    route: Route


class RouteGone(Struct, tag="gone", frozen=True):
    user: UserId
    app: AppName


Change = Snapshot | AppsChanged | RouteChanged | RouteGone
