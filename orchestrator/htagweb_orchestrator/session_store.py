"""What keeps users' records: the protocol, so that another store can serve several machines one day. The one there is
lies in sessions.py; tests/orchestrator/test_session_store.py says what each must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from .model import AppName, UserId

Record = dict[str, Any]


class SessionKey(NamedTuple):
    """Whose record. `app` is "" for the one that a user's apps share, or the app that keeps one to itself."""

    user: UserId
    app: AppName = AppName("")


class SessionStore(Protocol):
    """JSON objects by key. Each call does all of its work or none, and is over when what it did is safe from a kill.

    Calls count in the order in which they were made: a `patch` that is made after another one comes after it, whoever
    is answered first. Every call raises SessionStoreFailed where the store can't be used; nothing has changed then.
    """

    async def get(self, key: SessionKey) -> Record:
        """{} if there is none. Whoever reads it uses it: it is kept for another life, give or take a tenth."""
        ...

    async def patch(self, key: SessionKey, changed: Mapping[str, Any], deleted: Sequence[str]) -> None:
        """Set and delete top-level keys; of two who set the same, the last wins. Raises SessionTooLarge, or
        SessionRefused for what JSON can't say."""
        ...

    async def hand_over(self, visitor: UserId, person: UserId) -> dict[AppName, tuple[Record, Record]]:
        """Make each record of the visitor the person's, unless he has one of his own; the visitor has none afterwards.
        Returns, by the key's `app`, what the visitor had and what the person has now."""
        ...

    async def forget(self, user: UserId) -> None:
        """All records of a user."""
        ...

    async def prune(self) -> int:
        """Forget records that nobody has used for as long as they are kept; returns how many."""
        ...

    def close(self) -> None: ...
