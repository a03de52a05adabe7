"""Who watches the route table, and the changes on their way to them."""

from __future__ import annotations

import asyncio

from .model import Change

QUEUE = 4096  # changes a gateway may lag behind before it has to begin again with a snapshot


class Watcher:
    """One gateway worker's end of the stream."""

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self.reported = False  # has sent its last activities since it began to watch
        self._queue: asyncio.Queue[Change | None] = asyncio.Queue(QUEUE)

    async def next(self) -> Change | None:
        """The next change; None when the watcher lagged too far behind and must begin again."""
        return await self._queue.get()

    def put(self, change: Change) -> bool:
        try:
            self._queue.put_nowait(change)
        except asyncio.QueueFull:
            return False
        return True

    def cut(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)


class Hub:
    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self.closed = False  # nobody may watch any more

    def join(self, gateway: str) -> Watcher:
        watcher = Watcher(gateway)
        self._watchers.add(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    def publish(self, change: Change) -> None:
        for watcher in list(self._watchers):
            if not watcher.put(change):
                watcher.cut()
                self.leave(watcher)

    def reported(self, gateway: str) -> None:
        for watcher in self._watchers:
            if watcher.gateway == gateway:
                watcher.reported = True

    @property
    def watched(self) -> bool:
        return bool(self._watchers)

    @property
    def all_reported(self) -> bool:
        return bool(self._watchers) and all(watcher.reported for watcher in self._watchers)

    def cut(self) -> None:
        """End every watch; who watches begins again."""
        for watcher in self._watchers:
            watcher.cut()

    def close(self) -> None:
        """The service stops. A gateway that comes back while it does is not kept: the server would wait for it."""
        self.closed = True
        self.cut()
