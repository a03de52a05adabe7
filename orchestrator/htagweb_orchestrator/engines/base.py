"""What an engine promises: to start, list and remove sandboxes, and to say when one ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..model import Address, SandboxId, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """All that may differ between two sandboxes; the rest is constants of the engine.

    `memory_bytes` is hard and includes tmpfs contents (no swap); `cpus` counts cores, 0.5 is half of one.
    `uid` is this sandbox's own. `directory` is RUN/<id>/s as this process sees it: it exists, and is all that the
    sandbox shares with us. `network` is "" (none) or the name of an existing network.
    """

    sandbox_id: SandboxId
    uid: int
    directory: str
    image: str
    generation: int
    memory_bytes: int = 256 * 1024 * 1024
    cpus: float = 1.0
    pids: int = 64
    tmp_bytes: int = 32 * 1024 * 1024
    app_bytes: int = 16 * 1024 * 1024
    runtime: str = "runc"
    network: str = ""
    data: str = ""  # the name of a folder among the data, whose d/ becomes /data; "" for none
    data_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A sandbox of this instance as the engine knows it. `exit_code` and `out_of_memory` are set once it ended."""

    sandbox_id: SandboxId
    running: bool
    uid: int
    image: str
    exit_code: int | None = None
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A sandbox ended, or was removed behind our back (then `exit_code` may be None)."""

    sandbox_id: SandboxId
    exit_code: int | None = None
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Relist:
    """Events may have been missed (first connection, reconnection): compare with `list_managed` now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    memory_bytes: int
    cpu_s: float
    pids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What an operator should know of his engine. `wrong`: something can't work as it is."""

    subject: str
    found: str
    wrong: bool = False


class Engine(Protocol):
    """Every call has a deadline of its own and raises EngineUnavailable when it passes or the engine refuses."""

    name: str

    async def check(self, images: Sequence[str]) -> str:
        """Ask whether the engine answers, is one we support, and has these images. Returns its name and version.

        Raises EngineUnavailable or ImageNotFound with a sentence that says what to do.
        """
        ...

    async def start(self, spec: SandboxSpec, *, on_step: Callable[[Step], None]) -> None:
        """Create and start a sandbox; returns when its first process runs (its sockets come a little later).

        Raises ImageNotFound, IsolationBroken (what was created is not what was asked for) or EngineUnavailable, having
        removed what was half started.
        """
        ...

    def address(self, spec: SandboxSpec) -> Address:
        """Where the sandbox's HTTP server listens."""
        ...

    def control_address(self, spec: SandboxSpec) -> Address:
        """Where its harness listens for the control protocol."""
        ...

    async def stop(self, sandbox_id: SandboxId) -> None:
        """Kill and remove at once. Removing what is gone is a success."""
        ...

    async def list_managed(self) -> list[Found]:
        """Every sandbox of this instance, running or not, found by label."""
        ...

    def events(self) -> AsyncGenerator[Died | Relist, None]:
        """Ends of sandboxes, from now on; begins with Relist, and repeats it whenever the stream was interrupted."""
        ...

    async def stats(self, sandbox_ids: Sequence[SandboxId]) -> dict[SandboxId, Stats]:
        """Present use of those that run; the others are left out."""
        ...

    async def logs(self, sandbox_id: SandboxId) -> str:
        """What the engine itself knows of a sandbox's start and end (never the app's output, which it doesn't get)."""
        ...

    async def close(self) -> None: ...
