"""The stored record of each user: a JSON object, kept in SQLite, opened by the orchestrator alone."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from .errors import SessionTooLarge
from .model import UserId

T = TypeVar("T")
DAY_S = 86_400.0


class Sessions:
    """`size` bounds a whole record, in bytes of JSON; `life_s` is how long an untouched record is kept (wall time).

    Changes are per top-level key, the last writer wins. One thread does all the work, so that a slow disk never holds
    the event loop, and changes are applied in the order of their arrival.
    """

    def __init__(self, path: Path, *, size: int = 64 * 1024, life_s: float = 30 * DAY_S) -> None:
        self._size = size
        self._life_s = life_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sessions")
        self._db = self._thread.submit(self._open, path).result()

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        path.touch(mode=0o600, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(
            "CREATE TABLE IF NOT EXISTS session (user TEXT PRIMARY KEY, data TEXT NOT NULL, touched REAL NOT NULL)"
        )
        return db

    async def get(self, user: UserId) -> dict[str, Any]:
        return await self._run(lambda: self._read(user))

    async def patch(self, user: UserId, changed: Mapping[str, Any], deleted: Sequence[str]) -> None:
        """Apply all of it or nothing. Raises SessionTooLarge, or sqlite3.Error when the store can't be written."""
        await self._run(lambda: self._patch(user, changed, deleted))

    async def hand_over(self, visitor: UserId, person: UserId) -> tuple[dict[str, Any], dict[str, Any]]:
        """Make the visitor's record the person's, who keeps his own if he has one; the visitor's is gone in any case.
        Returns what the visitor had, and what the person has now."""
        return await self._run(lambda: self._hand_over(visitor, person))

    async def forget(self, user: UserId) -> None:
        await self._run(lambda: self._db.execute("DELETE FROM session WHERE user = ?", (user,)))

    async def prune(self) -> int:
        """Forget records that nobody touched for `life_s`; returns how many."""
        return await self._run(
            lambda: self._db.execute("DELETE FROM session WHERE touched < ?", (time.time() - self._life_s,)).rowcount
        )

    def close(self) -> None:
        self._thread.submit(self._db.close).result()
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _read(self, user: UserId) -> dict[str, Any]:
        row = self._db.execute("SELECT data FROM session WHERE user = ?", (user,)).fetchone()
        found: dict[str, Any] = json.loads(row[0]) if row else {}
        return found

    def _hand_over(self, visitor: UserId, person: UserId) -> tuple[dict[str, Any], dict[str, Any]]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            had, own = self._read(visitor), self._read(person)
            if not own:
                self._db.execute("DELETE FROM session WHERE user = ?", (person,))
                self._db.execute("UPDATE session SET user = ? WHERE user = ?", (person, visitor))
            self._db.execute("DELETE FROM session WHERE user = ?", (visitor,))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return had, own or had

    def _patch(self, user: UserId, changed: Mapping[str, Any], deleted: Sequence[str]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            record = self._read(user)
            for key in deleted:
                record.pop(key, None)
            record.update(changed)
            data = json.dumps(record, separators=(",", ":"))
            if len(data.encode()) > self._size:
                raise SessionTooLarge(f"the session would be larger than {self._size} bytes; the old value was kept")
            self._db.execute("INSERT OR REPLACE INTO session VALUES (?, ?, ?)", (user, data, time.time()))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
