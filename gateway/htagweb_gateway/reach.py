"""Which sandboxes have answered this worker, by the way that visitors' requests take: what "ready" means to a page."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from htagweb_orchestrator.model import SandboxId

from .headers import Forward
from .upstream import Upstream
from .upstream_errors import UpstreamError

log = logging.getLogger(__name__)

DEADLINE_S = 10.0  # for one question
PATIENCE_S = 1.0  # a page's question about its start is answered within this; the sandbox may take longer


class Reach:
    """A harness answers `HEAD /` by itself, once the app has rendered its page, so to ask is no visit. Each sandbox is
    asked until it has given one good answer, and by one question at a time, however many pages want to know."""

    def __init__(self) -> None:
        self._reached: set[SandboxId] = set()
        self._asking: dict[SandboxId, asyncio.Task[None]] = {}

    async def reached(self, sandbox: SandboxId, upstream: Upstream, forward: Forward) -> bool:
        if sandbox in self._reached:
            return True
        asking = self._asking.get(sandbox)
        if asking is None:
            asking = asyncio.create_task(self._ask(sandbox, upstream, forward), name="reach")
            self._asking[sandbox] = asking
        await asyncio.wait({asking}, timeout=PATIENCE_S)
        return sandbox in self._reached

    def forget(self, sandbox: SandboxId) -> None:
        """It has ended."""
        self._reached.discard(sandbox)
        if (asking := self._asking.get(sandbox)) is not None:
            asking.cancel()

    async def close(self) -> None:
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, sandbox: SandboxId, upstream: Upstream, forward: Forward) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
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
