"""Docker's event stream as an async iterator: a thread reads it, because the driver's stream blocks."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator
from typing import Any

import docker

from ..model import SandboxId
from .base import Died, Relist
from .docker_calls import DRIVER_ERRORS, Client, connect
from .docker_options import INSTANCE, SANDBOX

log = logging.getLogger(__name__)

MOST_WAITING = 1000  # more unread events than this become one Relist
LONGEST_PAUSE_S = 5.0


class EventThread:
    """Reads ends of sandboxes until closed; reconnects by itself, and says Relist each time that it is connected."""

    def __init__(self, base_url: str, *, instance: str, timeout_s: float) -> None:
        self._base_url = base_url
        self._instance = instance
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting: collections.deque[Died | Relist] = collections.deque()
        self._news = asyncio.Event()
        self._closed = threading.Event()
        self._stream: Any = None
        self._out_of_memory: set[SandboxId] = set()
        self._reported: set[SandboxId] = set()  # died, not yet removed
        # A daemon: nothing can wake it from a connection attempt that hangs.
        self._thread = threading.Thread(target=self._run, name="docker-events", daemon=True)

    async def read(self) -> AsyncGenerator[Died | Relist, None]:
        self._thread.start()
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._waiting:
                    yield self._waiting.popleft()
        finally:
            self.close()

    def close(self) -> None:
        self._closed.set()
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(OSError, AttributeError):  # it ended in this moment by itself
                stream.close()

    # In the thread.

    def _run(self) -> None:
        pause_s = 0.1
        while not self._closed.is_set():
            try:
                client = connect(self._base_url, self._timeout_s)
                with contextlib.closing(client):
                    pause_s = 0.1
                    self._follow(client)
            except DRIVER_ERRORS as error:
                if not self._closed.is_set():
                    log.warning("the engine's event stream broke", extra={"error": str(error), "again_in_s": pause_s})
            self._closed.wait(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _follow(self, client: Client) -> None:
        """Return when the stream ends."""
        self._stream = client.events(
            decode=True,
            filters={"type": "container", "event": ["oom", "die", "destroy"], "label": f"{INSTANCE}={self._instance}"},
        )
        if self._closed.is_set():  # close() came while there was no stream to close
            self._stream.close()
        # Only now, connected: what happens while somebody lists is in the stream.
        self._reported.clear()
        self._out_of_memory.clear()
        self._say(Relist())
        for event in self._stream:
            if self._closed.is_set():
                return
            self._tell(client, event)

    def _tell(self, client: Client, event: dict[str, Any]) -> None:
        attributes = event["Actor"]["Attributes"]
        sandbox_id = SandboxId(attributes.get(SANDBOX, ""))
        match event["Action"]:
            case "oom":
                self._out_of_memory.add(sandbox_id)
            case "die":
                exit_code = int(attributes["exitCode"]) if "exitCode" in attributes else None
                memory = sandbox_id in self._out_of_memory or _ran_out_of_memory(client, event["Actor"]["ID"])
                self._reported.add(sandbox_id)
                self._say(Died(sandbox_id=sandbox_id, exit_code=exit_code, out_of_memory=memory))
            case "destroy":
                if sandbox_id not in self._reported:
                    self._say(Died(sandbox_id=sandbox_id, out_of_memory=sandbox_id in self._out_of_memory))
                self._reported.discard(sandbox_id)
                self._out_of_memory.discard(sandbox_id)

    def _say(self, news: Died | Relist) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._hear, news)

    # In the loop again.

    def _hear(self, news: Died | Relist) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.clear()
            news = Relist()
        self._waiting.append(news)
        self._news.set()


def _ran_out_of_memory(client: Client, container: str) -> bool:
    """The engine's own view, for when its `oom` event comes after the `die` that it caused."""
    try:
        return bool(client.inspect_container(container)["State"]["OOMKilled"])
    except docker.errors.APIError:
        return False  # removed at once
