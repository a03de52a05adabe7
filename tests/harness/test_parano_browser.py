"""Parano mode in a real Chromium, with what goes over the wire looked at."""

from __future__ import annotations

import asyncio
import base64
import re
from contextlib import AsyncExitStack, nullcontext
from importlib import resources

import pytest
from playwright.async_api import Browser, Page, Route, WebSocketRoute, expect

from tests.chromium import CHROMIUM, DRAWN, press, tab
from tests.harness.apps import COUNTER1, COUNTER2
from tests.harness.conftest import Boot
from tests.harness.driver import DEADLINE_S, Harness
from tests.harness.test_browser import boot, browser, page, served, way_to, ways
from tests.harness.way_in import WayIn

__all__ = ["boot", "browser", "page", "ways"]  # fixtures

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]

# Words that tell an app's page, what is typed into it and what it answers. None of them is in the script.
TYPED, ANSWERED, SHOWN = "swordfish", "you-said", "parlour"
ECHO1 = f"""
from htag import Tag

class App(Tag.div):
    statics = [Tag.script("window.fired = []; document.write('<meta name=written>');"
        "for (const [on, what] of [[document, 'DOMContentLoaded'], [window, 'load']])"
        " on.addEventListener(what, () => fired.push(what + ' ' + document.readyState))")]

    def init(self):
        self.said = Tag.output()
        self += [Tag.h1("{SHOWN}"), Tag.input(_onchange=self.bind.said_so(b"this.value")), self.said]

    def said_so(self, text):
        self.said.clear("{ANSWERED} " + text[::-1])
"""
ECHO2 = f"""
from htag import State, Tag

class App(Tag.App):
    statics = [Tag.script("window.fired = []; document.write('<meta name=written>');"
        "for (const [on, what] of [[document, 'DOMContentLoaded'], [window, 'load']])"
        " on.addEventListener(what, () => fired.push(what + ' ' + document.readyState))")]

    def init(self):
        self.said = State("")
        self += [Tag.h1("{SHOWN}"), Tag.input(_onchange=self.said_so), Tag.output(self.said)]

    def said_so(self, event):
        self.said.value = "{ANSWERED} " + event.value[::-1]
"""
AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
BOTH = pytest.mark.parametrize(("generation", "source"), [(1, COUNTER1), (2, COUNTER2)], ids=["htag 1", "htag 2"])
EITHER_WAY = pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "no websocket"])


async def sealed(boot: Boot, ways: AsyncExitStack, generation: int, source: str, **load: object) -> WayIn:
    return await way_to(await served(boot, generation, source, **{"parano": True, **load}), ways)


def readable(way: WayIn) -> bytes:
    """The wire, and what a listener gets by undoing base64."""
    wire = bytes(way.wire)
    return wire + b"".join(base64.b64decode(found[1]) for found in re.finditer(rb"data: ([\w+/=]+)\n", wire))


async def drawn(page: Page, url: str) -> None:
    """Open the page, and wait until nothing is put in place of what is typed into."""
    await page.goto(url)
    await expect(page.get_by_role("heading", name=SHOWN)).to_be_visible()
    await page.wait_for_function(DRAWN)


# generation, source, what the page talks over
WAYS_TO_TALK = [
    pytest.param(1, ECHO1, "ws", id="htag 1, websocket"),
    pytest.param(1, ECHO1, "post", id="htag 1, post"),
    pytest.param(1, ECHO1, "http_only", id="htag 1, http only"),
    pytest.param(2, ECHO2, "ws", id="htag 2, websocket"),
    pytest.param(2, ECHO2, "sse", id="htag 2, event stream"),
    pytest.param(2, ECHO2, "http", id="htag 2, http"),
    pytest.param(2, ECHO2, "http_only", id="htag 2, http only"),
]


