"""htag 2 beside whichever Starlette is here, by a TestClient."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable

import pytest
from starlette.websockets import WebSocketDisconnect

from htagweb import WebServer, WebServerWS

from .conftest import Write
from .tab import User

Start = Callable[[WebServer], User]
pytestmark = [pytest.mark.parametrize("environment", [2], indirect=True), pytest.mark.timeout(60)]

BASE = r'var _base_path = "(/_/app-\w+/)";'
BUTTON = r'<button[^>]* id="([^"]+)">inc</button>'
HELLO = """
from htag import Tag

class App(Tag.div):
    def init(self):
        self+= "hello world"
"""
APP = """
from htag import Tag

class App(Tag.App):
    def init(self):
        self.n = 0
        self.said = Tag.span(f"param {self.request.query_params.get('p')}")
        self += self.said
        self += Tag.button("inc", _onclick=self.inc)

    def inc(self, event):
        self.n += 1
        self.request.session["n"] = self.n
        self.said.text = f"n is {self.n}"
"""


def test_page_and_socket_work_under_the_apps_own_address(write: Write, user: Start) -> None:
    write("app2.py", APP)
    alice = user(WebServerWS("app2:App"))
    page = alice.get("/?p=world").text
    assert "param world" in page
    found = re.search(BASE, page)
    assert found
    button = re.search(BUTTON, page)
    assert button
    with alice.websocket(f"{found[1]}ws") as socket:
        event = {"id": button[1], "event": "click", "data": {"callback_id": "c1"}}
        socket.send_text(json.dumps(event))
        heard = ""
        while "n is 1" not in heard:
            heard = socket.receive_text()
    assert alice.get(f"{found[1]}logo.png").status_code == 200


def test_with_http_alone_no_socket_is_opened(write: Write, user: Start) -> None:
    write("app2.py", APP)
    alice = user(WebServer("app2:App"))
    page = alice.get("/").text
    base, token = (re.search(pattern, page) for pattern in (BASE, r'HTAG_CSRF\s*=\s*"([^"]+)"'))
    button = re.search(BUTTON, page)
    assert base
    assert token
    assert button
    event = {"id": button[1], "event": "click", "data": {"callback_id": "c1"}, "fallback": True}
    headers = {**alice.headers, "x-htag-token": token[1]}
    answer = alice.client.post(f"{base[1]}event", json=event, headers=headers)
    assert "n is 1" in answer.text


def test_a_process_that_needs_more_than_its_memory_ends_and_that_is_said(write: Write, user: Start) -> None:
    write("app2.py", APP.replace("self.n += 1", "self.n = bytearray(400 * 2**20)"))
    alice = user(WebServerWS("app2:App", memory="300m"))
    page = alice.get("/").text
    base, button = re.search(BASE, page), re.search(BUTTON, page)
    assert base
    assert button
    with alice.websocket(f"{base[1]}ws") as socket:
        socket.send_text(json.dumps({"id": button[1], "event": "click", "data": {"callback_id": "c1"}}))
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                socket.receive_text()
    name = base[1].removeprefix("/_/").strip("/")
    deadline = time.monotonic() + 15
    while (ending := alice.get(f"/-/status?app={name}").json()["ending"]) is None:
        assert time.monotonic() < deadline
    assert ending == "memory"
    assert re.search(BUTTON, alice.get("/").text)  # and opens again


def test_the_first_generations_hello_world_is_shown(write: Write, user: Start) -> None:
    write(
        "hello.py", 'from htag import Tag\n\nclass App(Tag.div):\n    def init(self):\n        self+= "hello world"\n'
    )
    assert "hello world" in user(WebServer("hello:App")).get("/").text
