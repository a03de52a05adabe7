"""An orchestrator in the process next door, as a worker sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from htagweb_gateway.orchestrator_client import OrchestratorClient
from htagweb_orchestrator.errors import OrchestratorUnavailable
from htagweb_orchestrator.model import AppCard, Change

from .fellows import HAS_UNIX, NextDoor
from .source import Source
from .workplace import Options


class Neighbour(OrchestratorClient):
    """Keeps the promise of workplace.Door. Where the process next door is gone, another one is started."""

    def __init__(self, next_door: NextDoor, options: Options) -> None:
        super().__init__(str(next_door.socket_path))
        self.first = False
        self._next_door = next_door
        self._options = options
        self._sources: dict[str, Source] = {}
        self._meeting = asyncio.Lock()

    @property
    def orchestrator(self) -> Neighbour:
        return self

    @property
    def sessions(self) -> Neighbour:
        return self

    @property
    def key_file(self) -> Path:
        return self._next_door.folder / "state" / "cookie.key"

    async def meet(self) -> None:
        try:
            started = await asyncio.to_thread(self._next_door.ensure, self._options)
        except (OSError, RuntimeError) as error:
            raise OrchestratorUnavailable(str(error)) from error
        self.first = self.first or started
        if not HAS_UNIX:
            port, secret = self._next_door.port_and_secret()
            await self._http.aclose()
            self._http = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", headers={"X-Htagweb-Secret": secret}, trust_env=False
            )

    async def warmed(self) -> None:
        pass

    async def _meet_again(self) -> None:
        """One that has just been started knows no app yet."""
        async with self._meeting:
            await self.meet()
            for source in list(self._sources.values()):
                await super()._send("publish", msgspec.to_builtins(source), 0.0)

    async def _send(self, verb: str, asked: dict[str, Any], wait_s: float) -> httpx.Response:
        try:
            return await super()._send(verb, asked, wait_s)
        except OrchestratorUnavailable:  # what ran has ended with it: whoever asks gets a new one
            await self._meet_again()
            return await super()._send(verb, asked, wait_s)

    async def publish(self, source: Source) -> AppCard:
        self._sources[source.name] = source
        return await self._post("publish", msgspec.to_builtins(source), AppCard)

    async def watch(self, gateway: str) -> AsyncGenerator[Change, None]:
        await self._meet_again()
        async for change in super().watch(gateway):
            yield change


@asynccontextmanager
async def met(name: str, options: Options) -> AsyncIterator[Neighbour]:
    neighbour = Neighbour(await asyncio.to_thread(NextDoor, name), options)
    try:
        await neighbour.meet()
        yield neighbour
    finally:
        await neighbour.close()
