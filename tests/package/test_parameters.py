"""Each parameter of a server does what it says, under each of the server's names."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from htagweb import AppServer, Runner, WebServer, WebServerWS
from tests.sites import Sites

from .conftest import Write
from .tab import Tab, User

Start = Callable[[WebServer], User]
pytestmark = pytest.mark.timeout(90)

APP = """
import asyncio
from htag import Tag

class App(Tag.div):
    def init(self, bad=None):
        if bad:
            raise ValueError("ouch")
        self += "hello"
        self += Tag.button("keep", _onclick=self.bind.keep())
        self += Tag.button("wait", _onclick=self.bind.wait())
    def keep(self):
        self.session["big"] = "x" * 2000
    async def wait(self):
        await asyncio.sleep(60)
"""
KINDS = [WebServer, WebServerWS, Runner]
PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def app(write: Write) -> None:
    write("app.py", APP)


def opens_sockets(tab: Tab) -> bool:
    """What the page does, and whether the server goes along."""
    does = "let sockets = true" in tab.page
    try:
        with tab.socket():
            pass
    except WebSocketDisconnect:
        assert not does
    else:
        assert does
    return does


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("http_only", [None, True, False])
def test_pages_open_sockets_unless_http_only(user: Start, kind: Any, http_only: bool | None) -> None:
    tab = user(kind("app:App", http_only=http_only)).open()
    assert opens_sockets(tab) is not (kind is WebServer if http_only is None else http_only)


@pytest.mark.parametrize("kind", [WebServer, WebServerWS])
def test_a_route_may_say_http_only_otherwise(user: Start, kind: Any) -> None:
    server = kind()

    async def other(request: Request) -> Response:
        found: Response = await server.handle(request, "app:App", http_only=kind is WebServerWS)
        return found

    server.add_route("/other", other)
    assert opens_sockets(user(server).open("/other")) is (kind is WebServer)


def sealed(page: str) -> bool:
    assert ("hello" in page) is ("INSTANCE" in page)
    return "hello" not in page


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parano", [True, False])
def test_with_parano_a_page_shows_nothing_of_the_app(user: Start, kind: Any, parano: bool) -> None:
    assert sealed(user(kind("app:App", parano=parano)).get("/").text) is parano


@pytest.mark.parametrize("parano", [True, False])
def test_a_route_may_say_parano_otherwise(user: Start, parano: bool) -> None:
    server = WebServer(parano=not parano)

    async def other(request: Request) -> Response:
        return await server.handle(request, "app:App", parano=parano)

    server.add_route("/other", other)
    assert sealed(user(server).get("/other").text) is parano


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("debug", [True, False])
def test_with_debug_a_page_shows_the_traceback(user: Start, kind: Any, debug: bool) -> None:
    assert ("Traceback" in user(kind("app:App", debug=debug)).get("/?bad=1").text) is debug


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "kept"), [(1000, False), ("3k", True)])
def test_a_session_takes_what_session_size_says(user: Start, kind: Any, size: int | str, kept: bool) -> None:
    server = kind("app:App", session_size=size)

    async def show(request: Request) -> Response:
        return Response(str(len(request.session.get("big", ""))))

    server.add_route("/show", show)
    alice = user(server)
    alice.open().send("keep")
    assert alice.get("/show").text == ("2000" if kept else "0")


def test_timeout_ends_a_process_that_nobody_uses(user: Start) -> None:
    alice = user(WebServer("app:App", 1))
    name = alice.open().base.split("/")[2]
    until(lambda: alice.get(f"/-/status?app={name}").json()["ending"] == "idle")


@pytest.mark.parametrize("kind", [Runner, AppServer])
def test_timeout_inactivity_ends_it_under_the_later_names_too(user: Start, kind: Any) -> None:
    alice = user(kind("app:App", timeout_inactivity=1))
    name = alice.open().base.split("/")[2]
    until(lambda: alice.get(f"/-/status?app={name}").json()["ending"] == "idle")


@pytest.mark.parametrize("kind", KINDS)
def test_timeout_interaction_gives_a_handler_up(user: Start, kind: Any) -> None:
    tab = user(kind("app:App", timeout_interaction=1)).open()
    assert "took too long" in tab.send("wait").text


@pytest.mark.parametrize("wss", [True, False])
def test_wss_changes_nothing_pages_use_the_scheme_that_they_came_by(user: Start, wss: bool) -> None:
    tab = user(WebServerWS("app:App", 0, wss)).open()
    assert opens_sockets(tab)
    assert 'location.protocol === "https:" ? "wss://" : "ws://"' in tab.page


def test_ssl_and_session_factory_change_nothing(user: Start) -> None:
    assert opens_sockets(user(Runner("app:App", ssl=True)).open())
    assert opens_sockets(user(AppServer("app:App", session_factory=dict)).open())


@pytest.mark.parametrize("opens", [True, False])
def test_open_browser_opens_the_servers_address(write: Write, sites: Sites, opens: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = write(
        "server.py", f"from htagweb import Runner\nRunner('app:App', '127.0.0.1', {port}).run(openBrowser={opens})"
    )
    write("browser.py", "import pathlib, sys\npathlib.Path('opened').write_text(sys.argv[1])")
    opened = file.with_name("opened")
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(sites.root / "site-gen1"), *filter(None, sys.path)]),
        "BROWSER": f"{sys.executable} browser.py %s",
    }
    server = subprocess.Popen([sys.executable, file.name], cwd=file.parent, env=environ)
    try:
        until(lambda: serves(f"http://127.0.0.1:{port}/"))
        if opens:
            until(lambda: opened.exists() and opened.read_text() == f"http://127.0.0.1:{port}/")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(PATIENCE_S)
    assert opened.exists() is opens


def serves(url: str) -> bool:
    try:
        return "hello" in httpx.get(url, timeout=PATIENCE_S, trust_env=False).text
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
