"""An htag 1 app: the page, its messages both ways, and what a broken connection may not do."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.harness.apps import COUNTER1
from tests.harness.driver import Harness
from tests.harness.page1 import Page, receive

APP = """
import asyncio, os
from htag import Tag

class App(Tag.div):
    def init(self, *args, **named):
        self += Tag.p(f"init {args} {named}")
        self.shown = Tag.output("ready")
        self += self.shown
        for name in ("fail", "slow", "steps", "push", "readonly", "quit", "die", "cancelled"):
            self += Tag.button(name, _onclick=getattr(self.bind, name)())

    def fail(self):
        raise RuntimeError("on purpose")

    async def slow(self):
        print("slow begins")
        await asyncio.sleep(0.3)
        self.shown.clear("slow done")

    def steps(self):
        for n in range(3):
            self.shown.clear(f"step {n}")
            yield

    def push(self):
        self.task = asyncio.create_task(self.pushing())

    async def pushing(self):
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        for n in range(3):
            self.shown.clear(f"push {n}")
            print("taken", await self.shown.update())

    def readonly(self):
        raise OSError(30, "Read-only file system", "/data.txt")

    def quit(self):
        raise SystemExit(0)

    def die(self):
        print("dying")
        os._exit(3)

    def cancelled(self):
        raise asyncio.CancelledError
