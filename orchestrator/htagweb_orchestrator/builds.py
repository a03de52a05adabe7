"""Makes the images that apps want, one at a time, in the background. What there is, the engine knows by labels."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from .app_images import AppImages, PackageSet, Progress
from .errors import ImageNotFound, OrchestratorError
from .image_maker import BuildFailed, ImageMaker, ImageOrder, MadeImage
from .pulls import Pulls, not_here
from .settings import Settings
from .tally import Tally
from .wheels import Wheels

log = logging.getLogger(__name__)

ROUND_S = 1.0
LOOK_S = 10.0  # how often the engine is asked what images it has, without a reason
RETRY_S, RETRY_MOST_S = 2.0, 60.0  # after an engine that didn't answer, or refused
MAX_LOGS = 200
UNUSED_S = 24 * 3600.0  # how long an image is kept that nobody uses: an app may come back


class Builds:
    """`changed` is awaited after each piece of news, so that apps needn't wait for the next round of the catalogue.
    `used` tells which images sandboxes run on, and will."""

    def __init__(
        self,
        *,
        maker: ImageMaker,
        images: AppImages,
        settings: Settings,
        changed: Callable[[], Awaitable[None]],
        used: Callable[[], Collection[str]],
        now: Callable[[], float] = time.monotonic,
        tally: Tally | None = None,
    ) -> None:
        self._maker = maker
        self._images = images
        self._settings = settings
        self._changed = changed
        self._used = used
        self._now = now
        self._tally = tally or Tally()
        self._wheels = Wheels(settings.wheels_dir)
        self._logs = settings.state_dir / "builds"
        self._look_at = 0.0
        self._pulls = Pulls(maker=maker, news=self._look_soon, now=now)
        self._wheels_state: int | None = None
        self._unused: dict[str, float] = {}  # since when; a new orchestrator begins anew

    async def run(self) -> None:
        """For ever. An engine that doesn't answer is asked again."""
        try:
            await self._rounds()
        finally:
            await self._pulls.close()

    async def _rounds(self) -> None:
        failures = 0
        while True:
            try:
                await self._maker.tidy()
                while True:
                    await self._round()
                    failures = 0
                    await asyncio.sleep(ROUND_S)
            except OrchestratorError as error:
                log.warning("images can't be looked after: %s", error, extra={"reason": error.reason})
            except Exception:
                log.exception("a round of making images failed")
            # A disk that is full, say, makes each try cost as much as a build that goes well.
            await asyncio.sleep(min(RETRY_S * 2**failures, RETRY_MOST_S))
            failures += 1

    async def _round(self) -> None:
        state = await asyncio.to_thread(self._wheels.state)
        if state != self._wheels_state:
            self._wheels_state = state
            self._images.retry()
        if self._now() >= self._look_at or set(self._images.unknown()) - self._pulls.under_way:
            await self._look()
            await self._retire()
        while (wanted := self._images.next()) is not None:
            await self._make(wanted)

    async def _look(self) -> None:
        base = await self._maker.look(self._settings.sandbox_image)
        self._look_at = self._now() + LOOK_S  # and sooner, if a pull ends meanwhile
        try:
            own = {name: await problem_of(self._maker, name, self._pulls.missing) for name in self._images.own}
            news = self._images.tell(base, await self._maker.made(), own)
        except OrchestratorError:
            self._look_soon()
            raise
        if news:
            await self._changed()

    def _look_soon(self) -> None:
        self._look_at = 0.0

    async def _retire(self) -> None:
        """Remove what nobody has used for UNUSED_S."""
        now = self._now()
        self._unused = {each.name: self._unused.get(each.name, now) for each in self.unwanted(self._used())}
        if names := [name for name, since in self._unused.items() if now - since >= UNUSED_S]:
            for name in names:
                del self._unused[name]  # one that some container holds on to is tried again after as long
            for name in await self._maker.remove(names):
                log.info("image removed", extra={"image": name, "why": "unused"})
            self._look_at = 0.0

    async def _make(self, wanted: PackageSet) -> None:
        began = time.monotonic()
        facts = {"image": wanted.name, "requirements": len(wanted.requirements)}
        log.info("image is being made", extra=facts)
        await self._changed()
        try:
            await self._maker.make(await asyncio.to_thread(self._order, wanted), lambda text: self._write(wanted, text))
            await self._look()  # what isn't known to be there can't be ready
        except BuildFailed as error:
            self._images.done(wanted.name, Progress.FAILED, str(error))
            self._tally.built("failed")
            log.warning("image was not made: %s", error, extra=facts)
        except BaseException:
            self._images.done(wanted.name, Progress.QUEUED)
            raise
        else:
            self._images.done(wanted.name, Progress.READY)
            self._tally.built("made")
            log.info("image made", extra={**facts, "took_s": round(time.monotonic() - began, 1)})
        await self._changed()

    def _order(self, wanted: PackageSet) -> ImageOrder:
        settings = self._settings
        return ImageOrder(
            name=wanted.name,
            base=wanted.base,
            generation=wanted.generation,
            requirements=wanted.requirements,
            constraints=wanted.constraints,
            wheels=self._wheels.of(wanted.requirements),
            index_url=settings.package_index,
            network=settings.build_network if settings.package_index and settings.build_network != "none" else "",
            timeout_s=settings.build_timeout_s,
        )

    # -- logs -------------------------------------------------------------------------------------------------------

    def log_of(self, image: str) -> str:
        """What pip said when this image was made, or wasn't; "" if that isn't known."""
        try:
            return self._log(image).read_text(errors="replace")
        except OSError:
            return ""

    def _write(self, wanted: PackageSet, text: str) -> None:
        try:
            self._logs.mkdir(mode=0o700, exist_ok=True)
            self._log(wanted.name).write_text("".join(f"{line}\n" for line in wanted.requirements) + "\n" + text)
            logs = sorted(self._logs.iterdir(), key=os.path.getmtime)
            for old in logs[:-MAX_LOGS]:
                old.unlink()
        except OSError as error:
            log.warning("a build's log can't be written: %s", error)

    def _log(self, image: str) -> Path:
        return self._logs / f"{image.rpartition(':')[2]}.log"

    def progress(self, image: str) -> Progress | None:
        return Progress.PULLING if image in self._pulls.under_way else self._images.progress(image)

    # -- for operators ----------------------------------------------------------------------------------------------

    def again(self, image: str) -> bool:
        """Have this image made or pulled once more; False if it isn't one that is made here, or could not be."""
        if self._pulls.again(image):
            self._look_soon()
            return True
        if self._images.progress(image) is None:
            return False
        self._images.retry([image])
        return True

    def unwanted(self, used: Collection[str]) -> list[MadeImage]:
        return self._images.unwanted(used)

    async def prune(self, used: Collection[str]) -> list[MadeImage]:
        """Remove what no app and no sandbox uses; returns what is gone."""
        unwanted = self.unwanted(used)
        gone = set(await self._maker.remove([each.name for each in unwanted]))
        self._look_at = 0.0
        return [each for each in unwanted if each.name in gone]


async def problem_of(maker: ImageMaker, image: str, missing: Callable[[str], str | None] = not_here) -> str | None:
    """What keeps an image of the operator's own from being used; "" if nothing does. `missing` has the word on one that
    isn't there; without it, one that will be pulled is no problem."""
    try:
        facts = await maker.look(image)
    except ImageNotFound:
        return missing(image)
    if facts.brings is None:
        return f"the image {image} was not made from the sandbox image, or from another release of it"
    if facts.volumes:
        return f"the image {image} declares a volume ({', '.join(facts.volumes)}), which no sandbox may have"
    return ""
