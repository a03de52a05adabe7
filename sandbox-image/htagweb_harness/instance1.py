"""One instance of an htag 1 app: its tree of tags, driven through htag's HRenderer, and the pages that show it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from .failures import Failures, explain, forbidden
from .interactions import TOO_LONG, Interactions
from .page_link import PageLink
from .pages import FILES_HINT
from .session import Session

CLIENT = Path(__file__).with_name("client1.js").read_text()
MAX_PAGES = 32  # remembered per instance: tabs, and the traces of reloads

Init = tuple[tuple[str, ...], dict[str, str | None]]


class InitFailed(Exception):
    """The app's init raised. `trace` is its traceback."""

    def __init__(self, error: str, trace: str) -> None:
        super().__init__(error)
        self.trace = trace


def url2ak(query: str) -> Init:
    """How htag hands a query to `init`: `?a&b` as positional, `k=v` as keyword, `k=` as None; the last `k` wins."""
    args: list[str] = []
    kargs: dict[str, str | None] = {}
    for item in filter(None, query.split("&")):
        name, equals, value = item.partition("=")
        if not equals:
            args += parse_qs("x=" + item)["x"]
        elif not value:
            kargs[name] = None
        else:
            kargs.update((key, values[0]) for key, values in parse_qs(item).items())
    return tuple(args), kargs


@dataclass(frozen=True, slots=True)
class App:
    """What every instance of this sandbox's app shares."""

    cls: type
    name: str
    dev: bool
    session: Session
    failures: Failures
    interactions: Interactions
    on_exit: Callable[[], None]  # the app called `self.exit()`
    http_only: bool
    base: str = ""  # where its own addresses begin, "" for where its page is


class Instance:
    """Raises InitFailed. `id` is in each of its pages, and in all that they send."""

    def __init__(self, app: App, id: str, init: Init) -> None:
        self.id = id
        self.pages: dict[str, PageLink] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._app = app
        self._lock = asyncio.Lock()  # replies share htag's list of scripts, so interactions go one by one
        renderer = importlib.import_module("htag.render").HRenderer
        app.failures.take()
        script = CLIENT.replace("<<instance>>", self.id).replace("<<sockets>>", json.dumps(not app.http_only))
        script = script.replace("<<base>>", json.dumps(app.base))
        self.hr = renderer(app.cls, script, app.on_exit, init, app.dev, session=app.session.data)
        if not isinstance(self.hr.tag, app.cls):  # htag put a tag with the error's text in its place
            error = app.failures.take()
            trace = app.failures.trace(error) if error else ""
            raise InitFailed(explain(error) if error else self.hr.tag.innerHTML, trace)
        self.hr.sendactions = self._push

    def page(self, name: str) -> PageLink:
        if name not in self.pages:
            while len(self.pages) >= MAX_PAGES:
                away = [known for known, page in self.pages.items() if not page.connected] or list(self.pages)
                del self.pages[min(away, key=lambda known: self.pages[known].used_at)]
            self.pages[name] = PageLink()
        return self.pages[name]

    def take(self, page: PageLink, message: dict[str, Any]) -> None:
        """Begin what the message asks for, once: one that was sent again is known by its number."""
        n = int(message["n"])
        page.received(int(message["got"]))
        if n <= page.accepted:
            return
        page.accepted = n
        task = asyncio.create_task(self._interact(page, n, dict(message["o"])))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def frames(self, page: PageLink, got: int) -> list[tuple[int, str]]:
        """What the page has not got yet."""
        if page.missed_something(got):
            page.show_all(self.hr._mkReponse([self.hr.tag]))
        return page.after(got)

    async def _interact(self, page: PageLink, n: int, o: dict[str, Any]) -> None:
        async with self._lock:
            with self._app.session.interaction():
                actions = await self._call(o)
                await self._app.session.settle()
                page.reply(n, actions)

    async def _call(self, o: dict[str, Any]) -> dict[str, Any]:
        self._app.failures.take()
        interaction = None
        try:
            # A generator's next step has null for args and kargs: htag wants them passed as they are.
            call = (o["id"], o["method"], o["args"], o["kargs"], o.get("event"))
            async with self._app.interactions.cancellable() as interaction:
                actions: dict[str, Any] = await self.hr.interact(*call)
        except SystemExit:
            self._app.on_exit()
            return {}
        except BaseException as error:  # whatever it is, the page waits for its answer
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            return {"err": TOO_LONG if interaction is not None and interaction.overran else explain(error)}
        if "err" in actions and forbidden(self._app.failures.take()):
            actions["err"] += "\n" + FILES_HINT
        with contextlib.suppress(Exception):  # the app may have put anything in its place
            sys.stdout.flush()
        return actions

    async def _push(self, actions: dict[str, Any]) -> bool:
        return any([page.push(actions) for page in self.pages.values()])
