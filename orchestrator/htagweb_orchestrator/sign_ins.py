"""Who is signed in, in which browsers. Kept in memory for every lease, in the store for the next orchestrator, and told
to every gateway by the watch."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from .database import Database
from .model import Change, Person, SignedIn, SignedOut, SignIn, Struct, UserId, Welcome, sign_in_id

ADMIN = "admin"  # the group whose members are operators
LINK = "link"  # the method of who came by a one-time link, which is good with every `auth`
OPERATOR = "operator"  # the id of whoever came by a one-time link; no account may have it
MOST_PER_PERSON = 50  # browsers that one person is signed in with; one more ends the oldest

SCHEMA = """
CREATE TABLE IF NOT EXISTS sign_in (
    id TEXT PRIMARY KEY, person TEXT NOT NULL, method TEXT NOT NULL, expires REAL NOT NULL, operator TEXT NOT NULL
)
"""


class _Kept(Struct, frozen=True):
    id: str
    person: Person
    method: str
    expires_s: float  # wall time: a sign-in outlives the machine's restart
    operator: str = ""  # hash of the operator's token that goes with it


class SignIns:
    """`load` before use. Only hashes of the secrets are kept. `tell` takes what gateways must hear of."""

    def __init__(self, database: Database | None, *, life_s: float, wall_s: Callable[[], float] = time.time) -> None:
        self._database = database
        self._life_s = life_s
        self._wall_s = wall_s
        self._by_id: dict[str, _Kept] = {}
        self._of_person: dict[UserId, dict[str, _Kept]] = defaultdict(dict)
        self._operators: dict[str, _Kept] = {}
        self._undeleted: set[str] = set()
        self.tell: Callable[[Change], None] = lambda change: None

    async def load(self, auth: str) -> None:
        """Take over those of the last orchestrator; where people signed in another way then, they do so anew."""
        if self._database is None:
            return
        await self._database.write(
            lambda db: db.execute("DELETE FROM sign_in WHERE method NOT IN (?, ?)", (auth, LINK))
        )
        rows = await self._database.read(
            lambda db: db.execute(
                "SELECT id, person, method, expires, operator FROM sign_in ORDER BY expires"
            ).fetchall()
        )
        for ident, person, method, expires_s, operator in rows:
            self._remember(_Kept(ident, msgspec.json.decode(person, type=Person), method, expires_s, operator))

    async def begin(self, person: Person, method: str) -> Welcome:
        """Make a sign-in, store it, and tell of it. Raises sqlite3.Error, and then nobody is signed in."""
        sid = secrets.token_urlsafe(32)
        token = secrets.token_urlsafe(32) if ADMIN in person.groups else ""
        kept = _Kept(sign_in_id(sid), person, method, self._wall_s() + self._life_s, sign_in_id(token) if token else "")
        await self._store(kept)
        self._remember(kept)
        self.tell(SignedIn(sign_in=self._shown(kept)))
        mine = self._of_person[person.id]
        await self.end(list(mine)[: max(0, len(mine) - MOST_PER_PERSON)])
        return Welcome(sid=sid, sign_in=self._shown(kept), operator_token=token)

    async def end(self, ids: Iterable[str]) -> list[str]:
        """End these; returns those that there were. They are over at once, stored or not; raises sqlite3.Error where
        the next orchestrator would take them for good."""
        gone = [ident for ident in ids if ident in self._by_id]
        for ident in gone:
            self._forget(ident)
        if gone:
            self.tell(SignedOut(ids=tuple(gone)))
            self._undeleted.update(gone)
            await self._delete()
        return gone

    async def _delete(self) -> None:
        """What could not be deleted is tried again at each `expire`."""
        rows = [(ident,) for ident in self._undeleted]
        if self._database is not None and rows:
            await self._database.write(lambda db: db.executemany("DELETE FROM sign_in WHERE id = ?", rows))
        self._undeleted.difference_update(ident for (ident,) in rows)

    async def end_of(self, user: UserId) -> list[str]:
        """End all of this person."""
        return await self.end(list(self._of_person.get(user, ())))

    async def expire(self) -> list[str]:
        """End those that are too old."""
        now_s = self._wall_s()
        over = await self.end([kept.id for kept in self._by_id.values() if kept.expires_s <= now_s])
        await self._delete()
        return over

    def of_secret(self, sid: str) -> SignIn | None:
        kept = self._by_id.get(sign_in_id(sid))
        return self._shown(kept) if kept is not None and kept.expires_s > self._wall_s() else None

    def person(self, user: UserId) -> Person | None:
        """Who this user is, as long as he is signed in anywhere. What the last sign-in said counts."""
        now_s = self._wall_s()
        living = [kept for kept in self._of_person.get(user, {}).values() if kept.expires_s > now_s]
        return living[-1].person if living else None

    def operator(self, token: str) -> Person | None:
        """Whose token this is: a member of `admin`, who is signed in."""
        kept = self._operators.get(sign_in_id(token))
        return kept.person if kept is not None and kept.expires_s > self._wall_s() else None

    def all(self) -> tuple[SignIn, ...]:
        now_s = self._wall_s()
        return tuple(self._shown(kept) for kept in self._by_id.values() if kept.expires_s > now_s)

    def _shown(self, kept: _Kept) -> SignIn:
        left_s = max(0.0, kept.expires_s - self._wall_s())
        return SignIn(id=kept.id, person=kept.person, method=kept.method, left_s=left_s)

    def _remember(self, kept: _Kept) -> None:
        self._by_id[kept.id] = self._of_person[kept.person.id][kept.id] = kept
        if kept.operator:
            self._operators[kept.operator] = kept

    def _forget(self, ident: str) -> None:
        kept = self._by_id.pop(ident)
        self._operators.pop(kept.operator, None)
        mine = self._of_person[kept.person.id]
        del mine[ident]
        if not mine:
            del self._of_person[kept.person.id]

    async def _store(self, kept: _Kept) -> None:
        if self._database is None:
            return
        row: tuple[Any, ...] = (
            kept.id, msgspec.json.encode(kept.person).decode(), kept.method, kept.expires_s, kept.operator,
        )  # fmt: skip
        await self._database.write(lambda db: db.execute("INSERT INTO sign_in VALUES (?, ?, ?, ?, ?)", row))
