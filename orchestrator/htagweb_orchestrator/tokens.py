"""What operators show in place of a password: tokens for programs, and links that sign in once."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable

import msgspec

from .database import Database
from .model import PROGRAM, Struct, sign_in_id

log = logging.getLogger(__name__)

LINK_S = 3600.0
SEEN_S = 60.0  # how exactly a token's last use is known
SCHEMA = """
CREATE TABLE IF NOT EXISTS token (
    id TEXT PRIMARY KEY, label TEXT NOT NULL, created REAL NOT NULL, expires REAL, used REAL
);
CREATE TABLE IF NOT EXISTS link (id TEXT PRIMARY KEY, expires REAL NOT NULL)
"""


class Token(Struct, frozen=True):
    """`id` is the hash of the secret; the first digits of it name the token. Times are wall times."""

    id: str
    label: str
    created_s: float
    expires_s: float | None
    used_s: float | None = None


class Tokens:
    """`load` before use. Each call that changes something raises sqlite3.Error where the store can't be used."""

    def __init__(self, database: Database, *, wall_s: Callable[[], float] = time.time) -> None:
        self._database = database
        self._wall_s = wall_s
        self._by_id: dict[str, Token] = {}

    async def load(self) -> None:
        query = "SELECT id, label, created, expires, used FROM token ORDER BY created"
        rows = await self._database.read(lambda db: db.execute(query).fetchall())
        for ident, label, created_s, expires_s, used_s in rows:
            self._by_id[ident] = Token(id=ident, label=label, created_s=created_s, expires_s=expires_s, used_s=used_s)

    async def create(self, label: str, *, life_s: float | None) -> tuple[str, Token]:
        """A new secret, which is told once and never again, and what is kept of it."""
        secret = f"{PROGRAM}{secrets.token_urlsafe(32)}"
        now_s = self._wall_s()
        expires_s = None if life_s is None else now_s + life_s
        token = Token(id=sign_in_id(secret), label=label, created_s=now_s, expires_s=expires_s)
        row = (token.id, label, now_s, expires_s)
        await self._database.write(lambda db: db.execute("INSERT INTO token VALUES (?, ?, ?, ?, NULL)", row))
        self._by_id[token.id] = token
        return secret, token

    def all(self) -> list[Token]:
        return list(self._by_id.values())

    def labelled(self, label: str) -> list[Token]:
        return [each for each in self._by_id.values() if each.label == label]

    def matching(self, name: str) -> list[Token]:
        """By its whole label, or by the first digits of its id; a label may look like those."""
        return self.labelled(name) or [each for each in self._by_id.values() if name and each.id.startswith(name)]

    async def revoke(self, ident: str) -> bool:
        known = self._by_id.pop(ident, None) is not None  # at once, stored or not
        await self._database.write(lambda db: db.execute("DELETE FROM token WHERE id = ?", (ident,)))
        return known

    async def check(self, secret: str) -> Token | None:
        """Whose it is, if it is good."""
        token = self._by_id.get(sign_in_id(secret))
        now_s = self._wall_s()
        if token is None or (token.expires_s is not None and token.expires_s <= now_s):
            return None
        if token.used_s is None or now_s - token.used_s > SEEN_S:
            self._by_id[token.id] = token = msgspec.structs.replace(token, used_s=now_s)
            row = (now_s, token.id)
            try:
                await self._database.write(lambda db: db.execute("UPDATE token SET used = ? WHERE id = ?", row))
            except sqlite3.Error as error:
                log.warning("a token's use was not stored: %s", error)
        return token

    async def link(self) -> str:
        """The secret of a link that signs an operator in, once, within LINK_S; those made before are dead."""
        secret = secrets.token_urlsafe(32)
        row = (sign_in_id(secret), self._wall_s() + LINK_S)

        def replace(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM link")
            db.execute("INSERT INTO link VALUES (?, ?)", row)

        await self._database.write(replace)
        return secret

    async def redeem(self, secret: str) -> bool:
        """Use up a link; True for one that was good."""
        row = (sign_in_id(secret), self._wall_s())
        delete = "DELETE FROM link WHERE id = ? AND expires > ?"
        return await self._database.write(lambda db: db.execute(delete, row).rowcount == 1)
