"""Gets images of the operator's own that the engine lacks from their registry, before a visitor comes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from .errors import OrchestratorError
from .image_maker import ImageMaker, PullFailed
from .quantities import show_size

log = logging.getLogger(__name__)

SAY_S = 10.0  # how often the log hears how far it is
RETRY_S, RETRY_MOST_S = 10.0, 600.0  # after one that failed, twice as long each time


def from_registry(image: str) -> bool:
    """Does its name say which registry it comes from? One without is taken for the operator's own make: on a public
    registry anybody might have an image of that name."""
    host, slash, _ = image.partition("/")
    return bool(slash) and (host == "localhost" or "." in host or ":" in host)


def not_here(image: str) -> str:
    """What is wrong with one that the engine doesn't have; "" where it will be pulled."""
    return "" if from_registry(image) else f"the engine has no image {image}: build it, or pull it"


class Pulls:
    """`news` is called when the engine should be asked what it has now."""

    def __init__(self, *, maker: ImageMaker, news: Callable[[], None], now: Callable[[], float]) -> None:
        self._maker = maker
        self._news = news
        self._now = now
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._why: dict[str, str] = {}

    @property
    def under_way(self) -> set[str]:
        return set(self._under_way)

    def missing(self, image: str) -> str | None:
        """What to say of one that the engine doesn't have: None while it is on its way for the first time."""
        if problem := not_here(image):
            return problem
        if image not in self._under_way and self._now() >= self._not_before.get(image, 0.0):
            self._under_way[image] = asyncio.create_task(self._pull(image), name=f"pull {image}")
        why = self._why.get(image)
        if why is None:
            return None
        return f"the engine has no image {image}, and it could not be pulled: {why.rstrip('.')}. It is tried again."

    def again(self, image: str) -> bool:
        """Try one that failed at once; False if it didn't."""
        return self._not_before.pop(image, None) is not None

    async def _pull(self, image: str) -> None:
        log.info("image is being pulled", extra={"image": image})
        began_s = said_s = time.monotonic()

        def on_progress(done_bytes: int, total_bytes: int) -> None:
            nonlocal said_s
            if time.monotonic() - said_s >= SAY_S:
                said_s = time.monotonic()
                so_far = f"{show_size(done_bytes)} of {show_size(total_bytes)}"
                log.info("image is being pulled", extra={"image": image, "so_far": so_far})

        try:
            await self._maker.pull(image, on_progress)
        except Exception as error:  # whatever it was, the next look would try it again at once
            failures = self._failures[image] = self._failures.get(image, 0) + 1
            pause_s = min(RETRY_S * 2 ** min(failures - 1, 10), RETRY_MOST_S)
            self._not_before[image], self._why[image] = self._now() + pause_s, str(error)
            facts = {"image": image, "again_in_s": pause_s}
            foreseen = isinstance(error, (PullFailed, OrchestratorError))
            log.warning("image not pulled: %s", error, extra=facts, exc_info=not foreseen)
        else:
            for told in (self._failures, self._not_before, self._why):
                told.pop(image, None)
            log.info("image pulled", extra={"image": image, "took_s": round(time.monotonic() - began_s, 1)})
        finally:
            del self._under_way[image]
            self._news()

    async def close(self) -> None:
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
