"""Which image an app runs on, and how the images that are missing come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from htagweb_orchestrator.app_images import AppImages, Chosen, Progress
from htagweb_orchestrator.brings import Brings
from htagweb_orchestrator.builds import UNUSED_S, Builds
from htagweb_orchestrator.errors import EngineUnavailable, ImageNotFound
from htagweb_orchestrator.image_maker import BuildFailed, ImageFacts, ImageOrder, MadeImage, PullFailed
from htagweb_orchestrator.pulls import RETRY_S, from_registry
from htagweb_orchestrator.requirements import Needs
from htagweb_orchestrator.settings import Settings
from tests.orchestrator.stage import eventually
from tests.wheels import wheel

BRINGS = Brings(
    environment={"python_full_version": "3.13.5", "python_version": "3.13"},
    packages={"starlette": "0.52.1"},
    fixed=("starlette",),
    htag={"1": "1.0.0", "2": "2.0.28"},
)
TINY = Needs(lines=("tiny",))
REMOTE = "registry.example.org/numpy:3"


class Maker:
    """An engine that makes images when told to, and knows what it made."""

    def __init__(self) -> None:
        self.base = "sha256:base"
        self.there: dict[str, MadeImage] = {}
        self.orders: list[ImageOrder] = []
        self.refuses: dict[str, str] = {}
        self.broken: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.pulled: set[str] = set()
        self.pulls = 0
        self.no_pull: Exception | None = None
        self.at_once = self.most_at_once = self.looks = 0

    async def look(self, image: str) -> ImageFacts:
        self.looks += 1
        if self.broken:
            raise self.broken
        if image == "missing" or (from_registry(image) and image not in self.pulled):
            raise ImageNotFound("no such image", image=image)
        return ImageFacts(id=self.base, brings=None if image == "strange" else BRINGS)

    async def make(self, order: ImageOrder, on_log: Callable[[str], None]) -> None:
        self.orders.append(order)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            on_log(f"installing {order.requirements}\n")
            await self.go.wait()
            for line in order.requirements:
                if line in self.refuses:
                    raise BuildFailed(self.refuses[line])
        finally:
            self.at_once -= 1
        self.there[order.name] = MadeImage(name=order.name, id="sha256:x", base=order.base, bytes=10, created="")

    async def pull(self, image: str, on_progress: Callable[[int, int], None]) -> None:
        self.pulls += 1
        on_progress(1, 2)
        await self.go.wait()
        if self.no_pull:
            raise self.no_pull
        self.pulled.add(image)

    async def made(self) -> list[MadeImage]:
        return list(self.there.values())

    async def remove(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.there.pop(name, None)]

    async def tidy(self) -> None: ...

    async def close(self) -> None: ...


class Works:
    """Apps that ask in each round, and who makes what they ask for."""

    def __init__(self, folder: Path) -> None:
        self.maker = Maker()
        self.images = AppImages(instance="My_Instance", sandbox_image="sandbox")
        self.settings = Settings(state_dir=folder, wheels_dir=folder / "wheels", package_index="http://index/")
        self.wanted: dict[str, tuple[Needs, int, str]] = {}
        self.later_s = 0.0
        self.used = {"sandbox"}
        self.builds = Builds(
            maker=self.maker,
            images=self.images,
            settings=self.settings,
            changed=self.scan,
            used=lambda: self.used,
            now=lambda: time.monotonic() + self.later_s,
        )

    async def scan(self) -> None:
        for name in self.wanted:
            self.of(name)
        self.images.settle()

    def of(self, name: str) -> Chosen:
        return self.images.choose(*self.wanted[name])

    async def comes(self, name: str) -> Chosen:
        await eventually(lambda: self.of(name).ready)
        return self.of(name)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def rounds() -> None:
            while True:
                await self.scan()
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(self.builds.run()), asyncio.create_task(rounds())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task


@pytest.fixture
async def works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Works]:
    monkeypatch.setattr("htagweb_orchestrator.builds.ROUND_S", 0.01)
    monkeypatch.setattr("htagweb_orchestrator.builds.RETRY_S", 0.01)
    works = Works(tmp_path)
    async with works.running():
        yield works


async def test_one_image_a_set_one_build_at_a_time(works: Works) -> None:
    works.wanted = {
        "one": (TINY, 1, ""),
        "two": (TINY, 1, ""),
        "other": (Needs(lines=("tiny==2",)), 1, ""),
        "htag2": (TINY, 2, ""),
        "covered": (Needs(lines=("htag<2", "starlette")), 1, ""),
        "plain": (Needs(), 1, ""),
    }
    names = {name: (await works.comes(name)).image for name in works.wanted}
    assert names["plain"] == names["covered"] == "sandbox"
    assert names["one"] == names["two"]
    assert names["one"].startswith("my-instance-app:")
    assert len({*names.values()}) == 4
    assert (len(works.maker.orders), works.maker.most_at_once) == (3, 1)
    assert {order.constraints for order in works.maker.orders} == {
        ("starlette==0.52.1", "htag==1.0.0"),
        ("starlette==0.52.1", "htag==2.0.28"),
    }
    assert "installing ('tiny',)" in works.builds.log_of(names["one"])


async def test_what_cant_be_made_is_said_and_tried_again_for_a_reason_only(works: Works) -> None:
    works.maker.refuses["tiny"] = "There is no tiny."
    works.wanted = {"one": (TINY, 1, ""), "fine": (Needs(lines=("fine",)), 1, "")}
    await eventually(lambda: works.of("one").problem == "There is no tiny.")
    assert (await works.comes("fine")).ready
    count = len(works.maker.orders)
    works.maker.refuses.clear()
    await works.scan()
    assert len(works.maker.orders) == count
    wheel(works.settings.wheels_dir, "tiny", "1.0")
    await works.comes("one")
    assert [path.name for path in works.maker.orders[-1].wheels] == ["tiny-1.0-py3-none-any.whl"]


async def test_an_operator_may_have_one_made_again_while_it_serves(works: Works) -> None:
    works.wanted = {"one": (TINY, 1, "")}
    image = (await works.comes("one")).image
    works.maker.go.clear()
    assert works.builds.again(image)
    await eventually(lambda: works.builds.progress(image) is Progress.BUILDING)
    assert works.of("one").ready
    works.maker.go.set()
    await eventually(lambda: works.builds.progress(image) is Progress.READY)
    assert not works.builds.again("sandbox")


async def test_one_that_was_removed_or_whose_base_changed_is_made_again(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("htagweb_orchestrator.builds.LOOK_S", 0.01)
    works.wanted = {"one": (TINY, 1, "")}
    image = (await works.comes("one")).image
    del works.maker.there[image]
    await eventually(lambda: image in works.maker.there)
    works.maker.base = "sha256:newer"
    await eventually(lambda: works.of("one").image != image)
    newer = (await works.comes("one")).image
    assert [each.name for each in works.builds.unwanted({"sandbox"})] == [image]
    assert works.builds.unwanted({image}) == []
    assert [each.name for each in await works.builds.prune({"sandbox"})] == [image]
    assert set(works.maker.there) == {newer}


async def test_one_that_nobody_uses_for_a_day_is_removed(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("htagweb_orchestrator.builds.LOOK_S", 0.0)

    async def looks() -> None:
        """The engine is looked at from now on, once and once more."""
        seen = works.maker.looks
        await eventually(lambda: works.maker.looks >= seen + 2)

    works.wanted = {"one": (TINY, 1, ""), "two": (Needs(lines=("two",)), 1, "")}
    one, two = [(await works.comes(name)).image for name in ("one", "two")]
    del works.wanted["one"]
    await eventually(lambda: [each.name for each in works.builds.unwanted({"sandbox"})] == [one])
    await looks()
    works.later_s = UNUSED_S - 60
    await looks()
    assert set(works.maker.there) == {one, two}
    works.used = {"sandbox", one}  # a sandbox of an older version
    await looks()
    works.later_s += UNUSED_S
    await looks()
    assert set(works.maker.there) == {one, two}
    works.used = {"sandbox"}
    await looks()
    works.later_s += UNUSED_S - 60
    await looks()
    assert set(works.maker.there) == {one, two}  # the day began anew
    works.later_s += 60
    await eventually(lambda: set(works.maker.there) == {two})
    works.wanted["one"] = (TINY, 1, "")
    assert (await works.comes("one")).image == one


async def test_an_engine_that_doesnt_answer_is_asked_again_and_no_set_fails_for_it(works: Works) -> None:
    works.maker.broken = EngineUnavailable("no engine")
    works.wanted = {"one": (TINY, 1, ""), "mine": (TINY, 1, "mine"), "missing": (TINY, 1, "missing")}
    await eventually(lambda: works.maker.looks > 2)
    assert not any(works.of(name).ready or works.of(name).problem for name in works.wanted)
    works.maker.broken = None
    await works.comes("one")
    assert (await works.comes("mine")).image == "mine"
    await eventually(lambda: works.of("missing").problem == "the engine has no image missing: build it, or pull it")


async def test_an_image_of_a_registry_is_pulled_before_anybody_comes(works: Works) -> None:
    works.maker.go.clear()
    works.wanted = {"app": (TINY, 1, REMOTE)}
    await eventually(lambda: works.builds.progress(REMOTE) is Progress.PULLING, within_s=15)
    assert works.of("app") == Chosen(image=REMOTE)  # it is on its way
    works.maker.go.set()
    assert (await works.comes("app")).image == REMOTE
    assert works.maker.pulls == 1


@pytest.mark.parametrize("error", [PullFailed("manifest unknown"), KeyError("manifest unknown")])
async def test_a_pull_that_fails_is_told_and_tried_again_after_a_while_or_when_somebody_says_so(
    works: Works, error: Exception
) -> None:
    works.maker.no_pull = error
    works.wanted = {"app": (TINY, 1, REMOTE)}
    await eventually(lambda: "manifest unknown" in works.of("app").problem, within_s=15)
    works.wanted["other"] = (TINY, 1, "mine")  # the engine is asked again
    await works.comes("other")
    assert works.maker.pulls == 1
    works.later_s += RETRY_S
    await eventually(lambda: works.maker.pulls == 2, within_s=15)
    await eventually(lambda: works.builds.progress(REMOTE) is None, within_s=15)
    works.maker.no_pull = None
    assert works.builds.again(REMOTE)
    await works.comes("app")


@pytest.mark.parametrize("image", ["our-numpy:3", "team/numpy:3", "numpy@sha256:c0ffee"])
def test_a_name_without_a_registry_is_nobody_elses(image: str) -> None:
    assert not from_registry(image)


@pytest.mark.parametrize(
    "image", ["registry.example.org/numpy:3", "localhost/numpy", "docker.io/team/numpy", "r:5000/n"]
)
def test_a_name_with_a_registry_can_be_pulled(image: str) -> None:
    assert from_registry(image)


async def test_what_nobody_wants_any_more_isnt_made(works: Works) -> None:
    works.maker.go.clear()
    works.wanted = {"first": (Needs(lines=("first",)), 1, ""), "second": (TINY, 1, "")}
    await eventually(lambda: works.maker.orders)
    works.wanted = {"last": (Needs(lines=("last",)), 1, "")}
    await works.scan()
    await works.scan()
    works.maker.go.set()
    await works.comes("last")
    assert [order.requirements for order in works.maker.orders] == [("first",), ("last",)]


def test_requirements_for_another_python_are_refused_without_a_build() -> None:
    images = AppImages(instance="x", sandbox_image="sandbox")
    assert not images.choose(Needs(python=">=4"), 1).problem  # nothing is known yet
    images.tell(ImageFacts(id="sha256:base", brings=BRINGS), [], {})
    assert images.choose(Needs(python=">=4"), 1).problem == "it needs Python >=4; sandboxes have 3.13.5"
    images.tell(ImageFacts(id="sha256:old", brings=None), [], {})
    assert "another release" in images.choose(TINY, 1).problem
