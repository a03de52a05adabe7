"""What takes too long is told to the orchestrator, cancelled where it awaits, and explained to the operator."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.harness.conftest import Boot
from tests.harness.driver import Frame, Harness
from tests.harness.page1 import Page, receive
from tests.harness.page2 import Page as Page2

LIMIT_S = 0.6

APP1 = """
from htag import Tag
import asyncio, time, htagweb

class App(Tag.div):
    def init(self, seconds="0"):
        time.sleep(float(seconds))
        self.said = Tag.output("ready")
        self += self.said
        for name in ("spin", "wait", "steps", "quick", "work", "awork", "outlast", "idle_work"):
            self += Tag.button(name, _onclick=getattr(self.bind, name)())

    def spin(self):
        print("spinning")
        while True:
            pass

    async def wait(self):
        print("waiting")
        try:
            await self.inner()
        finally:
            print("waited in vain")

    async def inner(self):
        await asyncio.Event().wait()

    def steps(self):
        for n in range(4):
            time.sleep(0.3)
            self.said.clear(f"step {n}")
            yield

    def quick(self):
        self.said.clear("quick")

    def work(self):
        with htagweb.busy("a report", up_to="10s"):
            time.sleep(1)
        self.said.clear("worked")

    async def awork(self):
        async with htagweb.busy("a  long\\nreport", up_to=10):
            await asyncio.sleep(1)
        self.said.clear("worked")

    def outlast(self):
        with htagweb.busy("a report", up_to="1s"):
            while True:
                pass

    def idle_work(self):
        self.work_goes_on = htagweb.busy("elsewhere", up_to="1h")
        self.work_goes_on.__enter__()
"""

APP2 = """
from htag import Tag, State
import asyncio, time, htagweb

class App(Tag.App):
    def init(self):
        time.sleep(float(self.request.query_params.get("seconds", "0")))
        self.said = State("ready")
        self += Tag.output(self.said)
        for name in ("spin", "wait", "steps", "quick"):
            self += Tag.button(name, _onclick=getattr(self, name))

    def spin(self, event):
        print("spinning")
        while True:
            pass

    async def wait(self, event):
        print("waiting")
        try:
            await asyncio.Event().wait()
        finally:
            print("waited in vain")

    async def steps(self, event):
        for n in range(4):
            await asyncio.sleep(0.3)
            self.said.value = f"step {n}"
            yield

    def quick(self, event):
        self.said.value = "quick"
