"""Which image each app runs on: the sandbox image, one that is made of it for a set of packages, or the operator's own.

The catalogue asks in each round, from its thread; what is made, found or failed is told from the loop.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from .brings import Brings
from .image_maker import ImageFacts, MadeImage
from .model import Struct
from .requirements import Needs

REMEMBERED = 1000  # sets of requirements


class Progress(StrEnum):
    QUEUED = "queued"
    BUILDING = "building"
    PULLING = "pulling"  # one of the operator's own
    READY = "ready"
    FAILED = "failed"


class Chosen(Struct, frozen=True):
    """`image` may be started from if it is `ready`. Else `problem` says what is wrong, or nothing: then it comes."""

    image: str
    ready: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PackageSet:
    """The packages that some apps share, as an image. `name` is made of all else that decides what is in there."""

    name: str
    base: str
    generation: int
    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    progress: Progress = Progress.QUEUED
    problem: str = ""


@dataclass(slots=True)
class _Known:
    """What the engine has, as far as it was asked."""

    base: ImageFacts | None = None
    made: dict[str, MadeImage] = field(default_factory=dict)
    asked: bool = False


class AppImages:
    def __init__(self, *, instance: str, sandbox_image: str) -> None:
        self._sandbox_image = sandbox_image
        # A repository's name takes less than an instance's.
        self._repository = (re.sub("[^a-z0-9]+", "-", instance.lower()).strip("-") or "htagweb") + "-app"
        self._lock = threading.Lock()
        self._known = _Known()
        self._own: dict[str, str | None] = {}  # the operator's images: what is wrong with each, None while unknown
        self._sets: dict[str, PackageSet] = {}
        self._asked: set[str] = set()
        self._wanted: frozenset[str] = frozenset()
        self._wanted_before: dict[tuple[str, int, Needs], PackageSet | Chosen] = {}

    # -- for the catalogue --------------------------------------------------------------------------------------

    def choose(self, needs: Needs, generation: int, image: str = "") -> Chosen:
        """`image` is what the operator set for the app: then its packages are his business."""
        with self._lock:
            if image:
                self._asked.add(image)
                problem = self._own.setdefault(image, None)
                return Chosen(image=image, ready=problem == "", problem=problem or "")
            if not needs.lines and not needs.python:
                return Chosen(image=self._sandbox_image, ready=True)
            base = self._known.base
            if base is None or not self._known.asked:
                return Chosen(image=self._sandbox_image)
            if base.brings is None:
                return Chosen(
                    image=self._sandbox_image, problem="the sandbox image is of another release: build it anew"
                )
            found = self._wanted_by(needs, generation, base.id, base.brings)
            return self._of_set(found) if isinstance(found, PackageSet) else found

    def _wanted_by(self, needs: Needs, generation: int, base: str, brings: Brings) -> PackageSet | Chosen:
        """The same each time, and asked for in each round."""
        key = base, generation, needs
        if key not in self._wanted_before:
            if len(self._wanted_before) > REMEMBERED:
                self._wanted_before.clear()
            self._wanted_before[key] = self._decide(needs, generation, base, brings)
        return self._wanted_before[key]

    def _decide(self, needs: Needs, generation: int, base: str, brings: Brings) -> PackageSet | Chosen:
        if problem := brings.unfit(needs):
            return Chosen(image=self._sandbox_image, problem=problem)
        if not brings.missing(needs, generation):
            return Chosen(image=self._sandbox_image, ready=True)
        constraints = tuple(brings.constraints(needs, generation))
        what = json.dumps([base, generation, needs.lines, constraints])
        name = f"{self._repository}:{hashlib.sha256(what.encode()).hexdigest()[:16]}"
        return PackageSet(name, base, generation, needs.lines, constraints)

    def _of_set(self, wanted: PackageSet) -> Chosen:
        name = wanted.name
        self._asked.add(name)
        found = self._sets.get(name)
        if found is None:
            progress = Progress.READY if name in self._known.made else Progress.QUEUED
            found = self._sets[name] = replace(wanted, progress=progress)
        elif found.progress is Progress.READY and name not in self._known.made:
            found = self._sets[name] = replace(found, progress=Progress.QUEUED)  # somebody removed it
        return Chosen(image=name, ready=name in self._known.made, problem=found.problem)

    @property
    def base(self) -> str:
        """The sandbox image's id; "" while it isn't known."""
        base = self._known.base
        return base.id if base else ""

    def settle(self) -> None:
        """A round is over: forget what no app wants any more, and what isn't being made."""
        with self._lock:
            for name in [name for name in self._own if name not in self._asked]:
                del self._own[name]
            for name, each in list(self._sets.items()):
                if name not in self._asked and each.progress is not Progress.BUILDING:
                    del self._sets[name]
            self._wanted = frozenset(self._asked)
            self._asked = set()

    # -- for who makes them ---------------------------------------------------------------------------------------

    @property
    def own(self) -> list[str]:
        """The operator's images that apps are to run on."""
        with self._lock:
            return list(self._own)

    def unknown(self) -> list[str]:
        """Those of them that the engine wasn't asked for yet."""
        with self._lock:
            return [name for name, problem in self._own.items() if problem is None]

    def tell(self, base: ImageFacts, made: Iterable[MadeImage], own: Mapping[str, str | None]) -> bool:
        """What the engine has now; True if that is news. Of the operator's images None says that one is coming."""
        with self._lock:
            known = _Known(base, {each.name: each for each in made}, True)
            new = known != self._known or any(self._own.get(name) != problem for name, problem in own.items())
            self._known = known
            self._own |= {name: problem for name, problem in own.items() if name in self._own}
            return new

    def next(self) -> PackageSet | None:
        """The one to make next; the caller makes it, and says how that ended by `done`."""
        with self._lock:
            for name, each in self._sets.items():
                if each.progress is Progress.QUEUED:
                    self._sets[name] = replace(each, progress=Progress.BUILDING, problem="")
                    return each
        return None

    def done(self, name: str, progress: Progress, problem: str = "") -> None:
        with self._lock:
            if name in self._sets:
                self._sets[name] = replace(self._sets[name], progress=progress, problem=problem)

    def retry(self, names: Collection[str] | None = None) -> None:
        """Make these again, there or not; without names those that failed."""
        with self._lock:
            for name, each in self._sets.items():
                failed = each.progress is Progress.FAILED
                if failed if names is None else name in names and each.progress is not Progress.BUILDING:
                    self._sets[name] = replace(each, progress=Progress.QUEUED, problem="")

    def progress(self, name: str) -> Progress | None:
        """None for an image that isn't made here."""
        with self._lock:
            found = self._sets.get(name)
            return found.progress if found else None

    def unwanted(self, used: Collection[str]) -> list[MadeImage]:
        """Made here, and no app's any more; `used` are those that sandboxes run on."""
        with self._lock:
            keep = self._wanted | self._asked | set(used) | set(self._sets)
            return [each for name, each in sorted(self._known.made.items()) if name not in keep]


class OneImage:
    """Where no engine is asked: every app's packages are there."""

    def __init__(self, sandbox_image: str) -> None:
        self._sandbox_image = sandbox_image

    base = "any"

    def choose(self, needs: Needs, generation: int, image: str = "") -> Chosen:
        return Chosen(image=image or self._sandbox_image, ready=True)

    def settle(self) -> None:
        pass
