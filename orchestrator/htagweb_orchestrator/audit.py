"""Who did what: signed in, started, was refused, was ended, and what operators did. Lines of JSON that are only ever
appended, and the same in a table that can be asked."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from .database import Database

log = logging.getLogger(__name__)

FILE_BYTES, FILES = 4 * 1024 * 1024, 5  # of one file, and how many are kept: audit.jsonl, audit.jsonl.1, …
ROWS = 50_000  # of the table
PENDING = 10_000  # entries that wait for a slow disk; more are counted, and lost
FACT_CHARS = 300
REPEATS = 5000
COMPLAIN_S = 60.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    n INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, event TEXT NOT NULL, who TEXT NOT NULL, facts TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS entry_who ON entry (who, n)
"""


class Event(StrEnum):
    SIGNED_IN = "signed-in"
    SIGN_IN_REFUSED = "sign-in-refused"
    SIGNED_OUT = "signed-out"
    STARTED = "started"
    REFUSED = "refused"  # a start
    ENDED = "ended"  # a sandbox; `ending` is the word for why
    OPERATED = "operated"  # an operator changed something; `call` says what
    OPERATION_REFUSED = "operation-refused"


class Audit:
    """`add` never waits and never fails; what can't be written is in the log. One thread keeps file and table in
    order."""

    def __init__(
        self,
        folder: Path,
        *,
        heard: Callable[[Event, Mapping[str, object]], None] = lambda event, facts: None,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`heard` is told of each entry, also of those that are left out."""
        self._path = folder / "audit.jsonl"
        self._heard = heard
        self._wall_s = wall_s
        self._database = Database(folder / "audit.sqlite", SCHEMA)
        self._pending: set[asyncio.Task[None]] = set()
        self._repeats: dict[tuple[str, ...], float] = {}
        self._lost = 0
        self._complained_s = 0.0

    def add(self, event: Event, who: str, *, at_most_every_s: float = 0.0, **facts: object) -> None:
        """`who` is a user's id, or the operator's name; facts that are empty are left out. The same again within
        `at_most_every_s` is left out, too: what a stranger can repeat must not push out what happened before."""
        self._heard(event, facts)
        if len(self._pending) >= PENDING:
            self._lost += 1
            return
        if at_most_every_s and self._is_again((event, who, *map(str, facts.values())), at_most_every_s):
            return
        shown = {key: _short(value) for key, value in facts.items() if value not in ("", None)}
        at_s = self._wall_s()
        task = asyncio.get_running_loop().create_task(self._write(at_s, event, str(_short(who)), shown))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def entries(
        self, *, who: str = "", event: str = "", sandbox: str = "", since_s: float = 0.0, most: int = 100
    ) -> list[dict[str, Any]]:
        """The last ones that fit, in the order of their happening. `since_s` is a wall time. Raises sqlite3.Error."""
        await self.settle()
        query = (
            "SELECT at, event, who, facts FROM entry WHERE (? = '' OR who = ?) AND (? = '' OR event = ?) "
            "AND (? = '' OR json_extract(facts, '$.sandbox') = ?) AND at >= ? ORDER BY n DESC LIMIT ?"
        )
        asked = (who, who, event, event, sandbox, sandbox, since_s, most)
        rows = await self._database.read(lambda db: db.execute(query, asked).fetchall())
        return [_entry(at_s, said, by, json.loads(facts)) for at_s, said, by, facts in reversed(rows)]

    async def last(self, event: Event) -> dict[str, float]:
        """When each of those in the table last did that, as a wall time. Raises sqlite3.Error."""
        await self.settle()
        query = "SELECT who, MAX(at) FROM entry WHERE event = ? GROUP BY who"
        return dict(await self._database.read(lambda db: db.execute(query, (event,)).fetchall()))

    async def settle(self) -> None:
        """Wait until what was added is written."""
        if self._pending:
            await asyncio.wait(set(self._pending))

    async def close(self) -> None:
        await self.settle()
        self._database.close()

    def _is_again(self, what: tuple[str, ...], within_s: float) -> bool:
        now_s = self._wall_s()
        if now_s - self._repeats.get(what, -within_s) < within_s:
            return True
        if len(self._repeats) >= REPEATS:
            self._repeats.clear()
        self._repeats[what] = now_s
        return False

    async def _write(self, at_s: float, event: str, who: str, facts: dict[str, object]) -> None:
        line = (json.dumps(_entry(at_s, event, who, facts), ensure_ascii=False) + "\n").encode("utf-8", "replace")

        def both(db: sqlite3.Connection) -> None:
            self._append(line)
            row = (at_s, event, who, json.dumps(facts))
            last = db.execute("INSERT INTO entry (at, event, who, facts) VALUES (?, ?, ?, ?)", row).lastrowid
            if last is not None and last % 100 == 0:
                db.execute("DELETE FROM entry WHERE n <= ?", (last - ROWS,))

        try:
            await self._database.write(both)
        except (OSError, sqlite3.Error) as error:
            self._lost += 1
            if self._wall_s() - self._complained_s > COMPLAIN_S:
                self._complained_s = self._wall_s()
                log.error("the audit log can't be written: %s", error, extra={"lost": self._lost})

    def _append(self, line: bytes) -> None:
        """In one write at the end of the file, so that a kill leaves whole lines. Raises OSError, and then nothing of
        it is there: a disk that gets full takes the first part of a line."""
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(file).st_size
            if size + len(line) <= FILE_BYTES:
                if os.write(file, line) < len(line):
                    os.ftruncate(file, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return
        finally:
            os.close(file)
        for number in range(FILES - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number}"))
        self._append(line)


def _entry(at_s: float, event: str, who: str, facts: dict[str, object]) -> dict[str, Any]:
    at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
    return {"at": at, "event": event, "who": who, **facts}


def _short(value: object) -> object:
    return value[:FACT_CHARS] if isinstance(value, str) else value
