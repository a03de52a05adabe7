"""What apps keep for their visitors, while the platform runs: measured, told to operators, and removed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from .data import About, DataFolders
from .endings import Endings
from .model import AppName, Ending, State, UserId
from .registry import Registry, Sandbox

log = logging.getLogger(__name__)

ANONYMOUS = "anon-"


class Kept:
    """`anonymous_life_s` is how long an anonymous visitor's data outlives its last use, as his cookie does."""

    def __init__(
        self,
        *,
        folders: DataFolders,
        registry: Registry,
        endings: Endings,
        anonymous_life_s: float,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._folders = folders
        self._registry = registry
        self._endings = endings
        self._anonymous_life_s = anonymous_life_s
        self._wall_s = wall_s

    def others(self, sandbox: Sandbox) -> bool:
        """Is there another sandbox of the same user and app, on its way out?"""
        lease = sandbox.lease
        same = (other for other in self._registry if other is not sandbox and lease.user)
        return any((other.lease.user, other.lease.app) == (lease.user, lease.app) for other in same)

    async def measure(self) -> None:
        """End those that keep more than they may. No engine of ours sets a harder limit."""
        for sandbox in self._registry:
            lease = sandbox.lease
            if sandbox.state is not State.READY or not lease.limits.data_bytes or not lease.user:
                continue
            try:
                found = await asyncio.to_thread(self._folders.measure, lease.user, lease.app, lease.limits.data_bytes)
            except OSError as error:
                log.warning("data not measured: %s", error, extra={"sandbox": sandbox.id})
                continue
            if found and sandbox.state is State.READY:
                self._endings.end(sandbox, Ending.DATA, found)

    async def prune(self) -> None:
        """Remove what nobody can come back for: of visitors whose cookie is over, and of versions tried out."""
        found = await asyncio.to_thread(self._folders.all)
        in_use = {sandbox.lease.app for sandbox in self._registry if not sandbox.lease.user}
        gone = [
            key
            for key, about in found.items()
            if (not about.user and about.app not in in_use)
            or (about.user.startswith(ANONYMOUS) and self._wall_s() - about.used_s > self._anonymous_life_s)
        ]
        await asyncio.to_thread(self._folders.remove, [key for key in gone if not self._used(found[key])])

    async def rows(self) -> list[dict[str, Any]]:
        """For operators: whose, of which app, how much."""
        found = await asyncio.to_thread(self._folders.all)
        now = self._wall_s()
        return [
            {
                "user": about.user,
                "app": about.app,
                "bytes": about.bytes,
                "files": about.files,
                "used_ago_s": round(max(0.0, now - about.used_s), 1),
                "in_use": self._used(about),
            }
            for about in sorted(found.values(), key=lambda about: (about.user, about.app))
            if about.user
        ]

    async def remove(self, user: UserId | None = None, app: AppName | None = None) -> list[dict[str, Any]]:
        """Remove what fits, save what a sandbox has now; return the rows of both kinds."""
        found = await asyncio.to_thread(self._folders.all)
        fitting = {
            key: about
            for key, about in found.items()
            if about.user and user in (None, about.user) and app in (None, about.app)
        }
        free = [key for key, about in fitting.items() if not self._used(about)]
        await asyncio.to_thread(self._folders.remove, free)
        return [
            {"user": about.user, "app": about.app, "removed": key in free}
            for key, about in sorted(fitting.items(), key=lambda item: (item[1].user, item[1].app))
        ]

    def has(self, user: UserId, app: AppName) -> bool:
        """Does this app keep anything for this user?"""
        return self._folders.has(user, app)

    async def hand_over(self, before: UserId, after: UserId) -> None:
        await asyncio.to_thread(self._folders.hand_over, before, after)

    def _used(self, about: About) -> bool:
        return any((each.lease.user, each.lease.app) == (about.user, about.app) for each in self._registry)