"""


async def served(harness: Harness, source: str, *, limit_s: float = LIMIT_S, busy_max_s: float = 3600) -> Harness:
    await harness.load(source, interaction_timeout_s=limit_s, busy_max_s=busy_max_s)
    await harness.claim()
    return harness


async def click(harness: Harness, name: str) -> asyncio.Task[Frame]:
    page = await Page.open(harness)
    return asyncio.create_task(page.click(name))


def told(harness: Harness) -> list[Frame]:
    return [frame for frame in harness.link.heard if frame["type"] == "timeout"]


async def test_a_handler_that_blocks_is_told_with_the_line_where_it_is(first: Harness) -> None:
    clicked = await click(await served(first, APP1), "spin")
    await first.link.said("spinning")
    began = time.monotonic()
    await first.link.frame("timeout")
    assert time.monotonic() - began < LIMIT_S + 0.4
    await first.link.said("in spin")
    assert "longer than 0.6 s." in first.link.output
    clicked.cancel()


async def test_a_handler_that_awaits_is_cancelled_and_its_visitor_told(first: Harness) -> None:
    page = await Page.open(await served(first, APP1))
    assert (await page.click("wait"))["err"] == "This took too long and was given up."
    await first.link.frame("timeout")
    await first.link.said("waited in vain")
    assert "in inner" in first.link.output
    assert (await page.click("quick"))["update"]


async def test_each_interaction_is_told_once(first: Harness) -> None:
    page = await Page.open(await served(first, APP1))
    await page.click("wait")
    await page.click("wait")
    await first.link.ping()
    assert len(told(first)) == 2


async def test_an_orchestrator_that_comes_later_is_told_of_what_still_hangs(first: Harness) -> None:
    clicked = await click(await served(first, APP1), "spin")
    await first.link.frame("timeout")
    newer = await first.connect()
    await newer.hello()
    await newer.frame("timeout")
    clicked.cancel()


async def test_each_step_of_a_generator_has_the_whole_time(first: Harness) -> None:
    await served(first, APP1)
    page = await Page.open(first)
    actions = await page.click("steps")
    while "next" in actions:
        (frame,) = await page.post(page.message(page.call_in(actions["next"])))
        actions = frame["actions"]
    await first.link.ping()
    assert not told(first)


async def test_an_init_that_takes_too_long_is_told_too(first: Harness) -> None:
    await first.load(APP1, interaction_timeout_s=LIMIT_S)
    first.link.send({"type": "claim", "session": {}, "query": "2", "prefix": "/toy", "profile": None})
    await first.link.frame("timeout")
    await first.link.said("in init")


async def test_in_htag_2_a_handler_that_blocks_is_told(second: Harness) -> None:
    await served(second, APP2)
    page = Page2((await second.http.get("/")).text)
    async with second.websocket("/ws") as websocket:
        await websocket.send(json.dumps(page.event("spin")))
        await second.link.frame("timeout")
        await second.link.said("in spin")


@pytest.mark.parametrize("fallback", [False, True], ids=["stream", "http"])
async def test_in_htag_2_without_a_websocket_a_handler_that_awaits_is_cancelled(
    second: Harness, fallback: bool
) -> None:
    await served(second, APP2)
    page = Page2((await second.http.get("/")).text)
    headers = {"X-HTAG-TOKEN": page.token}
    await second.http.post("/event", json={**page.event("wait"), "fallback": fallback}, headers=headers)
    await second.link.frame("timeout")
    await second.link.said("waited in vain")


async def test_in_htag_2_a_handler_that_awaits_is_cancelled_and_its_page_goes_on(second: Harness) -> None:
    await served(second, APP2)
    page = Page2((await second.http.get("/")).text)
    async with second.websocket("/ws") as websocket:
        await websocket.send(json.dumps(page.event("wait")))
        while (frame := await receive(websocket))["action"] != "error":
            pass
        assert frame["traceback"] == "This took too long and was given up."
        await second.link.frame("timeout")
        await websocket.send(json.dumps(page.event("quick")))
        while "quick" not in json.dumps(await receive(websocket)):
            pass


async def test_in_htag_2_each_step_of_a_generator_has_the_whole_time(second: Harness) -> None:
    await served(second, APP2)
    page = Page2((await second.http.get("/")).text)
    async with second.websocket("/ws") as websocket:
        await websocket.send(json.dumps(page.event("steps")))
        while "step 3" not in json.dumps(await receive(websocket)):
            pass
    await second.link.ping()
    assert not told(second)


@pytest.mark.parametrize("name", ["work", "awork"])
async def test_work_that_says_it_takes_long_has_the_time_that_it_said(first: Harness, name: str) -> None:
    clicked = await click(await served(first, APP1), name)
    began = await first.link.frame("busy")
    assert began["label"] in ("a report", "a long report")
    assert 9 < began["up_to_s"] <= 10
    assert "update" in await clicked
    await first.link.frame("busy", up_to_s=0, label="")
    assert not told(first)


async def test_work_that_takes_longer_than_it_said_is_told(first: Harness) -> None:
    clicked = await click(await served(first, APP1), "outlast")
    await first.link.frame("busy")
    began = time.monotonic()
    await first.link.frame("timeout")
    assert 1 + LIMIT_S - 0.2 < time.monotonic() - began < 1 + LIMIT_S + 0.5
    clicked.cancel()


async def test_work_has_no_more_than_the_limit_for_all_of_it(first: Harness) -> None:
    clicked = await click(await served(first, APP1, busy_max_s=0.2), "work")
    await first.link.frame("timeout")
    clicked.cancel()


async def test_an_orchestrator_that_comes_later_is_told_of_work_that_goes_on(first: Harness) -> None:
    page = await Page.open(await served(first, APP1))
    await page.click("idle_work")
    newer = await first.connect()
    await newer.hello()
    assert (await newer.frame("busy"))["label"] == "elsewhere"


@pytest.mark.parametrize("generation", [1, 2])
async def test_an_app_that_is_only_slow_is_left_alone(boot: Boot, generation: int) -> None:
    harness = await boot(generation)
    await served(harness, APP1 if generation == 1 else APP2)
    for _ in range(3):
        query = "?0.3" if generation == 1 else "?n&seconds=0.3"
        assert (await harness.http.get(f"/{query}")).status_code == 200
    await harness.link.ping()
    assert not told(harness)
