"""What an app finds inside a sandbox as `htagweb`, and in place of htag's own servers.

A file written for the original (`from htagweb import WebServer`, `WebServer(App).run()` at its end, guarded or not)
works unchanged: here `run` only notes which class to serve. The harness serves it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

# All names under which htagweb (0.1 … 1.0) and htag (0.x … 2.x) offered something with a `run`.
HTAGWEB_SERVERS = ("WebServer", "WebServerWS", "HtagServer", "AppServer", "SimpleServer", "Runner")
HTAG_RUNNERS = (
    "Runner", "BrowserHTTP", "BrowserStarletteHTTP", "BrowserStarletteWS", "BrowserTornadoHTTP", "DevApp", "PyWebView",
    "ChromeApp", "WinApp", "AndroidApp", "WebHTTP", "WebWS", "GuyApp", "PyScript", "MobileApp",
)  # fmt: skip
SESSION_KINDS = ("MemDict", "FileDict", "FilePersistentDict", "ShmDict", "createFile", "createMem", "createShm")


class StandIn:
    """A server that does not serve. Takes any arguments: they chose hosts, ports and windows."""

    recorded: list[Any] = []  # noqa: RUF012  (one for the process, on purpose)

    def __init__(self, obj: Any = None, *args: Any, **kargs: Any) -> None:
        self._obj = obj

    def run(self, *args: Any, **kargs: Any) -> None:
        if self._obj is not None:
            self.recorded.append(self._obj)

    def add_route(self, path: str, *args: Any, **kargs: Any) -> None:
        print(f"htagweb: the route {path!r} is ignored: each app is published under its own name", file=sys.stderr)

    def add_middleware(self, *args: Any, **kargs: Any) -> None:
        print("htagweb: a sandbox serves one app to one user; middleware is ignored", file=sys.stderr)


class Platform:
    """What `htagweb` offers to an app beyond the original. `send` reaches the orchestrator; `profile` is the user's."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self.profile: dict[str, Any] | None = None
        self._send = send
        self._busy: list[tuple[str, float]] = []

    def user(self) -> dict[str, Any] | None:
        """Who uses this app: None for an anonymous visitor."""
        return self.profile

    @contextmanager
    def busy(self, label: str, up_to: str | float = "10m") -> Iterator[None]:
        """Say that work takes long (up to "90s", "10m", "1h", …), so that the sandbox isn't ended meanwhile."""
        work = (str(label)[:200], seconds(up_to))
        self._busy.append(work)
        self._tell()
        try:
            yield
        finally:
            self._busy.remove(work)
            self._tell()

    def _tell(self) -> None:
        label, up_to_s = self._busy[-1] if self._busy else ("", 0.0)
        self._send({"type": "busy", "label": label, "up_to_s": up_to_s})


def seconds(text: str | float) -> float:
    """Raises ValueError for what is no duration."""
    if isinstance(text, (int, float)):
        return float(text)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration: write it as 90s, 10m or 1h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def install_runners() -> None:
    """Before htag is imported: its runners, and the web server, browser and process modules they need, stay out."""
    sys.modules["htag.runners"] = _module("htag.runners", dict.fromkeys(HTAG_RUNNERS, StandIn))


def finish_runners(htag: Any, htag_dir: str) -> None:
    """After htag was imported: `htag.runners.commons` and the like can be had, and `WebApp.run` serves nothing."""
    runners = sys.modules["htag.runners"]
    runners.__path__ = [htag_dir + "/runners"]
    htag.runners = runners
    if hasattr(htag, "WebApp"):
        htag.WebApp.run = lambda self, *args, **kargs: StandIn.recorded.append(self.tag_entity)


def install_htagweb(platform: Platform) -> None:
    names: dict[str, Any] = dict.fromkeys(HTAGWEB_SERVERS, StandIn)
    sessions = _module("htagweb.sessions", dict.fromkeys(SESSION_KINDS, lambda *args, **kargs: {}))
    names.update(user=platform.user, busy=platform.busy, sessions=sessions)
    package = _module("htagweb", names)
    package.__path__ = []
    sys.modules["htagweb"] = package
    sys.modules["htagweb.sessions"] = sessions
    # Where the original's classes lived, release by release.
    for home in ("webbase", "htagserver", "appserver", "server", "runners"):
        sys.modules[f"htagweb.{home}"] = _module(f"htagweb.{home}", names)
        setattr(package, home, sys.modules[f"htagweb.{home}"])


def _module(name: str, names: dict[str, Any]) -> ModuleType:
    module = ModuleType(name, "Stands in for the module of this name inside a sandbox.")
    module.__dict__.update(names)
    return module
