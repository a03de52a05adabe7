"""What the parts say to each other about: frozen values, no I/O, no clock.

Everything here travels as JSON between gateway and orchestrator, so it is made of msgspec structs. A time that
travels is an age in seconds (`…_ago_s`), never a point in time: two processes share no clock.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import NewType

import msgspec

UserId = NewType("UserId", str)
"""Opaque. The orchestrator never makes a path, a name or a label of it."""
ANONYMOUS = "anon-"
"""What the ids of anonymous visitors begin with, and no person's does."""
AppName = NewType("AppName", str)
"""A DNS label: the first segment of the app's path."""
SandboxId = NewType("SandboxId", str)
"""32 hex digits, made by the orchestrator; the first 12 are shown to people as an error id."""
Access = tuple[str, ...]
"""`("public",)`, `("signed-in",)`, or rules such as `("group:staff", "user:ann")`; `access.allows` reads it."""
PROGRAM = "htagweb_"
"""What an operator's token for programs begins with, and none that a browser has."""


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
    FAILED = "failed"  # the app never got to its first page
    SERVER = "server"  # nor did it, through no fault of the app: the engine, the disk, the store of sessions
    VISITOR = "visitor"  # the Stop button
    OPERATOR = "operator"
    UPDATED = "updated"
    DATA = "data"  # what it keeps in /data is more than it may
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
    expected_most_s: float | None = None  # 95th percentile of the same starts; while STARTING
    place: int | None = None  # in the line of those who wait for room, 1 for who is next
    outdated: bool = False  # a newer version of the app is published
    steps_ms: dict[str, float] = {}  # of its start so far, as its visitor waited: queue, create, start, load, render


class Person(Struct, frozen=True):
    """Somebody who has signed in. `id` is the user that sandboxes and sessions belong to, and never begins with
    `anon-`.

    The same four fields are what an app gets as `htagweb.user()`.
    """

    id: UserId
    name: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()  # who is in `admin` is an operator


class SignIn(Struct, frozen=True):
    """A person is signed in in one browser."""

    id: str  # `sign_in_id` of the secret that the browser's cookie holds; knowing it opens nothing
    person: Person
    method: str  # password, oidc, header or link
    left_s: float  # until it is over by itself


class Welcome(Struct, frozen=True):
    """The answer to a sign-in that succeeded. Both secrets are for the browser's cookies, and stored nowhere else."""

    sid: str
    sign_in: SignIn
    operator_token: str = ""  # for members of `admin`: what operators' calls carry; dies with the sign-in

    def __repr__(self) -> str:
        return f"Welcome(sign_in={self.sign_in!r})"


class OperatorAnswer(Struct, frozen=True):
    """What the operators' API said to a call that came through a gateway."""

    status: int
    media_type: str
    body: bytes


class Icon(Struct, frozen=True):
    """A small picture. An SVG of somebody's may hold scripts: it is served for `<img>` alone."""

    media_type: str
    body: bytes


class AppCard(Struct, frozen=True):
    """An app as visitors see it in the catalogue. `problem` is for operators.

    With a problem and no `version`, visitors are told that it is out of order; while it is `preparing`, that it soon
    can be opened. With a version besides, that is the last good one, and it is served.
    """

    name: AppName
    title: str
    description: str = ""
    generation: int = 1  # of htag, or ASGI
    version: str = ""
    problem: str = ""
    preparing: bool = False  # the new version's image is being made; without a `version` there is nothing to open yet
    interaction_timeout_s: float = 60.0
    icon: str = ""  # a tag of what is in it; "" without one
    access: Access = ("public",)


class Oidc(Struct, frozen=True):
    """The provider that people sign in at, for `auth = "oidc"`."""

    issuer: str = ""  # its discovery document lies below it, at /.well-known/openid-configuration
    client_id: str = ""
    client_secret: str = ""
    scopes: str = "openid profile email"
    user_claim: str = "sub"  # of the id token: what becomes Person.id
    groups_claim: str = "groups"

    def __repr__(self) -> str:
        return f"Oidc(issuer={self.issuer!r}, client_id={self.client_id!r})"


class Headers(Struct, frozen=True):
    """What a trusted proxy says about who is asking, for `auth = "header"`: the fields' names."""

    user: str = "Remote-User"
    name: str = "Remote-Name"
    email: str = "Remote-Email"
    groups: str = "Remote-Groups"  # separated by commas


class Platform(Struct, frozen=True):
    """Settings that a gateway needs. They travel with the watch, so that there is one configuration."""

    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-* are believed
    frame_ancestors: tuple[str, ...] = ()  # other sites whose pages may show apps in a frame
    apps_domain: str = ""  # below which each app has a host of its own; then `public_url` is set
    dev: bool = False
    embedded: bool = False  # a user's own program: he knows under which names it is reached
    home: str = ""  # the app served at "/", "" for the catalogue
    body_size: int = 0  # bytes of one request's body; 0 for no limit
    message_size: int = 16 * 1024 * 1024  # bytes of one WebSocket message
    message_rate: int = 200  # WebSocket frames a second of one browser's socket in the long run; twice that at once
    sockets_per_user: int = 16
    warnings: tuple[str, ...] = ()  # promises that this engine does not keep, shown on every platform page
    auth: str = "anonymous"  # how people sign in: anonymous (not at all), password, oidc, header
    oidc: Oidc = Oidc()
    headers: Headers = Headers()
    anonymous_life_s: float = 30 * 86_400.0  # of an anonymous visitor's cookie


class Seen(Struct, frozen=True):
    """A gateway's report on one sandbox: how long ago a person last did something, and how many sockets are open."""

    idle_s: float
    sockets: int = 0


class Refused(StrEnum):
    """Why a gateway said no by itself."""

    FORBIDDEN = "forbidden"  # an app that there is, and that isn't for him
    UNCONFIRMED = "unconfirmed"  # what came back from the provider of sign-ins does not hold
    STALE = "stale"  # he came back from there a second time, too late, or in another browser


class Refusal(Struct, frozen=True):
    """A gateway's report on somebody whom it refused without asking. For the audit log."""

    why: Refused
    user: str = ""  # of a person who is signed in; others are nobody in particular
    app: AppName = AppName("")
    client: str = ""


class Snapshot(Struct, tag="snapshot", frozen=True):
    platform: Platform
    apps: tuple[AppCard, ...]
    routes: tuple[Route, ...]
    sign_ins: tuple[SignIn, ...] = ()
    complete: bool = True  # False: no engine has answered yet, so what runs isn't known; what was known stays so


class AppsChanged(Struct, tag="apps", frozen=True):
    apps: tuple[AppCard, ...]
    home: str | None = None  # as Platform.home; None: as before


class RouteChanged(Struct, tag="route", frozen=True):
    route: Route


class RouteGone(Struct, tag="gone", frozen=True):
    user: UserId
    app: AppName


class SignedIn(Struct, tag="signed-in", frozen=True):
    sign_in: SignIn


class SignedOut(Struct, tag="signed-out", frozen=True):
    """These sign-ins are over: signed out, revoked, expired. What is open under them is closed."""

    ids: tuple[str, ...]


Change = Snapshot | AppsChanged | RouteChanged | RouteGone | SignedIn | SignedOut


def sign_in_id(sid: str) -> str:
    """What is stored of a cookie's secret, and pushed to gateways: it can't be turned back."""
    return sha256(sid.encode("utf-8", "surrogateescape")).hexdigest()
