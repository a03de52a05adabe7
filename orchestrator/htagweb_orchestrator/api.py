"""The one door between gateway and orchestrator. Kept by `control.ControlPlane` in process, and by the gateway's client
over the orchestrator's Unix socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from .model import AppName, Change, Ending, Route, SandboxId, Seen, UserId


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

    async def activity(self, gateway: str, seen: Mapping[SandboxId, Seen]) -> None:
        """When people last did something, per sandbox. `gateway` names the worker. Unknown ids are ignored."""
        ...

    async def release(self, user: UserId, app: AppName, ending: Ending) -> bool:
        """End this user's sandbox of this app; False if there was none. Returns once it is gone."""
        ...

    def watch(self, gateway: str) -> AsyncGenerator[Change, None]:
        """A Snapshot, then every change as it happens, until the iterator is closed. Idle clocks run only while
        somebody watches."""
        ...
