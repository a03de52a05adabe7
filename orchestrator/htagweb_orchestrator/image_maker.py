"""What an engine promises about images: to look at one, to make one of another and some packages, and to clear up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .brings import Brings


class BuildFailed(Exception):
    """The packages can't be installed. `str()` is a sentence for the operator and for the app's author."""


class PullFailed(Exception):
    """`str()` is what the registry or the engine said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """An image as it is now. `brings` is None for one that wasn't made from our sandbox image."""

    id: str
    brings: Brings | None
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOrder:
    """What is to be made: `name`, from the image with the id `base`. `requirements` are lines for pip.

    `index_url` is "default" for pip's own, "" for none: then `wheels` is all there is. It may hold a password, so it
    stays out of everything that is kept. `network` is "" for none.
    """

    name: str
    base: str
    generation: int
    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    wheels: tuple[Path, ...] = ()
    index_url: str = ""
    network: str = ""
    timeout_s: float = 600.0
    most_bytes: int = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeImage:
    """One that was made here earlier. `bytes` is what it has beyond its base."""

    name: str
    id: str
    base: str
    bytes: int
    created: str


class ImageMaker(Protocol):
    """Every call has a deadline, and raises EngineUnavailable when it passes or the engine refuses."""

    async def look(self, image: str) -> ImageFacts:
        """Raises ImageNotFound."""
        ...

    async def make(self, order: ImageOrder, on_log: Callable[[str], None]) -> None:
        """Make an image; replaces one of that name. `on_log` gets the whole log so far, bounded, again and again.

        What it took is removed, however it ends. Raises BuildFailed or ImageNotFound (the base went away).
        """
        ...

    async def pull(self, image: str, on_progress: Callable[[int, int], None]) -> None:
        """Get it from its registry. `on_progress` gets the bytes that are there and those that it takes, as far as is
        known, again and again and from any thread. Raises PullFailed."""
        ...

    async def made(self) -> list[MadeImage]:
        """Those of this instance, found by label."""
        ...

    async def remove(self, names: Sequence[str]) -> list[str]:
        """Remove what no container uses; returns what is gone then. Removing what is gone is a success."""
        ...

    async def tidy(self) -> None:
        """Remove what an orchestrator that was killed left of a build."""
        ...

    async def close(self) -> None: ...