@pytest.mark.parametrize(("generation", "source", "talk"), WAYS_TO_TALK)
async def test_nothing_that_is_shown_or_typed_is_on_the_wire(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, talk: str
) -> None:
    way = await sealed(boot, ways, generation, source, http_only=talk == "http_only")
    way.websockets = talk != "post"
    if talk in ("sse", "http"):
        await page.context.add_cookies([{"name": "htag_mode", "value": talk, "url": way.url}])
    # Not the page of the claim, which was made when nobody knew of a cookie.
    await drawn(page, f"{way.url}?a")
    for word in (TYPED, TYPED[::-1]):
        await page.locator("input").fill(word)
        await page.locator("input").press("Tab")
        await expect(page.locator("output")).to_have_text(f"{ANSWERED} {word[::-1]}")
    assert way.handshakes == (talk == "ws") or talk == "post"
    for word in (SHOWN, TYPED, TYPED[::-1], ANSWERED, "<output", "said_so", "callback_id", "INSTANCE ="):
        assert word.encode() not in readable(way), word


@pytest.mark.parametrize(("generation", "source"), [(1, ECHO1), (2, ECHO2)], ids=["htag 1", "htag 2"])
async def test_without_parano_all_of_it_is(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str
) -> None:
    """So that the test above looks where there is something to be seen."""
    way = await sealed(boot, ways, generation, source, parano=False)
    await drawn(page, way.url)
    await page.locator("input").fill(TYPED)
    await page.locator("input").press("Tab")
    await expect(page.locator("output")).to_have_text(f"{ANSWERED} {TYPED[::-1]}")
    for word in (SHOWN, TYPED, TYPED[::-1], ANSWERED):
        assert word.encode() in readable(way), word


@pytest.mark.parametrize(("generation", "source"), [(1, ECHO1), (2, ECHO2)], ids=["htag 1", "htag 2"])
async def test_a_page_loads_as_any_page_does(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str
) -> None:
    way = await sealed(boot, ways, generation, source)
    await page.goto(f"{way.url}?a=b#there")
    await page.wait_for_function("window.fired?.length === 2")
    assert await page.evaluate("fired") == ["DOMContentLoaded interactive", "load complete"]
    assert await page.locator("meta[name=written]").count() == 1
    assert page.url == f"{way.url}?a=b#there"
    assert await page.evaluate("document.compatMode") == "CSS1Compat"
    assert await page.evaluate("WebSocket.OPEN + EventSource.CLOSED") == 3


async def test_no_key_can_be_taken_out_of_the_page(boot: Boot, ways: AsyncExitStack, page: Page) -> None:
    way = await sealed(boot, ways, 2, COUNTER2)
    await page.add_init_script("""
        window.keys = [];
        for (const make of ["generateKey", "deriveKey", "importKey"]) {
            const real = SubtleCrypto.prototype[make];
            SubtleCrypto.prototype[make] = async function (...args) {
                const made = await real.apply(this, args);
                keys.push(made.privateKey ?? made);
                return made;
            };
        }""")
    await page.goto(way.url)
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("1")
    secret = "keys.filter((key) => key.type !== 'public')"
    assert await page.evaluate(f"{secret}.map((key) => key.extractable)") == [False] * 4
    await page.evaluate("window.keys = null")
    found = await page.evaluate(
        "Object.getOwnPropertyNames(window).filter((name) => window[name] instanceof CryptoKey).length"
    )
    assert found == 0


# -- what breaks, and what goes on -----------------------------------------------------------------------------------


