"""Who is signed in, as the orchestrator pushed it, and what is open under each sign-in: it ends with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

from htagweb_orchestrator.model import Change, Person, SignedIn, SignedOut, SignIn, Snapshot, UserId

OVER = 10_000  # ended sign-ins that are remembered, and visitors who became persons
SIGNED_OUT = 4401  # close code of a WebSocket whose sign-in is over; the page shim knows it


class SignIns:
    def __init__(self) -> None:
        self._known: dict[str, tuple[SignIn, float]] = {}  # id -> sign-in, when it is over (monotonic)
        self._over: dict[str, None] = {}  # ids that mean nobody any more; in the order of their ends
        self._open: dict[str, set[Callable[[], None]]] = {}
        # Anonymous visitors who signed in at this worker, until it restarts; oldest first. Others don't know of them:
        # what such a visitor had is the person's, or left, in any case.
        self.became_persons: dict[UserId, None] = {}

    def get(self, id: str) -> SignIn | None:
        """None for one that is over, or of which nobody has told us."""
        found = self._known.get(id)
        if found is None:
            return None
        if found[1] <= time.monotonic():  # also while no orchestrator is there to say so
            self.end((id,))
            return None
        return found[0]

    def person(self, user: UserId) -> Person | None:
        """Who this user is, as the last of his sign-ins has it; None for one who isn't signed in anywhere."""
        return next((known.person for known, _ in reversed(self._known.values()) if known.person.id == user), None)

    def became_a_person(self, visitor: UserId) -> None:
        """An anonymous visitor signed in: his old cookie is nobody's now, at whatever host."""
        if len(self.became_persons) >= OVER:
            del self.became_persons[next(iter(self.became_persons))]
        self.became_persons[visitor] = None

    def learn(self, sign_in: SignIn) -> None:
        """One that was just made, or of which the watch told. The answer to a sign-in may come after the word that it
        is over already."""
        if sign_in.id in self._over:
            return
        self._known[sign_in.id] = sign_in, time.monotonic() + sign_in.left_s

    def apply(self, change: Change) -> None:
        match change:
            case SignedIn(sign_in=sign_in):
                self.learn(sign_in)
            case SignedOut(ids=ids):
                self.end(ids)
            case Snapshot(sign_ins=sign_ins):
                # Not for good: it may have been made before one of them that we know from its answer.
                self.end(self._known.keys() - {sign_in.id for sign_in in sign_ins}, for_good=False)
                for sign_in in sign_ins:
                    self.learn(sign_in)

    def end(self, ids: Iterable[str], *, for_good: bool = True) -> None:
        """Forget these, and close what is open under them."""
        for id in list(ids):
            self._known.pop(id, None)
            if for_good:
                self._over[id] = None
                if len(self._over) > OVER:
                    del self._over[next(iter(self._over))]
            for close in tuple(self._open.pop(id, ())):
                close()

    @contextlib.contextmanager
    def holding(self, sign_in: SignIn | None, close: Callable[[], None]) -> Iterator[None]:
        """Call `close` if this sign-in ends meanwhile. Anonymous visitors have none to end."""
        if sign_in is None:
            yield
            return
        release = self.hold(sign_in, close)
        try:
            yield
        finally:
            release()

    def hold(self, sign_in: SignIn, close: Callable[[], None]) -> Callable[[], None]:
        """The same, until what is returned is called."""
        held = self._open.setdefault(sign_in.id, set())
        held.add(close)

        def release() -> None:
            held.discard(close)
            if not held and self._open.get(sign_in.id) is held:
                del self._open[sign_in.id]

        return release
