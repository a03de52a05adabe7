"""The store of sessions that comes with us: SQLite, in the orchestrator's state volume."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .database import Database
from .errors import SessionRefused, SessionStoreFailed, SessionTooLarge
from .model import ANONYMOUS, AppName, UserId
from .session_store import Record, SessionKey
from .tally import Tally

log = logging.getLogger(__name__)

T = TypeVar("T")
DAY_S = 86_400.0

# A file of an earlier version has a table `session`, from before apps could keep a record to themselves.
SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS record (
    user TEXT NOT NULL, app TEXT NOT NULL, data TEXT NOT NULL, touched REAL NOT NULL, PRIMARY KEY (user, app)
);
CREATE TABLE IF NOT EXISTS session (user TEXT PRIMARY KEY, data TEXT NOT NULL, touched REAL NOT NULL);
INSERT OR IGNORE INTO record SELECT user, '', data, touched FROM session;
DROP TABLE session;
COMMIT
"""


class Sessions:
    """Keeps session_store.SessionStore. `size` bounds a whole record, in bytes of JSON; `life_s` is how long an
    unused one is kept (wall time), `anonymous_life_s` that of an anonymous visitor."""

    def __init__(
        self,
        path: Path,
        *,
        size: int = 64 * 1024,
        life_s: float = 30 * DAY_S,
        anonymous_life_s: float = 30 * DAY_S,
        tally: Tally | None = None,
    ) -> None:
        self._size = size
        self._life_s = life_s
        self._anonymous_life_s = anonymous_life_s
        self._tally = tally or Tally()
        self._database = Database(path, SCHEMA, durable=True)

    async def get(self, key: SessionKey) -> Record:
        try:
            return await self._database.read(lambda db: self._use(db, key))
        except sqlite3.Error as error:
            raise self._failed(error, "the session can't be read just now; try again in a moment") from error

    async def patch(self, key: SessionKey, changed: Mapping[str, Any], deleted: Sequence[str]) -> None:
        # As JSON at once: it must not matter what becomes of these objects until it is their turn.
        try:
            change: Record = json.loads(json.dumps(changed, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise SessionRefused("the session holds what can't be stored; the old value was kept") from error
        dropped = list(deleted)

        def work(db: sqlite3.Connection) -> None:
            record = _read(db, key)
            for name in dropped:
                record.pop(name, None)
            record.update(change)
            data = json.dumps(record, separators=(",", ":"))
            if len(data) > self._size:  # ASCII: as many bytes as characters
                raise SessionTooLarge(f"the session would be larger than {self._size} bytes; the old value was kept")
            db.execute("REPLACE INTO record VALUES (?, ?, ?, ?)", (*key, data, time.time()))

        await self._write(work)

    async def hand_over(self, visitor: UserId, person: UserId) -> dict[AppName, tuple[Record, Record]]:
        def work(db: sqlite3.Connection) -> dict[AppName, tuple[Record, Record]]:
            records = {}
            for (app,) in db.execute("SELECT app FROM record WHERE user IN (?, ?)", (visitor, person)).fetchall():
                had, own = _read(db, SessionKey(visitor, app)), _read(db, SessionKey(person, app))
                records[app] = had, own or had
                if not own:
                    db.execute("DELETE FROM record WHERE user = ? AND app = ?", (person, app))
                    db.execute("UPDATE record SET user = ? WHERE user = ? AND app = ?", (person, visitor, app))
            db.execute("DELETE FROM record WHERE user = ?", (visitor,))
            return records

        return await self._write(work)

    async def forget(self, user: UserId) -> None:
        await self._write(lambda db: db.execute("DELETE FROM record WHERE user = ?", (user,)))

    async def prune(self) -> int:
        now_s = time.time()
        delete = "DELETE FROM record WHERE touched < CASE WHEN user LIKE ? THEN ? ELSE ? END"
        ages = (f"{ANONYMOUS}%", now_s - self._anonymous_life_s, now_s - self._life_s)
        return await self._write(lambda db: db.execute(delete, ages).rowcount)

    def close(self) -> None:
        self._database.close()

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._database.write(work)
        except sqlite3.Error as error:
            raise self._failed(error, "the session could not be stored; the old value was kept") from error

    def _use(self, db: sqlite3.Connection, key: SessionKey) -> Record:
        """Read it, and now and then note that. Where that can't be written it can be read all the same."""
        record, now_s = _read(db, key), time.time()
        life_s = self._anonymous_life_s if key.user.startswith(ANONYMOUS) else self._life_s
        stale = "user = ? AND app = ? AND touched < ?"
        asked = (*key, now_s - life_s / 10)
        if record and db.execute(f"SELECT 1 FROM record WHERE {stale}", asked).fetchone():
            with contextlib.suppress(sqlite3.Error):
                db.execute(f"UPDATE record SET touched = ? WHERE {stale}", (now_s, *asked))
        return record

    def _failed(self, error: sqlite3.Error, said: str) -> SessionStoreFailed:
        self._tally.store_failed()
        log.error("the store of sessions can't be used: %s", error)
        return SessionStoreFailed(said)


def _read(db: sqlite3.Connection, key: SessionKey) -> Record:
    row = db.execute("SELECT data FROM record WHERE user = ? AND app = ?", key).fetchone()
    if row is None:
        return {}
    try:
        found = json.loads(row[0])
    except ValueError as error:
        raise sqlite3.DatabaseError(f"a damaged record: {error}") from error
    return found if isinstance(found, dict) else {}
