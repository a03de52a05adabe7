"""Which sandboxes have answered this worker, by the way that visitors' requests take: what "ready" means to a page."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from htagweb_orchestrator.model import SandboxId

from .headers import Forward
from .upstream import Upstream
from .upstream_errors import UpstreamError

log = logging.getLogger(__name__)

DEADLINE_S = 10.0  # for one question, and for all: then the app's own address tells its visitor what is wrong
PATIENCE_S = 1.0  # a page's question about its start is answered within this; the sandbox may take longer


class Reach:
    """A harness answers `HEAD /` by itself, once the app has rendered its page, so to ask is no visit. Each sandbox is
    asked until it has given one good answer, and by one question at a time, however many pages want to know.

    One that gives none for `deadline_s` counts as reached: nobody is kept on a waiting page by an app that is deaf."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._first_asked: dict[SandboxId, float] = {}
        self._reached: set[SandboxId] = set()
        self._asking: dict[SandboxId, asyncio.Task[None]] = {}

    async def reached(self, sandbox: SandboxId, upstream: Upstream, forward: Forward) -> bool:
        if sandbox in self._reached:
            return True
        asking, now = self._asking.get(sandbox), time.monotonic()
        if now - self._first_asked.setdefault(sandbox, now) > self._deadline_s:
            log.warning("sandbox is opened though it was not reached", extra={"sandbox": sandbox})
            self._reached.add(sandbox)
            return True
        if asking is None:
            asking = asyncio.create_task(self._ask(sandbox, upstream, forward), name="reach")
            self._asking[sandbox] = asking
        await asyncio.wait({asking}, timeout=PATIENCE_S)
        return sandbox in self._reached

    def forget(self, sandbox: SandboxId) -> None:
        """It has ended."""
        self._reached.discard(sandbox)
        self._first_asked.pop(sandbox, None)
        if (asking := self._asking.get(sandbox)) is not None:
            asking.cancel()

    async def close(self) -> None:
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, sandbox: SandboxId, upstream: Upstream, forward: Forward) -> None:
        try:
            async with asyncio.timeout(self._deadline_s):
                status = await _head(upstream, forward)
            if 200 <= status < 300:
                self._reached.add(sandbox)
            else:
                log.info("sandbox is not reached: it answered %d", status, extra={"sandbox": sandbox})
        except (UpstreamError, TimeoutError) as error:
            log.info("sandbox is not reached: %r", error, extra={"sandbox": sandbox})
        finally:
            self._asking.pop(sandbox, None)


async def _head(upstream: Upstream, forward: Forward) -> int:
    """The status that `HEAD /` is answered with."""
    status = 0

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    async def receive() -> Any:  # nobody leaves who could break it off
        await asyncio.Event().wait()

    scope = {"type": "http", "http_version": "1.1", "method": "HEAD", "headers": []}
    await upstream.http(scope, receive, send, forward)
    return status
