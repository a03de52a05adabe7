"""What an app finds inside a sandbox as `htagweb`, and in place of htag's own servers.

A file written for the original (`from htagweb import WebServer`, `WebServer(App).run()` at its end, guarded or not)
works unchanged: here `run` only notes which class to serve. The harness serves it.
"""

from __future__ import annotations

import copy
import sys
from types import ModuleType
from typing import Any

from .busy import Busy, Work

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


class Silent(StandIn):
    """Of a server whose own process serves the routes: what the file says about them is its business, not ours."""

    def add_route(self, path: str, *args: Any, **kargs: Any) -> None:
        pass

    def add_middleware(self, *args: Any, **kargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # `app.mount(…)`, or a decorator such as `@app.route("/x")`, which hands its function back.
        return lambda *args, **kargs: lambda function=None: function


class Platform:
    """What `htagweb` offers to an app beyond the original. `profile` is the user's."""

    def __init__(self, busy: Busy) -> None:
        self.profile: dict[str, Any] | None = None
        self._busy = busy

    def user(self) -> dict[str, Any] | None:
        """Who uses this app: `id`, `name`, `email`, `groups`; None for an anonymous visitor. Yours to keep."""
        return copy.deepcopy(self.profile)

    def busy(self, label: str, up_to: str | float = "10m") -> Work:
        """For `with` or `async with`: work that takes long (up to "90s", "10m", "1h", …), so that the sandbox isn't
        ended meanwhile."""
        return self._busy.work(label, up_to)


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


def install_htagweb(platform: Platform, *, in_place: bool = False) -> None:
    """With `in_place` the app's file is the very one that runs as a server in another process."""
    names: dict[str, Any] = dict.fromkeys(HTAGWEB_SERVERS, Silent if in_place else StandIn)
    if in_place:
        for module in ("uvicorn", "uvicorn.main"):
            sys.modules[module].run = lambda *args, **kargs: None  # type: ignore[attr-defined]
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