"""


@pytest.fixture
async def app(first: Harness) -> Harness:
    await first.load(APP)
    await first.claim()
    return first


@pytest.fixture
async def counter(first: Harness) -> Harness:
    await first.load(COUNTER1)
    await first.claim()
    return first


def shown(html: str) -> str:
    found = re.search(r"<output[^>]*>(.*?)</output>", html)
    assert found
    return found[1]


async def value(harness: Harness, query: str = "") -> str:
    return shown((await harness.http.get("/" + query)).text)


async def test_a_click_by_websocket_is_answered(counter: Harness) -> None:
    page = await Page.open(counter)
    async with counter.websocket("/_ws" + page.path) as websocket:
        await websocket.send(page.text(page.call_of("more")))
        frame = await receive(websocket)
    assert (frame["s"], frame["done"]) == (1, 1)
    assert [shown(html) for html in frame["actions"]["update"].values()] == ["1"]
    await counter.link.said("counted to 1")


async def test_a_click_by_post_is_answered(counter: Harness) -> None:
    page = await Page.open(counter)
    assert [shown(html) for html in (await page.click("more"))["update"].values()] == ["1"]


async def test_two_tabs_show_one_state(counter: Harness) -> None:
    one, two = await Page.open(counter, name="one"), await Page.open(counter, name="two")
    await one.click("more")
    assert [shown(html) for html in (await two.click("more"))["update"].values()] == ["2"]


async def test_a_reload_keeps_the_state_and_new_parameters_start_anew(counter: Harness) -> None:
    page = await Page.open(counter)
    await page.click("more")
    assert await value(counter) == "1"
    assert await value(counter, "?7") == "7"
    assert await value(counter, "?7") == "7"
    assert await value(counter) == "0"


@pytest.mark.parametrize(
    ("query", "init"),
    [
        ("", "() {}"),
        ("a&b", "(&#x27;a&#x27;, &#x27;b&#x27;) {}"),
        ("k=v&k=w", "() {&#x27;k&#x27;: &#x27;w&#x27;}"),
        ("k=", "() {&#x27;k&#x27;: None}"),
        ("a%20b&k=%C3%A9", "(&#x27;a b&#x27;,) {&#x27;k&#x27;: &#x27;é&#x27;}"),
    ],
)
async def test_parameters_reach_init_as_htag_documents(app: Harness, query: str, init: str) -> None:
    page = (await app.http.get(f"/?{query}")).text
    assert f"init {init.replace('&#x27;', chr(39))}" in page


async def test_the_claims_parameters_make_the_first_instance(first: Harness) -> None:
    await first.load(COUNTER1)
    await first.claim(query="41")
    page = await Page.open(first, "?41")
    assert page.instance.endswith(".1")
    assert shown(page.html) == "41"


async def test_a_generator_is_driven_step_by_step(app: Harness) -> None:
    page = await Page.open(app)
    actions = await page.click("steps")
    steps = []
    while "next" in actions:
        steps += [shown(html) for html in actions["update"].values()]
        actions = (await page.post(page.message(page.call_in(actions["next"]))))[-1]["actions"]
    assert steps == ["step 0", "step 1", "step 2"]


async def test_a_push_reaches_every_open_page(app: Harness) -> None:
    (app.app_dir / "go").touch()
    one, two = await Page.open(app, name="one"), await Page.open(app, name="two")
    async with app.websocket("/_ws" + one.path) as first_socket, app.websocket("/_ws" + two.path) as second_socket:
        await first_socket.send(one.text(one.call_of("push")))
        for websocket in (first_socket, second_socket):
            pushed: list[str] = []
            while len(pushed) < 3:
                frame = await receive(websocket)
                pushed += [shown(html) for html in frame["actions"].get("update", {}).values() if "push" in html]
            assert pushed == ["push 0", "push 1", "push 2"]
    await app.link.said("taken True")


async def test_pushes_arrive_by_the_event_stream_too(app: Harness) -> None:
    (app.app_dir / "go").touch()
    page = await Page.open(app)
    async with app.http.stream("GET", "/_stream" + page.path) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        lines = stream.aiter_lines()
        assert await anext(lines) == ":"
        await page.click("push")
        pushed: list[str] = []
        async for line in lines:
            if line.startswith("data: ") and "push" in line:
                pushed += [shown(html) for html in json.loads(line[6:])["actions"]["update"].values()]
            if len(pushed) == 3:
                break
    assert pushed == ["push 0", "push 1", "push 2"]


async def test_a_push_that_nobody_takes_is_false_and_the_page_is_shown_the_state_later(app: Harness) -> None:
    page = await Page.open(app)
    await page.click("push")
    (app.app_dir / "go").touch()
    await app.link.said("taken False\ntaken False")
    frames = await page.post(page.message(page.call_of("fail")))
    assert any("push 2" in html for frame in frames for html in frame["actions"].get("update", {}).values())


async def test_a_message_sent_again_is_done_once_and_its_reply_is_sent_again(counter: Harness) -> None:
    page = await Page.open(counter)
    path, message = page.path, page.text(page.call_of("more"))
    async with counter.websocket("/_ws" + path) as websocket:
        await websocket.send(message)
        reply = await receive(websocket)
    # The page never saw that reply: it asks again, by another connection and then by POST.
    async with counter.websocket("/_ws" + path) as websocket:
        assert await receive(websocket) == reply
        await websocket.send(message)
    frames = await page.post(json.loads(message))
    assert frames == [reply]
    assert await value(counter) == "1"


async def test_a_message_under_way_when_its_connection_breaks_is_answered_on_the_next(app: Harness) -> None:
    page = await Page.open(app)
    message = page.text(page.call_of("slow"))
    async with app.websocket("/_ws" + page.path) as websocket:
        await websocket.send(message)
        await app.link.said("slow begins")
        websocket.transport.abort()
    async with app.websocket("/_ws" + page.path) as websocket:
        await websocket.send(message)
        frame = await receive(websocket)
    assert [shown(html) for html in frame["actions"]["update"].values()] == ["slow done"]
    assert app.link.output.count("slow begins") == 1


async def test_pushes_during_a_short_loss_arrive_after_it(app: Harness) -> None:
    page = await Page.open(app)
    async with app.websocket("/_ws" + page.path) as websocket:
        await websocket.send(page.text(page.call_of("slow")))
        page.take(await receive(websocket))
        websocket.transport.abort()
    await Page.click(await Page.open(app, name="other"), "push")
    (app.app_dir / "go").touch()
    await app.link.said("taken True\ntaken True\ntaken True")
    async with app.websocket("/_ws" + page.path) as websocket:
        frames = [await receive(websocket) for _ in range(3)]
    pushed = [shown(html) for frame in frames for html in frame["actions"]["update"].values()]
    assert pushed == ["push 0", "push 1", "push 2"]


async def test_messages_of_one_page_are_treated_in_order(counter: Harness) -> None:
    page = await Page.open(counter)
    async with counter.websocket("/_ws" + page.path) as websocket:
        for _ in range(200):
            await websocket.send(page.text(page.call_of("more")))
        done = [(await receive(websocket))["done"] for _ in range(200)]
    assert done == list(range(1, 201))
    assert await value(counter) == "200"


@pytest.mark.parametrize("dev", [False, True])
async def test_an_exception_leaves_the_app_alive_and_is_told(first: Harness, dev: bool) -> None:
    await first.load(APP, dev=dev)
    await first.claim()
    page = await Page.open(first)
    said = (await page.click("fail"))["err"]
    assert "on purpose" in said
    assert ("Traceback" in said) is dev
    await first.link.said("RuntimeError: on purpose")
    assert "app.py" in first.link.output
    assert (await page.click("slow"))["update"]


async def test_a_write_to_the_read_only_root_is_explained(app: Harness) -> None:
    page = await Page.open(app)
    assert "below /tmp" in (await page.click("readonly"))["err"]
    assert "below /tmp" not in (await page.click("fail"))["err"]


async def test_a_cancelled_handler_is_answered(app: Harness) -> None:
    assert "err" in await (await Page.open(app)).click("cancelled")


async def test_sys_exit_in_a_handler_ends_the_app(app: Harness) -> None:
    await (await Page.open(app)).click("quit")
    await app.link.frame("exit")
    assert await app.ended() == 0


async def test_os_exit_in_a_handler_ends_the_process_at_once_but_not_before_its_output(app: Harness) -> None:
    page = await Page.open(app)
    with pytest.raises(httpx.RemoteProtocolError):
        await page.click("die")
    assert await app.ended() == 3
    await app.link.said("dying")
    assert not [frame for frame in app.link.heard if frame["type"] == "exit"]


async def test_a_page_of_another_sandbox_is_told_to_reload(counter: Harness) -> None:
    page = await Page.open(counter)
    page.instance = "0123456789abcdef.1"
    async with counter.websocket("/_ws" + page.path) as websocket:
        assert await receive(websocket) == {"reload": True}
    assert await page.post(page.message(page.call_of("more"))) == [{"reload": True}]
    answer = await counter.http.get("/_stream" + page.path)
    assert 'data: {"reload": true}' in answer.text
    assert await value(counter) == "0"


async def test_a_page_with_other_parameters_reloads_only_when_it_is_used(counter: Harness) -> None:
    old = await Page.open(counter, "?1", name="old")
    async with counter.websocket("/_ws" + old.path) as open_before:
        await Page.open(counter, "?2", name="new")
        async with counter.websocket("/_ws" + old.path) as opened_after:
            for websocket in (open_before, opened_after):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await websocket.recv()
                await websocket.send(old.text(old.call_of("more")))
                assert await receive(websocket) == {"reload": True}
    assert await value(counter, "?2") == "2"


async def test_an_init_that_fails_with_new_parameters_leaves_the_old_instance(counter: Harness) -> None:
    page = await Page.open(counter)
    answer = await counter.http.get("/?abc")
    assert answer.status_code == 500
    assert "invalid literal" in answer.text
    assert "Traceback" not in answer.text
    assert (await page.click("more"))["update"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/favicon.ico", 404),
        ("POST", "/", 405),
        ("DELETE", "/", 405),
        ("GET", "/_post", 405),
        ("GET", "/_stream?got=x", 400),
        ("GET", "/_ws", 404),
    ],
)
async def test_other_requests_get_short_answers(counter: Harness, method: str, path: str, status: int) -> None:
    answer = await counter.http.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"instance": 1}', b"\xff"])
async def test_a_post_that_is_no_message_is_refused(counter: Harness, body: bytes) -> None:
    answer = await counter.http.post("/_post", content=body)
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert answer.json() == {"reload": True}


async def test_a_frame_that_is_no_message_closes_the_socket(counter: Harness) -> None:
    page = await Page.open(counter)
    async with counter.websocket("/_ws" + page.path) as websocket:
        await websocket.send("nonsense")
        await websocket.wait_closed()
        assert websocket.close_code == 1007


async def test_the_server_says_nothing_of_itself(counter: Harness) -> None:
    assert "server" not in (await counter.http.get("/")).headers


async def test_a_message_of_16_mebibytes_is_taken(counter: Harness) -> None:
    page = await Page.open(counter)
    o = {**page.call_of("more"), "event": {"x": "y" * (16 * 1024 * 1024)}}
    async with counter.websocket("/_ws" + page.path) as websocket:
        await websocket.send(page.text(o))
        assert (await receive(websocket))["done"] == 1


async def test_many_reloads_are_forgotten_again(counter: Harness) -> None:
    for n in range(40):
        page = await Page.open(counter, name=f"page {n}")
        await page.click("more")
    assert await value(counter) == "40"


async def test_an_app_that_talks_http_only_takes_no_websocket(first: Harness) -> None:
    await first.load(COUNTER1, http_only=True)
    await first.claim()
    page = await Page.open(first)
    with pytest.raises(InvalidStatus):
        async with first.websocket("/_ws" + page.path):
            pass
