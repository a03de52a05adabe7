"""What belongs to a user wherever he goes: the session that his sandboxes share, his name, and all of it when he signs
in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from .access import allows
from .catalogue import Apps
from .endings import Endings
from .errors import SessionRefused
from .harness import HarnessLink
from .hub import Hub
from .kept import Kept
from .model import ASGI, AppName, Ending, Person, RouteGone, State, UserId
from .registry import Registry, Sandbox
from .session_store import SessionStore
from .settings import Settings

log = logging.getLogger(__name__)

HEARD_S = 0.25  # an app that blocks its event loop holds no route up for longer; an interaction waits as long
RESERVED = "htagweb."  # what keys of the session begin with that are never stored: the platform puts them in


class Belongings:
    """`moved` is told of each sandbox that has another user now: its lease is to be written, its route published."""

    def __init__(
        self,
        *,
        registry: Registry,
        sessions: SessionStore,
        settings: Settings,
        catalogue: Apps,
        endings: Endings,
        hub: Hub,
        kept: Kept | None,
        moved: Callable[[Sandbox], None],
    ) -> None:
        self._registry = registry
        self._sessions = sessions
        self._settings = settings
        self._catalogue = catalogue
        self._endings = endings
        self._hub = hub
        self._kept = kept
        self._moved = moved
        self._telling: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)

    # -- the session ---------------------------------------------------------------------------------------------

    async def session(self, user: UserId, app: AppName) -> dict[str, Any]:
        return await self._sessions.get(self._settings.session_key(user, app))

    async def patch_session(
        self,
        user: UserId,
        app: AppName,
        changed: Mapping[str, Any],
        deleted: Sequence[str],
        *,
        but: Sandbox | None = None,
    ) -> None:
        """Store it, and tell this user's other sandboxes that have the same record; `but` has said so itself. Of a
        route's change they have heard when this returns: its answer makes the page ask them."""
        if any(key.startswith(RESERVED) for key in (*changed, *deleted)):
            raise SessionRefused(f"keys that begin with {RESERVED} are the platform's; the old value was kept")
        key = self._settings.session_key(user, app)
        await self._sessions.patch(key, changed, deleted)
        told = []
        for other in self._registry.of_user(user):
            if other is but or self._settings.session_key(user, other.lease.app) != key:
                continue
            is_htag = other.lease.generation != ASGI  # another has no session
            if is_htag and other.link is not None and not other.link.closed:
                hears = other.link.session if but is not None else functools.partial(_heard, other.link)
                told.append(self._tell(other, hears(changed, deleted), "session"))
        if told and but is None:
            await asyncio.wait(told)

    async def forget(self, user: UserId) -> None:
        """The record, and what his apps keep in /data."""
        await self._sessions.forget(user)
        if self._kept is not None:
            await self._kept.remove(user)

    # -- signing in ----------------------------------------------------------------------------------------------

    async def hand_over(self, visitor: UserId, person: Person) -> None:
        """What this anonymous visitor has becomes the person's, save what the person has of his own already. Raises
        SessionStoreFailed, or OSError where what his apps keep can't be handed over."""
        followed = []
        for sandbox in self._registry.of_user(visitor):
            if sandbox.state is State.READY and self._may_have(person, sandbox.lease.app):
                self._registry.retire(sandbox)
                sandbox.lease = sandbox.lease.replace(user=person.id)
                self._registry.add(sandbox)
                # In this order gateways close what is open under the old name, and his page comes back under the new.
                self._hub.publish(RouteGone(user=visitor, app=sandbox.lease.app))
                self._moved(sandbox)
                followed.append(sandbox)
            else:
                self._endings.end(sandbox, Ending.VISITOR, "its visitor has signed in")
        # No await before this: what the sandboxes store from now on comes after it, into the person's record.
        try:
            records = await self._sessions.hand_over(visitor, person.id)
        finally:  # a sandbox that has followed has it mounted, whatever became of the session
            if self._kept is not None:
                await self._kept.hand_over(visitor, person.id)
        for sandbox in followed:
            key = self._settings.session_key(person.id, sandbox.lease.app)
            had, has = records.get(key.app, ({}, {}))
            if had != has and sandbox.link is not None and not sandbox.link.closed:
                await self._told(sandbox.link.session(has, [name for name in had if name not in has]))

    def _may_have(self, person: Person, app: AppName) -> bool:
        return (
            allows(self._catalogue.access_of(app), person)
            and self._registry.live((person.id, app)) is None
            and not (self._kept is not None and self._kept.has(person.id, app))  # it has the visitor's mounted
            and len(self._registry.of_user(person.id)) < self._settings.max_per_user
        )

    async def introduce(self, person: Person) -> None:
        """Tell this person's sandboxes who he is, now that he has signed in."""
        for sandbox in self._registry.of_user(person.id):
            if sandbox.link is not None and not sandbox.link.closed:
                self._tell(sandbox, sandbox.link.profile(person), "profile")

    # -- telling sandboxes ---------------------------------------------------------------------------------------

    def _tell(self, sandbox: Sandbox, saying: Awaitable[None], what: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._told(saying), name=f"{what} {sandbox.error_id}")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return task

    async def _told(self, saying: Awaitable[None]) -> None:
        try:
            await saying
        except Exception as error:  # it gets all of it at its next claim; a broken link is noticed elsewhere
            log.debug("not delivered: %s", error)


async def _heard(link: HarnessLink, changed: Mapping[str, Any], deleted: Sequence[str]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARD_S):
            await link.session(changed, deleted)
            await link.ping()  # answered by the event loop that has taken the change before
