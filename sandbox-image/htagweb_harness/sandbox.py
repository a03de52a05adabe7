"""The life of a sandbox: blank, loaded, claimed, ended. Joins the control connection to the app's event loop.

Three threads of control meet here. The control thread calls the methods of `Peer`. The main thread imports the app,
without an event loop, as a script would run; then it runs the loop. All else happens in the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import queue
import secrets
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from .asgi import ASGIApp, page_scope
from .asgi_app import AsgiApp, StartupFailed, check_asgi
from .busy import Busy
from .control import Control
from .failures import Failures, explain
from .frames import PROTOCOL
from .generation1 import Generation1
from .generation2 import Generation2
from .instance1 import App, InitFailed
from .interactions import Interactions
from .loading import MAX_TRACEBACK, Delivery, LoadFailed, import_entry, one_line, prepare, put_secrets
from .parent import OUT_OF_MEMORY, let_go
from .serving import Front
from .session import Session
from .stacks import where
from .standin import Platform, StandIn, install_htagweb

EXIT_S = 1.0  # how long what is under way may take after the app ended itself


class Stage(StrEnum):
    BLANK = "blank"
    LOADED = "loaded"
    CLAIMED = "claimed"
    FAILED = "failed"


class Sandbox:
    """`control` is set right after making; nothing arrives before it is started."""

    control: Control

    def __init__(self, *, generation: int, app_dir: str, secrets_dir: str, sites: list[str]) -> None:
        self.stage = Stage.BLANK
        self.htag_version = ""
        self.new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
        self.broken: LoadFailed | None = None  # the image itself could not be imported
        self.front = Front()
        self._generation = generation
        self._app_dir = app_dir
        self._secrets_dir = secrets_dir
        self._sites = sites
        self._boot = secrets.token_hex(8)
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._delivery: Delivery | None = None
        self._load: dict[str, Any] = {}
        self._load_began = 0.0
        self._importing = False
        self._claim_began = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cls: Any = None
        self._parano: Callable[[ASGIApp, str, str], ASGIApp] | None = None
        self._busy = Busy(self._say_busy)
        self._platform = Platform(self._busy)
        self._interactions = Interactions(self._busy.held_until, lambda at: self.control.look_by(at))
        self._session: Session | None = None
        self._asgi: AsgiApp | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False

    # -- what the control thread calls (control.Peer) --------------------------------------------------------------

    def hello(self) -> dict[str, Any]:
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "generation": self._generation,
            "htag": self.htag_version,
            "python": platform.python_version(),
            "stage": self.stage,
            "version": str(self._load.get("version", "")) if self.stage != Stage.BLANK else "",
        }

    def connected(self) -> None:
        self._busy.repeat()
        if self._interactions.still_overdue():
            self._send({"type": "timeout"})
        if self._session is not None:
            self._in_loop(self._session.reconnected)

    def look(self, now: float) -> float:
        interactions = self._interactions
        for late in interactions.overdue(now):
            stack = where(late.task, self._app_dir) or "  (no line of the app's)\n"
            self.control.note(f"This took longer than {interactions.limit_s:g} s. It was here:\n{stack}")
            self._send({"type": "timeout"})
            self._in_loop(lambda late=late: interactions.cancel(late))  # type: ignore[misc]
        return interactions.next_look(now)

    def received(self, message: dict[str, Any]) -> int:
        kind = message["type"]
        if kind == "load":
            return self._begin_load(message)
        if kind == "claim":
            self._in_loop(lambda: self._task(self._claim(message)), lambda: self._refuse("claim", "no app is loaded"))
        elif kind == "ping":
            pong = {"type": "ping", "n": message.get("n", 0)}
            # While there is no loop yet, the answer says only that the process lives.
            self._in_loop(lambda: self._send(pong), lambda: self._send(pong))
        elif kind == "end":
            grace_s = max(0.0, float(message.get("grace_s", 0)))
            self.control.end_by(time.monotonic() + grace_s)
            self._in_loop(lambda: self._task(self._end(grace_s)), lambda: self.control.end_by(0.0))
        elif kind == "session" and self._session is not None:
            session, changed, deleted = self._session, dict(message.get("set", {})), list(message.get("del", []))
            self._in_loop(lambda: session.changed_elsewhere(changed, deleted))
        elif kind == "profile" and self._session is not None:
            session, profile = self._session, message.get("profile")
            self._in_loop(lambda: self._introduce(session, profile))
        elif kind == "session.ack" and self._session is not None:
            session, seq, error = self._session, int(message["seq"]), message.get("error")
            self._in_loop(lambda: session.acknowledged(seq, error))
        return 0

    def _introduce(self, session: Session, profile: dict[str, Any] | None) -> None:
        """The visitor has signed in meanwhile."""
        self._platform.profile = profile
        session.introduce(profile)

    def file(self, data: bytes) -> None:
        delivery = self._delivery
        assert delivery is not None
        delivery.file(data)
        if delivery.complete:
            self._jobs.put(self._load)

    def _begin_load(self, message: dict[str, Any]) -> int:
        self._delivery = Delivery(self._app_dir, message.get("files", []))
        if self._load:
            self._refuse("load", "an app is loaded already")
            self._delivery.error = "an app is loaded already"
            return self._delivery.count
        self._load, self._load_began = message, time.monotonic()
        self._interactions.limit_s = float(message.get("interaction_timeout_s", 60.0))
        self._busy.budget_s = float(message.get("busy_max_s", 3600.0))
        if self._delivery.complete:
            self._jobs.put(message)
        return self._delivery.count

    def _refuse(self, stage: str, error: str) -> None:
        self._send({"type": "failed", "stage": stage, "error": error, "traceback": ""})

    def _in_loop(self, call: Callable[[], Any], otherwise: Callable[[], Any] | None = None) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed: the process is ending
                self._loop.call_soon_threadsafe(call)
        elif otherwise is not None:
            otherwise()

    def _send(self, message: dict[str, Any]) -> None:
        self.control.send(message)

    def _say_busy(self, message: dict[str, Any]) -> None:
        self._send(message)
        self.control.look_by(time.monotonic() + self._interactions.limit_s)

    # -- the main thread -------------------------------------------------------------------------------------------

    def load(self) -> asyncio.AbstractEventLoop:
        """Wait for an app and import it; returns the loop to serve it in. After a failure it never returns."""
        message = self._jobs.get()
        written = time.monotonic()
        os._exit = self._app_exits  # type: ignore[assignment]
        try:
            if self.broken is not None:
                raise self.broken
            if self._delivery is not None and self._delivery.error:
                raise LoadFailed(self._delivery.error)
            if message.get("parano"):
                self._import_parano()
            # Before the import: code at the module's top level may ask for it.
            loop = self.new_loop()
            asyncio.set_event_loop(loop)
            put_secrets(self._secrets_dir, message.pop("secrets", None) or {})
            self._importing = True
            folder = str(message.get("folder") or "")
            install_htagweb(self._platform, in_place=bool(folder))
            self._app_dir = folder or self._app_dir
            env = {str(k): str(v) for k, v in dict(message.get("env") or {}).items()}
            prepare(self._app_dir, self._sites, env, working_dir=str(message.get("working_dir") or ""))
            self._cls = import_entry(str(message.get("entry", "")), self._app_dir, StandIn.recorded)
            self._importing = False
            self._check_class(str(message.get("entry", "")))
        except LoadFailed as error:
            self._importing = False
            self._fail("load", str(error), error.traceback)
            while True:  # the orchestrator has the word: `end`, or the orphan's end
                self._jobs.get()
        self._session = Session(
            size=int(message.get("session_size", 64 * 1024)), send=self._send, connected=lambda: self.control.greeted
        )
        self.stage = Stage.LOADED
        self._loop = loop
        took_ms = {"write": _ms(self._load_began, written), "import": _ms(written, time.monotonic())}
        self._send({"type": "ready", "stage": "load", "took_ms": took_ms})
        return loop

    def _import_parano(self) -> None:
        """Before the app's folder is on sys.path, and only where it is asked for: it costs 10 MB of memory."""
        if not self._generation:
            raise LoadFailed("parano is for apps of htag only: leave it out for this one")
        try:
            from .parano import Parano
        except ImportError as error:
            raise LoadFailed(f"parano needs the package cryptography, which isn't here: {one_line(error)}") from error
        self._parano = Parano

    def _check_class(self, entry: str) -> None:
        if not self._generation:
            check_asgi(self._cls, entry)
            return
        htag = sys.modules["htag"]
        base = htag.Tag if self._generation == 1 else sys.modules["htag.core"].GTag
        fits = isinstance(self._cls, type) and issubclass(self._cls, base)
        if not fits and not (self._generation == 2 and isinstance(self._cls, base)):
            raise LoadFailed(f"{entry} is no class of htag {self.htag_version}: it must inherit from Tag")

    def _fail(self, stage: str, error: str, trace: str = "") -> None:
        self.stage = Stage.FAILED
        self._send({"type": "failed", "stage": stage, "error": error[:500], "traceback": trace[-MAX_TRACEBACK:]})

    def _app_exits(self, code: int = 0) -> None:
        """In place of os._exit, so that the app's last words arrive."""
        if os.getpid() != self._pid:  # a child that it forked
            _really_exit(code)
        if self._importing:
            self._fail("load", f"the app ended itself while it was imported: os._exit({code!r})")
        elif self.stage == Stage.CLAIMED and code == 0:  # any other code is a crash, and shows as one
            self._send({"type": "exit", "reason": "os._exit(0)"})
        self.control.leave(code)

    _pid = os.getpid()

    # -- the app's event loop ----------------------------------------------------------------------------------------

    def _task(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _claim(self, message: dict[str, Any]) -> None:
        if self._claim_began:
            self._refuse("claim", "the sandbox has its user already")
            return
        self._claim_began = True
        began = time.monotonic()
        session = self._session
        assert session is not None
        self._platform.profile = message.get("profile")
        session.begin(dict(message.get("session") or {}), self._platform.profile)
        failures = Failures(self._app_dir, prints=self._generation == 1, on_memory=self._out_of_memory)
        try:
            query, prefix = str(message.get("query", "")), str(message.get("prefix", ""))
            app = await self._first_page(session, failures, query, prefix)
        except (InitFailed, StartupFailed) as error:
            self._fail("claim", str(error), error.trace)
        except BaseException as error:  # sys.exit in init too
            self._fail("claim", explain(error), failures.trace(error))
        else:
            if self._parano is not None:
                app = self._parano(app, str(self._load.get("app", "app")), str(self._load.get("base") or ""))
            self.front.app = app
            self.stage = Stage.CLAIMED
            session.flush()
            self._send({"type": "ready", "stage": "claim", "took_ms": {"render": _ms(began, time.monotonic())}})
            if self._generation:
                self._task(session.flush_often())

    async def _first_page(self, session: Session, failures: Failures, query: str, prefix: str) -> ASGIApp:
        """Render the app as its visitor will see it: htag answers some failures with a page and status 200. Another
        app's page is its own matter: that one is started."""
        name, dev = str(self._load.get("app", "app")), bool(self._load.get("dev"))
        if not self._generation:
            app0 = self._asgi = AsgiApp(self._cls, name=name)
            await app0.start()
            return app0
        http_only, base = bool(self._load.get("http_only")), str(self._load.get("base") or "")
        if self._generation == 1:
            app = App(
                self._cls,
                name,
                dev,
                session,
                failures,
                self._interactions,
                on_exit=self._app_ends,
                http_only=http_only,
                base=base,
            )
            app1 = Generation1(app, self._boot)
            app1.render(query)
            return app1
        app2 = Generation2(
            self._cls,
            name=name,
            prefix=prefix,
            dev=dev,
            http_only=http_only,
            base=base,
            session=session,
            failures=failures,
            interactions=self._interactions,
        )
        await app2.render_first(page_scope(query))
        return app2

    def _out_of_memory(self) -> None:
        """The app did not deal with an allocation that failed. In a container the kernel ends the process instead, and
        at its claim an app that fails is ended anyhow."""
        if self.stage == Stage.CLAIMED and let_go():
            self.control.leave(OUT_OF_MEMORY)

    def _app_ends(self) -> None:
        """The app called `self.exit()`."""
        if not self._leaving:
            self._leaving = True
            self._in_loop(lambda: self._task(self._exit()))

    async def _exit(self) -> None:
        await self._wind_down(EXIT_S)
        self._send({"type": "exit", "reason": "the app ended itself"})
        self.control.leave(0)

    async def _end(self, grace_s: float) -> None:
        await self._wind_down(grace_s)
        self.control.leave(0)

    async def _wind_down(self, grace_s: float) -> None:
        """Let what is under way come to its end and its reply go out, store the session, close the sockets."""
        session = self._session
        assert session is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await session.idle.wait()
        await session.settle()
        await asyncio.sleep(0.05)  # the last replies are in the hands of tasks of their own, with nothing to wait on
        await self.front.close_sockets()
        if self._asgi is not None:
            await self._asgi.close(grace_s)
        with contextlib.suppress(Exception):
            sys.stdout.flush()


_really_exit = os._exit


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 1)
