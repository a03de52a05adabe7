"""A SQLite file with one thread that does all the work: a slow disk never holds the event loop, and writes are applied
in the order of their arrival."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
LOCK_S = 1.0  # how long one call waits for another process's lock
PATIENCE_S = 5.0  # a call that waited so long for its turn is refused: behind a lock the line would only grow


class Database:
    """The orchestrator alone opens `path`. Each call raises sqlite3.Error where the file is locked, gone, full or
    broken, and then nothing of it was written. With `durable`, what was answered survives a loss of power, too."""

    def __init__(self, path: Path, schema: str, *, durable: bool = False) -> None:
        self._path = path
        self._schema = schema
        self._durable = durable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=path.stem)
        try:
            self._db = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def _open(self) -> sqlite3.Connection:
        self._path.touch(mode=0o600, exist_ok=True)
        db = sqlite3.connect(self._path, isolation_level=None, timeout=LOCK_S, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
            db.executescript(self._schema)
        except BaseException:
            db.close()
            raise
        self._inode = self._path.stat().st_ino
        return db

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do all of `work` or nothing."""

        def transaction(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                done = work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk ends it by itself
                    db.execute("ROLLBACK")
                raise
            return done

        return await self._run(transaction)

    def close(self) -> None:
        self._thread.submit(lambda: self._db.close()).result()
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        asked_s = time.monotonic()

        def turn() -> T:
            if time.monotonic() - asked_s > PATIENCE_S:
                raise sqlite3.OperationalError("the store is too slow")
            self._same_file()
            return work(self._db)

        return await asyncio.get_running_loop().run_in_executor(self._thread, turn)

    def _same_file(self) -> None:
        """SQLite would go on writing into a file that was removed, where nobody finds it again."""
        try:
            inode = self._path.stat().st_ino
        except OSError as error:
            raise sqlite3.OperationalError(f"the store is gone: {error.strerror}") from error
        if inode != self._inode:  # an operator has put a copy in its place
            self._db.close()
            self._db = self._open()
