"""The people of `auth = "password"`, as the operator has entered them."""

from __future__ import annotations

import re
import sqlite3
import time
from typing import Any

import msgspec

from .database import Database
from .model import Person, Struct, UserId

NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
GROUP = re.compile(r"[^\x00-\x20\x7f,\"':]{1,64}")

SCHEMA = """
CREATE TABLE IF NOT EXISTS account (
    name TEXT PRIMARY KEY, hash TEXT NOT NULL, full_name TEXT NOT NULL, email TEXT NOT NULL, groups TEXT NOT NULL,
    disabled INTEGER NOT NULL, created REAL NOT NULL
)
"""
_COLUMNS = "name, hash, full_name, email, groups, disabled, created"


class Account(Struct, frozen=True):
    name: str  # what is typed to sign in, and the person's id
    hash: str  # of the password, by argon2
    full_name: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()
    disabled: bool = False
    created_s: float = 0.0  # wall time

    def __repr__(self) -> str:
        return f"Account(name={self.name!r})"

    @property
    def person(self) -> Person:
        return Person(id=UserId(self.name), name=self.full_name, email=self.email, groups=self.groups)


class Accounts:
    """Each call raises sqlite3.Error where the store can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: str) -> Account | None:
        query = f"SELECT {_COLUMNS} FROM account WHERE name = ?"
        row = await self._database.read(lambda db: db.execute(query, (name,)).fetchone())
        return _account(row) if row else None

    async def all(self) -> list[Account]:
        query = f"SELECT {_COLUMNS} FROM account ORDER BY name"
        return [_account(row) for row in await self._database.read(lambda db: db.execute(query).fetchall())]

    async def add(self, account: Account) -> bool:
        """False if there is one of this name."""
        row = _row(msgspec.structs.replace(account, created_s=time.time()))
        insert = f"INSERT INTO account ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        try:
            await self._database.write(lambda db: db.execute(insert, row))
        except sqlite3.IntegrityError:
            return False
        return True

    async def change(self, name: str, **changes: Any) -> Account | None:
        """Change fields of an account; returns it as it is now, None if there is none."""

        def work(db: sqlite3.Connection) -> Account | None:
            row = db.execute(f"SELECT {_COLUMNS} FROM account WHERE name = ?", (name,)).fetchone()
            if row is None:
                return None
            changed: Account = msgspec.structs.replace(_account(row), **changes)
            db.execute(f"REPLACE INTO account ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", _row(changed))
            return changed

        return await self._database.write(work)

    async def rehash(self, name: str, known: str, fresh: str) -> bool:
        """The same password under another hash; False if it isn't the same any more."""
        update = "UPDATE account SET hash = ? WHERE name = ? AND hash = ?"
        return await self._database.write(lambda db: db.execute(update, (fresh, name, known)).rowcount == 1)

    async def remove(self, name: str) -> bool:
        delete = "DELETE FROM account WHERE name = ?"
        return await self._database.write(lambda db: db.execute(delete, (name,)).rowcount > 0)


def _account(row: tuple[Any, ...]) -> Account:
    name, password, full_name, email, groups, disabled, created_s = row
    return Account(
        name=name,
        hash=password,
        full_name=full_name,
        email=email,
        groups=tuple(msgspec.json.decode(groups, type=list[str])),
        disabled=bool(disabled),
        created_s=created_s,
    )


def _row(account: Account) -> tuple[Any, ...]:
    groups = msgspec.json.encode(account.groups).decode()
    return (
        account.name, account.hash, account.full_name, account.email, groups, account.disabled, account.created_s,
    )  # fmt: skip
