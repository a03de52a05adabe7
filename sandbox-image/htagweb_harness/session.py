"""The user's session: one dict that the app sees for the sandbox's whole life, kept equal with the orchestrator's.

The app changes it in place (`.append` counts), so changes are found by comparing each key's JSON with the last
snapshot. All of this runs in the app's event loop.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HOLD_S = 0.25  # how long a reply waits until what the app stored is safe
FLUSH_S = 0.2  # how soon a change made outside an interaction is stored
MAX_UNANSWERED = 32  # the orchestrator takes 64
MAX_FRAME_BYTES = 200 * 1024  # of a session frame: below the protocol's 256 KiB with room for its own keys


USER = "htagweb.user"  # the key under which an app finds who uses it; the platform's, never stored


class SessionData(dict[str, Any]):
    """The dict that an app sees. Who goes round what is refused here changes his own copy until the next look."""

    def __missing__(self, key: str) -> None:
        if key == USER:
            return  # an anonymous visitor
        raise KeyError(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == USER:
            raise TypeError(f"session[{USER!r}] says who is signed in: an app can't change it")
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        if key == USER:
            raise TypeError(f"session[{USER!r}] says who is signed in: an app can't remove it")
        super().__delitem__(key)


class Session:
    """`send` queues a frame; `connected` says whether somebody would take it."""

    def __init__(self, *, size: int, send: Callable[[dict[str, Any]], None], connected: Callable[[], bool]) -> None:
        self.data = SessionData()
        self._user: str | None = None  # JSON of who is signed in
        self.idle = asyncio.Event()  # no interaction is under way
        self.idle.set()
        self._size = min(size, MAX_FRAME_BYTES)
        self._send = send
        self._connected = connected
        self._snapshot: dict[str, str] = {}  # key -> JSON, as last sent or received
        self._unanswered: dict[int, dict[str, Any]] = {}  # seq -> the frame, in order
        self._before: dict[int, dict[str, str | None]] = {}  # seq -> what the snapshot was, to put it back
        self._seq = 0
        self._answered = asyncio.Event()
        self._overdue = False
        self._interactions = 0
        self._foreign: list[tuple[dict[str, Any], list[str]]] = []

    def begin(self, data: dict[str, Any], profile: dict[str, Any] | None) -> None:
        """What the orchestrator has on record, and who the user is."""
        self._apply(data, [])
        self.introduce(profile)

    def introduce(self, profile: dict[str, Any] | None) -> None:
        """Who the user is, None for an anonymous visitor."""
        self._user = None if profile is None else json.dumps(profile)
        self._keep_user()

    def _keep_user(self) -> None:
        """Undo what an app did to it by `update`, `pop`, `clear`, or inside."""
        found = dict.get(self.data, USER)
        try:
            as_it_was = USER in self.data and json.dumps(found) == self._user
        except (TypeError, ValueError, RecursionError):
            as_it_was = False
        if self._user is None:
            dict.pop(self.data, USER, None)
        elif not as_it_was:
            dict.__setitem__(self.data, USER, json.loads(self._user))

    @contextmanager
    def interaction(self) -> Iterator[None]:
        """Changes from elsewhere wait until this one and all others under way are done."""
        self._interactions += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._interactions -= 1
            if not self._interactions:
                self.idle.set()
                while self._foreign:
                    self._apply(*self._foreign.pop(0))

    async def settle(self) -> None:
        """Send what changed, and wait until it is stored, 250 ms at most. Without an orchestrator, wait for nothing."""
        self.flush()
        if not self._unanswered or self._overdue or not self._connected():
            return
        until = self._seq
        try:
            async with asyncio.timeout(HOLD_S):
                while any(seq <= until for seq in self._unanswered) and self._connected():
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            # The change is sent, and is sent again if need be. Until something is answered, nobody waits again.
            self._overdue = True

    def flush(self) -> None:
        """Send what differs from the snapshot. While nobody listens the difference simply remains."""
        self._keep_user()
        if not self.data and not self._snapshot:
            return
        if not self._connected() or len(self._unanswered) >= MAX_UNANSWERED:
            return
        try:
            current = self._encoded()
        except RuntimeError:
            return  # a thread of the app is changing it right now; the next round sees it
        changed = {key: text for key, text in current.items() if self._snapshot.get(key) != text}
        deleted = [key for key in self._snapshot if key not in current]
        if not changed and not deleted:
            return
        total = sum(len(json.dumps(key)) + len(text) + 2 for key, text in current.items())
        if total > self._size:
            self._say(f"{', '.join(changed)} would make it larger than {self._size} bytes; put back")
            for key in changed:
                self._put_back(key, self._snapshot.get(key))
            return
        self._seq += 1
        self._before[self._seq] = {key: self._snapshot.get(key) for key in (*changed, *deleted)}
        values = {key: json.loads(text) for key, text in changed.items()}
        frame = {"type": "session", "seq": self._seq, "set": values, "del": deleted}
        self._unanswered[self._seq] = frame
        self._snapshot = current
        self._send(frame)

    async def flush_often(self) -> None:
        """For as long as the app runs."""
        while True:
            await asyncio.sleep(FLUSH_S)
            self.flush()

    def reconnected(self) -> None:
        """Another connection: send again what was not acknowledged on the old one, then what changed meanwhile."""
        self._overdue = False
        for frame in self._unanswered.values():
            self._send(frame)
        self.flush()

    def acknowledged(self, seq: int, error: str | None) -> None:
        frame = self._unanswered.pop(seq, None)
        before = self._before.pop(seq, {})
        if frame is not None and error:
            self._say(f"{error}; put back: {', '.join(before)}")
            for key, text in before.items():
                sent = json.dumps(frame["set"][key]) if key in frame["set"] else None
                if self._snapshot.get(key) == sent:  # else the app has changed it again, and that is on its way
                    self._put_back(key, text)
                    self._keep(key, text)
        self._overdue = False
        self._answered.set()

    def changed_elsewhere(self, changed: dict[str, Any], deleted: list[str]) -> None:
        """Another sandbox or a route of the gateway wrote to the same record.

        Whatever arrives before the ack of a change of ours was stored before it: there ours is the last.
        """
        ours = {key for frame in self._unanswered.values() for key in (*frame["set"], *frame["del"])}
        changed = {key: value for key, value in changed.items() if key not in ours}
        deleted = [key for key in deleted if key not in ours]
        if self._interactions:
            self._foreign.append((changed, deleted))
        else:
            self._apply(changed, deleted)

    def _apply(self, changed: dict[str, Any], deleted: list[str]) -> None:
        for key, value in changed.items():
            if key != USER:
                self.data[key] = value
                self._snapshot[key] = json.dumps(value)
        for key in deleted:
            if key != USER:
                self.data.pop(key, None)
                self._snapshot.pop(key, None)

    def _encoded(self) -> dict[str, str]:
        """Each key's JSON. What is not JSON is put back at once: it could never be stored."""
        texts = {}
        for key, value in list(self.data.items()):
            if key == USER:
                continue
            try:
                if not isinstance(key, str):
                    raise TypeError(f"the key {key!r} is no text")
                texts[key] = json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                self._say(f"{key!r} is not JSON ({error}); put back")
                self._put_back(key, self._snapshot.get(key) if isinstance(key, str) else None)
                if isinstance(key, str) and key in self._snapshot:
                    texts[key] = self._snapshot[key]
        return texts

    def _put_back(self, key: Any, text: str | None) -> None:
        if text is None:
            self.data.pop(key, None)
        else:
            self.data[key] = json.loads(text)

    def _keep(self, key: str, text: str | None) -> None:
        if text is None:
            self._snapshot.pop(key, None)
        else:
            self._snapshot[key] = text

    @staticmethod
    def _say(text: str) -> None:
        print(f"session: {text}", file=sys.stderr)
