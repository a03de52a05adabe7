"""The one door between gateway and orchestrator. Kept by `control.ControlPlane` and `visitors.Visitors` in process, and
both by the gateway's client over the orchestrator's Unix socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from .model import (
    AppName,
    Change,
    Ending,
    Icon,
    OperatorAnswer,
    Person,
    Refusal,
    Route,
    SandboxId,
    Seen,
    UserId,
    Welcome,
)

MOST_REFUSED = 100  # in one report


class Orchestrator(Protocol):
    async def lease(
        self, user: UserId, app: AppName, *, query: str = "", wait_s: float = 0.0, client: str = ""
    ) -> Route:
        """Make sure that this user has a sandbox of this app; the only verb that starts one.

        Joins a start in progress. Returns after `wait_s` at the latest, with a route in state STARTING where it isn't
        ready by then. `query` reaches the app's first page (htag 1: `init`). `client` is the visitor's address: cookies
        are free, so what one address may start is limited, too. Clears an ending that was waiting to be
        explained. Raises a child of OrchestratorError: AppNotFound, AppBroken, UserLimitReached, CapacityExceeded,
        StartFailed, …
        """
        ...

    async def find(self, user: UserId, app: AppName) -> Route | None:
        """What this user has of this app, freshly looked up; starts nothing, counts as no activity."""
        ...

    async def running(self, user: UserId) -> list[Route]:
        """All that this user has starting or running, like `find`."""
        ...

    async def activity(self, gateway: str, seen: Mapping[SandboxId, Seen], refused: Sequence[Refusal] = ()) -> None:
        """When people last did something, per sandbox. `gateway` names the worker. Unknown ids are ignored. `refused`
        are those whom it refused meanwhile without asking, MOST_REFUSED of them at most."""
        ...

    async def release(self, user: UserId, app: AppName, ending: Ending) -> bool:
        """End this user's sandbox of this app; False if there was none. Returns once it is gone."""
        ...

    async def icon(self, app: AppName) -> Icon | None:
        """The picture that lies beside an app; None without one. Its card's `icon` changes when it does."""
        ...

    def watch(self, gateway: str) -> AsyncGenerator[Change, None]:
        """A Snapshot, then every change as it happens, until the iterator is closed. Idle clocks run only while
        somebody watches."""
        ...


class SessionVerbs(Protocol):
    """All that hangs below the gateway's verb `session`: a visitor's record, who he is, and operators' calls.

    Who is signed in reaches every gateway by `watch`: a request that brings the cookie of a sign-in asks nobody.
    `sid` is the secret of the cookie that the browser has now, "" without; `visitor` its anonymous user. Either is dead
    after a sign-in: the answer has another secret, and what the anonymous visitor had follows him or is left, as
    configured.
    `client` is the visitor's address.
    """

    async def session(self, user: UserId, app: AppName) -> dict[str, Any]:
        """The record that this user's sandbox of this app has; {} if there is none. Raises SessionStoreFailed."""
        ...

    async def patch_session(
        self, user: UserId, app: AppName, changed: Mapping[str, Any], deleted: Sequence[str]
    ) -> None:
        """Apply all of it or nothing; his running sandboxes are told. Raises SessionTooLarge, SessionRefused,
        SessionStoreFailed."""
        ...

    async def sign_in(
        self, name: str, password: str, *, client: str = "", sid: str = "", visitor: UserId | None = None
    ) -> Welcome:
        """By password, with `auth = "password"`. Raises SignInRefused, in the same time for an unknown name and a wrong
        password, and SignInLimited after too many failures of this name or address."""
        ...

    async def admit(
        self, person: Person, method: str, *, client: str = "", sid: str = "", visitor: UserId | None = None
    ) -> Welcome:
        """A person whom the gateway knows from elsewhere: `method` is oidc or header, and must be the configured one.
        Raises SignInRefused."""
        ...

    async def redeem(self, token: str, *, client: str = "", sid: str = "", visitor: UserId | None = None) -> Welcome:
        """By an operator's one-time link. Raises SignInRefused, SignInLimited."""
        ...

    async def spend(self, mark: str, life_s: float) -> bool:
        """Have something that may be used once be used, at whichever worker; False if it was before. `life_s` is how
        long anybody would take it."""
        ...

    async def sign_out(self, sid: str, *, everywhere: bool = False) -> None:
        """End this sign-in, or all of this person. An unknown one is a success."""
        ...

    async def operate(
        self, token: str, method: str, path: str, *, query: str = "", body: bytes = b"", client: str = ""
    ) -> OperatorAnswer:
        """An operators' call, such as GET /v1/sandboxes, answered as on the operators' own socket. Raises NotAnOperator
        without a good token."""
        ...
