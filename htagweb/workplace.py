"""Where a server works: a folder of its own, a gateway in this process, and an orchestrator here or next door."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from .source import Source

if TYPE_CHECKING:
    from htagweb_gateway.embedded import EmbeddedGateway
    from htagweb_orchestrator.api import Orchestrator
    from htagweb_orchestrator.model import AppCard

READY_S = 15.0
MEMORY = "2g"  # of one user's process: a limit against accidents, as there is none between users
LEAST_MEMORY = 64 * 1024**2  # htag and what serves it have half of that


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says about all of its apps. A limit of 0 is none."""

    idle_timeout_s: float = 0.0
    interaction_timeout_s: float = 60.0
    debug: bool = False
    session_size: int = 64 * 1024
    body_size: int = 0
    memory_bytes: int = 0


class HeadStart:
    """The first user's process, begun before all else: it boots while we import what its platform is made of."""

    def __init__(self, generation: int, options: Options) -> None:
        from htagweb_orchestrator import composition

        self.folder = Path(tempfile.mkdtemp(prefix="htagweb-"))
        self.engine = composition.process_engine(self.folder / "run")
        self.engine.begin(generation, options.memory_bytes)

    def abandon(self) -> None:
        """However far it came: nothing is left."""
        self.engine.abandon()
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions(Protocol):
    async def session(self, user: Any, app: Any) -> dict[str, Any]: ...
    async def patch_session(self, user: Any, app: Any, changed: Mapping[str, Any], deleted: Sequence[str]) -> None: ...


class Door(Protocol):
    """The way to an orchestrator, wherever it is."""

    first: bool  # it began with us

    @property
    def orchestrator(self) -> Orchestrator: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def key_file(self) -> Path: ...
    async def publish(self, source: Source) -> AppCard: ...
    async def warmed(self) -> None: ...


class Workplace:
    def __init__(self, door: Door, gateway: EmbeddedGateway) -> None:
        self.gateway = gateway
        self.first = door.first
        self._door = door
        self._published: dict[str, AppCard] = {}

    async def publish(self, source: Source) -> AppCard:
        card = self._published.get(source.name)
        if card is None:
            card = self._published[source.name] = await self._door.publish(source)
        return card

    async def session(self, user: str) -> dict[str, Any]:
        return await self._door.sessions.session(user, "")

    async def patch_session(self, user: str, changed: Mapping[str, Any], deleted: Sequence[str]) -> None:
        await self._door.sessions.patch_session(user, "", changed, deleted)


@contextlib.asynccontextmanager
async def entered(
    ordinal: int, options: Options, sources: Sequence[Source], head_start: HeadStart | None = None
) -> AsyncIterator[Workplace]:
    """Open a workplace, or enter that of our fellow workers, and leave it at the end. `ordinal` tells the servers of
    one program apart."""
    async with _door(ordinal, options, sources, head_start) as door:
        await asyncio.sleep(0.01)  # the first process is on its way: it boots while we import
        from htagweb_gateway.embedded import EmbeddedGateway
        from htagweb_gateway.identity import Identity, signing_key

        gateway = EmbeddedGateway(orchestrator=door.orchestrator, identity=Identity(signing_key(door.key_file)))
        workplace = Workplace(door, gateway)
        for source in sources:
            await workplace.publish(source)
        async with gateway.running():
            async with asyncio.timeout(READY_S):
                while not (gateway.routes.filled and gateway.watching):  # noqa: ASYNC110  the watch is the gateway's own
                    await asyncio.sleep(0.005)
            await door.warmed()
            yield workplace


@contextlib.asynccontextmanager
async def _door(
    ordinal: int, options: Options, sources: Sequence[Source], head_start: HeadStart | None
) -> AsyncIterator[Door]:
    from .fellows import fellowship

    name = fellowship(ordinal)
    if name:
        from .neighbour import met

        async with met(name, options) as neighbour:
            yield neighbour
        return
    from .own_platform import opened

    folder = head_start.folder if head_start else Path(tempfile.mkdtemp(prefix="htagweb-"))
    try:
        async with opened(folder, options, sources, head_start) as platform:
            yield platform
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
