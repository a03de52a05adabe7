"""An htag 2 app: one instance, whoever asks, and pages of another one find back."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from tests.harness.apps import COUNTER2
from tests.harness.driver import Harness
from tests.harness.page1 import receive
from tests.harness.page2 import Page

APP = """
from htag import Tag, State

class App(Tag.App):
    made = 0

    def init(self):
        App.made += 1
        print("made", App.made, dict(self.request.query_params), sorted(self.request.session.items()))
        self.mounted = 0
        self.value = State(0)
        self += Tag.output(self.value)
        for name in ("more", "fail", "readonly", "store", "steps"):
            self += Tag.button(name, _onclick=getattr(self, name))

    def on_mount(self):
        self.mounted += 1
        print("mounted", self.mounted)

    def more(self, event):
        self.value.value += 1
        print("counted to", self.value.value)

    def fail(self, event):
        raise RuntimeError("on purpose")

    def readonly(self, event):
        raise OSError(30, "Read-only file system", "/data.txt")

    def store(self, event):
        self.request.session["clicks"] = 1

    def steps(self, event):
        for n in range(3):
            self.value.value = f"step {n}"
            yield
"""


async def opened(harness: Harness, query: str = "", **headers: str) -> Page:
    answer = await harness.http.get("/" + query, headers=headers)
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    return Page(answer.text)


@asynccontextmanager
async def socket_of(harness: Harness) -> AsyncIterator[ClientConnection]:
    """An open socket, after the check and the first state."""
    async with harness.websocket("/ws") as websocket:
        assert "location.reload()" in (await receive(websocket))["js"][0]
        assert (await receive(websocket))["updates"]
        yield websocket


@pytest.fixture
async def app(second: Harness) -> Harness:
    await second.load(APP)
    await second.claim(query="a=1", session={"user": "ann"})
    return second


async def test_a_click_by_websocket_is_answered(app: Harness) -> None:
    page = await opened(app)
    async with socket_of(app) as websocket:
        await websocket.send(json.dumps(page.event("more")))
        frame = await receive(websocket)
    assert frame["callback_id"] == "c1"
    await app.link.said("counted to 1")


async def test_a_click_by_post_is_answered(app: Harness) -> None:
    page = await opened(app)
    assert (await page.post(app, page.event("more")))[-1]["callback_id"] == "c1"


async def test_a_generator_sends_each_step(app: Harness) -> None:
    page = await opened(app)
    async with socket_of(app) as websocket:
        await websocket.send(json.dumps(page.event("steps")))
        steps = [str((await receive(websocket))["updates"]) for _ in range(3)]
    assert [f"step {n}" in step for n, step in enumerate(steps)] == [True] * 3


async def test_there_is_one_instance_whatever_cookie_is_sent(app: Harness) -> None:
    tokens = {(await opened(app)).token for _ in range(3)}
    tokens |= {(await opened(app, cookie=f"a=b; htag_sid=invented{n}; c=d")).token for n in range(3)}
    assert len(tokens) == 1
    await app.link.said("made 1")
    assert "made 2" not in app.link.output


async def test_parameters_and_session_reach_init_at_the_claim(app: Harness) -> None:
    await app.link.said("made 1 {'a': '1'} [('user', 'ann')]")


async def test_the_first_visit_is_no_reload(app: Harness) -> None:
    await opened(app, "?a=1")
    await app.link.said("mounted 1")
    await opened(app, "?a=1")
    await app.link.said("mounted 2")
    assert "mounted 3" not in app.link.output


async def test_a_reload_keeps_the_state(app: Harness) -> None:
    page = await opened(app)
    await page.post(app, page.event("more"))
    assert re.search(r"<output[^>]*>1</output>", (await opened(app)).html)


async def test_n_makes_a_new_instance_and_the_pages_of_the_old_one_find_to_it(app: Harness) -> None:
    old = await opened(app)
    async with socket_of(app) as websocket:
        new = await opened(app, "?n")
        await websocket.wait_closed()
        assert websocket.close_code == 1001
    assert old.token != new.token
    await app.link.said("made 2")
    assert await old.post(app, old.event("more")) == [
        {"action": "update", "updates": {}, "js": ["location.reload()"], "statics": []}
    ]
    assert "counted" not in app.link.output


async def test_a_page_of_another_sandbox_is_told_to_reload_whichever_way_it_asks(app: Harness) -> None:
    token = (await opened(app)).token
    check = f'if(window.HTAG_CSRF&&window.HTAG_CSRF!=="{token}")location.reload()'
    async with app.websocket("/ws") as websocket:
        assert (await receive(websocket))["js"] == [check]
    async with app.http.stream("GET", "/stream") as stream:
        lines = stream.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix("data: "))["js"] == [check]
    answer = await app.http.post("/event", content="{}", headers={"x-htag-token": "old"})
    assert answer.json()["payloads"][0]["js"] == ["location.reload()"]


async def test_an_event_sent_again_is_done_once_and_answered(app: Harness) -> None:
    page = await opened(app)
    event = page.event("more", "same")
    async with socket_of(app) as websocket:
        await websocket.send(json.dumps(event))
        await receive(websocket)
    async with socket_of(app) as websocket:
        await websocket.send(json.dumps(event))
        assert (await receive(websocket))["callback_id"] == "same"
    assert (await page.post(app, event))[0]["callback_id"] == "same"
    await app.link.said("counted to 1")
    assert "counted to 2" not in app.link.output


@pytest.mark.parametrize("dev", [False, True])
async def test_an_exception_leaves_the_app_alive_and_is_told(second: Harness, dev: bool) -> None:
    await second.load(APP, dev=dev)
    await second.claim()
    page = await opened(second)
    async with socket_of(second) as websocket:
        await websocket.send(json.dumps(page.event("fail")))
        frame = await receive(websocket)
        assert frame["action"] == "error"
        assert ("on purpose" in frame["traceback"]) is dev
        await websocket.send(json.dumps(page.event("more")))
        assert (await receive(websocket))["action"] == "update"
    await second.link.said("RuntimeError: on purpose")


async def test_a_write_to_the_read_only_root_is_explained(app: Harness) -> None:
    page = await opened(app)
    async with socket_of(app) as websocket:
        await websocket.send(json.dumps(page.event("readonly")))
        assert "below /tmp" in (await receive(websocket))["traceback"]


async def test_a_change_of_the_session_is_stored_before_the_reply(app: Harness) -> None:
    page = await opened(app)
    async with socket_of(app) as websocket:
        await websocket.send(json.dumps(page.event("store")))
        await receive(websocket)
        stored = [frame["set"] for frame in app.link.heard if frame["type"] == "session"]
    assert stored == [{"clicks": 1}]


async def test_an_htag_1_style_class_is_wrapped(second: Harness) -> None:
    await second.load(
        "from htag import Tag\nclass Hello(Tag.div):\n    def init(self):\n        self += 'hello'\n", "app:Hello"
    )
    await second.claim()
    page = (await opened(second)).html
    assert re.search(r"<body[^>]*><div[^>]*>hello</div>", page)
    assert "<title>Hello</title>" in page


async def test_the_icon_is_found_below_the_apps_prefix(app: Harness) -> None:
    assert '<link rel="icon" href="/toy/logo.png">' in (await opened(app)).html
    assert (await app.http.get("/logo.png")).headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("POST", "/", 405), ("PUT", "/event", 405)]
)
async def test_other_requests_are_refused(app: Harness, method: str, path: str, status: int) -> None:
    assert (await app.http.request(method, path)).status_code == status


async def test_end_closes_open_pages_as_going_away(app: Harness) -> None:
    async with socket_of(app) as websocket:
        app.link.send({"type": "end", "reason": "idle", "grace_s": 5})
        await websocket.wait_closed()
        assert websocket.close_code == 1001
    assert await app.ended() == 0


async def test_the_plain_counter_works(second: Harness) -> None:
    await second.load(COUNTER2)
    await second.claim()
    page = await opened(second)
    await page.post(second, page.event("more"))
    await second.link.said("counted to 1")


async def test_an_app_that_talks_http_only_takes_no_websocket(second: Harness) -> None:
    await second.load(COUNTER2, http_only=True)
    await second.claim()
    page = await opened(second, cookie="htag_mode=http")
    assert "window.WebSocket=class" in page.html
    with pytest.raises(InvalidStatus):
        async with second.websocket("/ws"):
            pass
    assert (await page.post(second, page.event("more")))[0]["updates"]
