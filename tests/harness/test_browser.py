"""The pages of both generations in a real Chromium, with the platform's own script in them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.chromium import CHROMIUM, chromium, press, tab
from tests.harness.apps import COUNTER1, COUNTER2
from tests.harness.conftest import Boot, booting
from tests.harness.driver import Harness
from tests.harness.test_asgi import APP as ASGI
from tests.harness.test_generation1 import APP as APP1
from tests.harness.test_generation2 import APP as APP2
from tests.harness.way_in import WayIn
from tests.sites import Sites

# One browser for all tests of a module, so one event loop as well.
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    # A name that isn't localhost, and so no secure context over plain http.
    async with chromium("--host-resolver-rules=MAP plain.test 127.0.0.1") as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    async with tab(browser) as page:
        yield page


@pytest_asyncio.fixture(loop_scope="module")
async def boot(sites: Sites) -> AsyncIterator[Boot]:
    async with booting(sites) as boot:
        yield boot


async def served(boot: Boot, generation: int, source: str, **load: Any) -> Harness:
    harness = await boot(generation)
    await harness.load(source, **load)
    await harness.claim()
    return harness


@pytest_asyncio.fixture(loop_scope="module")
async def ways() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def way_to(harness: Harness, ways: AsyncExitStack, *, websockets: bool = True) -> WayIn:
    way = WayIn(harness)
    way.websockets = websockets
    await way.open()
    ways.push_async_callback(way.break_down)
    return way


@pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "no websocket"])
@pytest.mark.parametrize(("generation", "source"), [(1, COUNTER1), (2, COUNTER2)], ids=["htag 1", "htag 2"])
async def test_a_click_is_answered(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> None:
    way = await way_to(await served(boot, generation, source), ways, websockets=websockets)
    await page.goto(way.url)
    for n in (1, 2):
        await press(page, "more")
        await expect(page.locator("output")).to_have_text(str(n))
    await page.reload()
    await expect(page.locator("output")).to_have_text("2")
    assert way.handshakes >= 1


@pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "no websocket"])
async def test_a_push_arrives_by_itself(boot: Boot, ways: AsyncExitStack, page: Page, websockets: bool) -> None:
    harness = await served(boot, 1, APP1)
    way = await way_to(harness, ways, websockets=websockets)
    await page.goto(way.url)
    await press(page, "push")
    (harness.app_dir / "go").touch()
    await expect(page.locator("output")).to_have_text("push 2")


async def test_clicks_during_a_breakdown_are_done_once_and_without_a_reload(
    boot: Boot, ways: AsyncExitStack, page: Page
) -> None:
    harness = await served(boot, 1, COUNTER1)
    way = await way_to(harness, ways)
    await page.goto(way.url)
    await page.evaluate("window.stayed = true")
    await press(page, "more")
    await way.break_down()
    await press(page, "more")
    await press(page, "more")
    await way.open()
    await expect(page.locator("output")).to_have_text("3")
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("4")
    await harness.link.said("counted to 4")
    assert harness.link.output.count("counted to") == 4
    assert await page.evaluate("window.stayed")


async def test_a_click_whose_answer_was_lost_is_answered_after_the_breakdown(
    boot: Boot, ways: AsyncExitStack, page: Page
) -> None:
    harness = await served(boot, 1, APP1)
    way = await way_to(harness, ways)
    await page.goto(way.url)
    await press(page, "slow")
    await harness.link.said("slow begins")
    await way.break_down()
    await way.open()
    await expect(page.locator("output")).to_have_text("slow done")
    assert harness.link.output.count("slow begins") == 1


@pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "no websocket"])
@pytest.mark.parametrize(("generation", "source"), [(1, COUNTER1), (2, COUNTER2)], ids=["htag 1", "htag 2"])
async def test_a_page_of_an_earlier_sandbox_loads_the_new_one(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> None:
    way = await way_to(await served(boot, generation, source), ways, websockets=websockets)
    await page.goto(way.url)
    for n in (1, 2):
        await press(page, "more")
        await expect(page.locator("output")).to_have_text(str(n))
    await way.break_down()
    way.to = await served(boot, generation, source)
    await way.open()
    await press(page, "more")  # of the old page, or already of the new one
    await expect(page.locator("output")).to_have_text(re.compile("^[01]$"))


async def test_an_exception_is_shown_in_the_page(boot: Boot, ways: AsyncExitStack, page: Page) -> None:
    way = await way_to(await served(boot, 1, APP1), ways)
    await page.goto(way.url)
    await press(page, "fail")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("Something went wrong in this app: on purpose")
    await alert.get_by_role("button", name="Close").click()
    await expect(alert).to_have_count(0)
    await press(page, "slow")
    await expect(page.locator("output")).to_have_text("slow done")


@pytest.mark.parametrize(("generation", "source"), [(1, APP1), (2, APP2)], ids=["htag 1", "htag 2"])
async def test_a_generators_steps_end_with_the_last(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str
) -> None:
    way = await way_to(await served(boot, generation, source), ways)
    await page.goto(way.url)
    await press(page, "steps")
    await expect(page.locator("output")).to_have_text("step 2")


BOTH = pytest.mark.parametrize(("generation", "source"), [(1, COUNTER1), (2, COUNTER2)], ids=["htag 1", "htag 2"])
EITHER_WAY = pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "no websocket"])


async def at_work(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> tuple[Harness, WayIn]:
    """A page that has been used once, and so has found its way."""
    harness = await served(boot, generation, source)
    way = await way_to(harness, ways, websockets=websockets)
    await page.goto(way.url)
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("1")
    await page.evaluate("window.stayed = true")
    return harness, way


@EITHER_WAY
@BOTH
async def test_a_click_that_was_lost_on_its_way_is_sent_again(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> None:
    harness, way = await at_work(boot, ways, page, generation, source, websockets)
    way.deaf = True
    await press(page, "more")
    await way.break_down()
    way.deaf = False
    await way.open()
    await expect(page.locator("output")).to_have_text("2")
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("3")
    await harness.link.said("counted to 3")
    assert harness.link.output.count("counted to") == 3
    assert await page.evaluate("window.stayed")


@EITHER_WAY
@BOTH
async def test_a_click_whose_answer_was_lost_is_done_once(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> None:
    harness, way = await at_work(boot, ways, page, generation, source, websockets)
    way.mute = True
    await press(page, "more")
    await harness.link.said("counted to 2")
    await way.break_down()
    way.mute = False
    await way.open()
    await expect(page.locator("output")).to_have_text("2")
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("3")
    await harness.link.said("counted to 3")
    assert harness.link.output.count("counted to") == 3
    assert await page.evaluate("window.stayed")


@EITHER_WAY
@BOTH
async def test_a_page_says_that_its_connection_is_lost_and_when_it_is_back(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> None:
    _, way = await at_work(boot, ways, page, generation, source, websockets)
    await way.break_down()
    await press(page, "more")  # htag 2 without any connection notices only then
    bar = page.locator(".bar")
    await expect(bar).to_contain_text("The connection is lost. Trying again")
    await way.open()
    await expect(bar).to_be_hidden()
    await expect(page.locator("output")).to_have_text("2")


@EITHER_WAY
@BOTH
async def test_a_page_says_why_its_app_ended(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> None:
    _, way = await at_work(boot, ways, page, generation, source, websockets)
    way.status = {"state": "ended", "ending": "timeout", "title": "This app took too long", "action": "Start again"}
    await way.break_down()
    await way.open()
    await page.get_by_role("button", name="more", exact=True).dispatch_event("click")  # the dialog may cover it already
    await expect(page.get_by_role("dialog", name="This app took too long")).to_be_visible()


@EITHER_WAY
async def test_a_page_of_htag_1_warns_before_the_end(
    boot: Boot, ways: AsyncExitStack, page: Page, websockets: bool
) -> None:
    harness = await served(boot, 1, COUNTER1)
    way = await way_to(harness, ways, websockets=websockets)
    way.status = {"left_s": 9}
    await page.goto(way.url)
    await expect(page.locator(".bar")).to_contain_text("Still there? Unused, this app ends in")
    way.status = {}
    await press(page, "more")
    await expect(page.locator(".bar")).to_be_hidden()


async def test_a_page_of_no_htag_tells_of_the_end_and_keeps_its_own_sockets(
    boot: Boot, ways: AsyncExitStack, page: Page
) -> None:
    harness = await boot(0)
    await harness.load(ASGI, "app:app")
    await harness.claim()
    way = await way_to(harness, ways)
    await page.goto(way.url)
    talk = """() => new Promise((done) => {
        const socket = new WebSocket("echo");
        socket.onopen = () => socket.send("hi");
        socket.onclose = ({ code }) => done(code);
    })"""
    assert await page.evaluate(talk) == 1012  # of htag's it would be mended, and nobody hears of it
    way.status = {"state": "ended", "title": "This app was closed", "text": "It was idle.", "action": "Start again"}
    assert await page.evaluate(talk) == 1012  # and has the page ask what is the matter
    await expect(page.get_by_role("heading", name="This app was closed")).to_be_visible()


@pytest.mark.parametrize(("generation", "source"), [(1, APP1), (2, COUNTER2)], ids=["htag 1", "htag 2"])
async def test_a_page_that_talks_http_only_tries_no_websocket(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str
) -> None:
    harness = await served(boot, generation, source, http_only=True)
    way = await way_to(harness, ways)
    await page.goto(way.url)
    await press(page, "slow" if generation == 1 else "more")
    await expect(page.locator("output")).to_have_text("slow done" if generation == 1 else "1")
    if generation == 1:  # what the app shows by itself comes too
        await press(page, "push")
        (harness.app_dir / "go").touch()
        await expect(page.locator("output")).to_have_text("push 2")
    assert way.handshakes == 0


async def test_a_page_of_htag_1_that_talks_http_only_finds_its_events_again(
    boot: Boot, ways: AsyncExitStack, page: Page
) -> None:
    harness = await served(boot, 1, APP1, http_only=True)
    way = await way_to(harness, ways)
    await page.goto(way.url)
    await press(page, "push")
    await way.break_down()
    await way.open()
    (harness.app_dir / "go").touch()
    await expect(page.locator("output")).to_have_text("push 2")
    assert way.handshakes == 0