async def at_work(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> tuple[Harness, WayIn]:
    way = await sealed(boot, ways, generation, source)
    way.websockets = websockets
    await page.goto(way.url)
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("1")
    await page.evaluate("window.stayed = true")
    return way.to, way


@EITHER_WAY
@BOTH
async def test_clicks_that_a_break_swallowed_are_done_once(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> None:
    harness, way = await at_work(boot, ways, page, generation, source, websockets)
    way.deaf = True
    async with page.expect_request("**/_sealed") if not websockets else nullcontext():
        await press(page, "more")  # lost on its way
    await way.break_down()
    way.deaf = False
    await way.open()
    await expect(page.locator("output")).to_have_text("2")
    way.mute = True
    await press(page, "more")  # done, and its answer is lost
    await harness.link.said("counted to 3")
    await way.break_down()
    way.mute = False
    await way.open()
    await expect(page.locator("output")).to_have_text("3")
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("4")
    await harness.link.said("counted to 4")
    assert harness.link.output.count("counted to") == 4
    assert await page.evaluate("window.stayed")


@EITHER_WAY
@BOTH
async def test_a_sealed_page_of_an_earlier_sandbox_loads_the_new_one(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str, websockets: bool
) -> None:
    _, way = await at_work(boot, ways, page, generation, source, websockets)
    way.status = {"sandbox": "the same"}  # so that it isn't the platform's script that notices
    await page.reload()
    await press(page, "more")
    await expect(page.locator("output")).to_have_text(re.compile("^[12]$"))
    await way.break_down()
    way.to = await served(boot, generation, source, parano=True)
    await way.open()
    await press(page, "more")  # of the old page, or already of the new one
    await expect(page.locator("output")).to_have_text(re.compile("^[01]$"))


@BOTH
async def test_several_tabs_and_one_that_is_loaded_again(
    boot: Boot, ways: AsyncExitStack, page: Page, generation: int, source: str
) -> None:
    way = await sealed(boot, ways, generation, source)
    one, other = page, await page.context.new_page()
    for each in (one, other):
        await each.goto(way.url)
    await press(one, "more")
    await expect(one.locator("output")).to_have_text("1")
    await other.reload()
    await expect(other.locator("output")).to_have_text("1")
    await press(other, "more")
    await expect(other.locator("output")).to_have_text("2")
    await press(one, "more")
    await expect(one.locator("output")).to_have_text("3")


async def test_what_an_app_shows_by_itself_arrives_sealed(boot: Boot, ways: AsyncExitStack, page: Page) -> None:
    from tests.harness.test_generation1 import APP

    for websockets in (True, False):
        way = await sealed(boot, ways, 1, APP)
        way.websockets = websockets
        await page.goto(way.url)
        await press(page, "push")
        (way.to.app_dir / "go").touch()
        await expect(page.locator("output")).to_have_text("push 2")


async def test_a_page_that_is_opened_during_a_break_opens_after_it(
    boot: Boot, ways: AsyncExitStack, page: Page
) -> None:
    way = await sealed(boot, ways, 1, COUNTER1)
    refused: list[str] = []

    async def refuse(route: Route) -> None:
        asked = route.request.url
        refused.append(asked)
        if refused.count(asked) == 1:
            await route.fulfill(status=503, content_type="application/json", body="{}")
        elif refused.count(asked) == 2:
            await route.abort()
        else:
            await route.continue_()

    await page.route("**/_sealed*", refuse)
    await page.route("**/_sealed/agree", refuse)
    await page.goto(way.url)
    await expect(page.get_by_role("button", name="more")).to_be_visible()
    assert len(set(refused)) == 2


# -- a proxy that does more than read --------------------------------------------------------------------------------


async def test_an_answer_that_is_not_the_apps_is_not_shown(boot: Boot, ways: AsyncExitStack, page: Page) -> None:
    way = await sealed(boot, ways, 2, ECHO2)
    forged = ""

    async def forge(route: Route) -> None:
        answer = await route.fetch()
        body = await answer.body()
        match forged:
            case "a changed byte":
                await route.fulfill(response=answer, body=body[:-1] + bytes([body[-1] ^ 1]))
            case "cut off":
                await route.fulfill(response=answer, body=body[:-21])
            case "a page in the clear":
                await route.fulfill(status=200, content_type="text/html", body="<h1>Give me your password</h1>")
            case _:
                await route.fulfill(status=500, content_type="text/html", body="<h1>Give me your password</h1>")

    await page.route("**/_sealed", forge)
    for forged in ("a changed byte", "cut off", "a page in the clear", "another status"):
        await page.goto(way.url)
        await expect(page.get_by_role("alert")).to_contain_text("could not be reached safely")
        assert SHOWN not in await page.content(), forged
        assert "password" not in await page.content(), forged
    await page.unroute("**/_sealed")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("heading", name=SHOWN)).to_be_visible()


async def test_a_frame_that_is_not_the_next_one_of_the_app_breaks_the_socket_and_the_page_mends_it(
    boot: Boot, ways: AsyncExitStack, page: Page
) -> None:
    way = await sealed(boot, ways, 1, COUNTER1)
    sockets: list[WebSocketRoute] = []
    forged = ""

    def between(route: WebSocketRoute) -> None:
        sockets.append(route)
        server, held = route.connect_to_server(), list[str | bytes]()

        def pass_on(frame: str | bytes) -> None:
            held.append(frame)
            if len(sockets) > 1 or len(held) < 2:
                route.send(frame)
            elif forged == "repeated":
                route.send(held[0])
            elif forged == "clear":
                route.send('{"s": 1, "done": 1, "actions": {"post": "document.title = \'forged\'"}}')
            elif len(held) == 3:  # swapped
                route.send(held[2])

        server.on_message(pass_on)

    await page.route_web_socket("**/_sealed", between)
    for clicks, how in ((2, "repeated"), (4, "clear"), (6, "swapped")):
        forged = how
        sockets.clear()
        await page.goto(way.url)
        await press(page, "more")
        await press(page, "more")
        await expect(page.locator("output")).to_have_text(str(clicks))
        async with asyncio.timeout(DEADLINE_S):
            while len(sockets) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await page.title() != "forged"
        await way.to.link.said(f"counted to {clicks}")
        assert way.to.link.output.count("counted to") == clicks


# -- where it can't be had -------------------------------------------------------------------------------------------


async def test_over_plain_http_the_page_says_so_and_sends_nothing(boot: Boot, ways: AsyncExitStack, page: Page) -> None:
    way = await sealed(boot, ways, 1, COUNTER1)
    await page.goto(way.url.replace("127.0.0.1", "plain.test"))
    await expect(page.get_by_role("alert")).to_contain_text("needs a secure address")
    assert b"POST" not in bytes(way.wire).partition(b"\r\n\r\n")[0]
    assert way.wire.count(b"HTTP/1.1\r\n") == 1
    await page.evaluate(AXE)
    assert await page.evaluate("axe.run().then((found) => found.violations.map((each) => each.id))") == []


async def test_without_scripts_the_page_says_so(boot: Boot, ways: AsyncExitStack, browser: Browser) -> None:
    way = await sealed(boot, ways, 1, COUNTER1)
    async with tab(browser, java_script_enabled=False) as page:
        await page.goto(way.url)
        await expect(page.get_by_role("heading", name="This app needs JavaScript")).to_be_visible()


async def test_a_page_cannot_talk_past_the_seal_by_accident(boot: Boot, ways: AsyncExitStack, page: Page) -> None:
    way = await sealed(boot, ways, 1, COUNTER1)
    await page.goto(way.url)
    await press(page, "more")
    ask = """() => { const x = new XMLHttpRequest(); try { x.open("POST", "_post"); } catch (e) { return e.name; } }"""
    assert await page.evaluate(ask) == "SecurityError"
    assert await page.evaluate("navigator.sendBeacon('_post', 'x')") is False
    assert (
        await page.evaluate("fetch('/-/status').then((answer) => answer.json()).then((said) => said.state)") == "ready"
    )
    # What isn't htag's goes the same way: sealed, and to the app alone.
    answer = (
        "fetch('nowhere', {method: 'PUT', body: 'swordfish'}).then(async (a) => [a.status, (await a.json()).error])"
    )
    assert await page.evaluate(answer) == [404, "not found"]
    assert b"swordfish" not in way.wire
