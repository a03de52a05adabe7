"""The page shim and the waiting page, in a real Chromium, against a little gateway that is killed and started again."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.chromium import CHROMIUM, PATIENCE_MS, chromium, tab

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]

DEADLINE_S = PATIENCE_MS / 1000
READY: dict[str, object] = {
    "app": "toy", "state": "ready", "sandbox": "a" * 12, "step": "ready", "elapsed_s": 0.0, "expected_s": None,
    "left_s": 900.0, "left_why": "idle", "warn_s": 120.0, "ending": None, "title": "", "text": "", "action": "",
    "error_id": "", "line": "", "progress": None, "usual": "", "steps": {},
}  # fmt: skip
STARTING = READY | {"state": "starting", "step": "creating", "elapsed_s": 0.4, "left_s": None, "left_why": None}
NOTHING = READY | {"state": "none", "sandbox": "", "title": "This app isn't running", "left_s": None, "left_why": None}
CRASHED = READY | {
    "state": "ended", "ending": "crashed", "title": "This app crashed", "text": "Your session is kept.",
    "action": "Start again", "error_id": "c0ffee123456", "left_s": None, "left_why": None,
}  # fmt: skip
# What a test sees of the browser's own sockets, below the shim.
WIRETAP = """
window.opened = 0; window.broken = 0;
window.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    this.addEventListener("open", () => window.opened++);
    this.addEventListener("close", () => window.broken++);
  }
};
"""
CONNECT = """(path) => {
  window.events = [];
  window.heard = [];
  window.toy = new WebSocket(path);
  for (const type of ["open", "error", "close"])
    toy.addEventListener(type, (e) => events.push(e.code ? `${type} ${e.code}` : type));
  toy.onmessage = (e) => heard.push(e.data);
}"""


class Gateway:
    """The stage's process, always on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.folder = folder
        self.say(READY)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, status: dict[str, object]) -> None:
        draft = self.folder / "draft.json"
        draft.write_text(json.dumps(status))
        draft.rename(self.folder / "status.json")

    def heard(self, word: str) -> list[str]:
        file = self.folder / "heard.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(word)]

    async def start(self) -> None:
        stage = Path(__file__).with_name("stage.py")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, str(stage), str(self.port), str(self.folder)
        )
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return

    async def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path)
    await gateway.start()
    yield gateway
    await gateway.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, gateway: Gateway) -> AsyncIterator[Page]:
    async with tab(browser, base_url=gateway.url) as page:
        await page.add_init_script(WIRETAP)
        yield page


async def connect(page: Page, path: str = "/toy/ws") -> None:
    await page.goto("about:blank")  # so that the same address is loaded again
    await page.goto("/toy/?a=1#part")
    await page.evaluate(CONNECT, path)
    await page.wait_for_function("events.length > 0")


async def test_a_killed_gateway_loses_no_message_and_the_page_sees_no_close(page: Page, gateway: Gateway) -> None:
    await connect(page)
    sent: list[str] = []

    async def click() -> None:
        sent.append(f"click {len(sent)}")
        await page.evaluate("text => toy.send(text)", sent[-1])

    for round_ in range(1, 3):
        await click()
        await page.wait_for_function("count => heard.length === count", arg=len(sent))
        await gateway.kill()
        await page.wait_for_function("count => broken >= count", arg=round_)
        for _ in range(3):
            await click()
        assert await page.evaluate("[toy.readyState, toy.bufferedAmount > 0]") == [1, True]
        await gateway.start()
        await page.wait_for_function("count => heard.length === count", arg=len(sent))

    assert gateway.heard("ws") == [f"ws {text}" for text in sent]
    assert await page.evaluate("[heard, events, toy.readyState, toy.bufferedAmount]") == [sent, ["open"], 1, 0]
    await expect(page.locator(".bar")).to_be_hidden()


async def test_a_lost_connection_is_said_until_it_is_back(page: Page, gateway: Gateway) -> None:
    await connect(page)
    await gateway.kill()
    await expect(page.get_by_text("The connection is lost. Trying again")).to_be_visible()
    await gateway.start()
    await expect(page.locator(".bar")).to_be_hidden()


async def test_after_two_minutes_without_network_the_next_message_tries_again(page: Page, gateway: Gateway) -> None:
    await page.clock.install()
    await connect(page)
    await gateway.kill()
    await page.wait_for_function("broken === 1")
    again = page.get_by_role("button", name="Try again")
    async with asyncio.timeout(60):
        while not await again.is_visible():
            await page.clock.run_for(10_000)
    await gateway.start()
    await page.evaluate("toy.send('late')")
    async with asyncio.timeout(DEADLINE_S):
        while gateway.heard("ws") != ["ws late"]:
            await page.clock.run_for(100)
    assert await page.evaluate("events") == ["open"]


async def test_where_only_websockets_stay_broken_the_app_learns_it_and_can_fall_back(
    page: Page, gateway: Gateway
) -> None:
    await page.clock.install()
    await connect(page)
    (gateway.folder / "refuse").touch()
    await page.evaluate("toy.send('close 1011 gone')")
    async with asyncio.timeout(60):
        while await page.evaluate("toy.readyState") != 3:
            await page.clock.run_for(5_000)
    assert await page.evaluate("events") == ["open", "error", "close 1006"]


async def test_a_refused_first_connection_is_the_pages_to_handle(page: Page, gateway: Gateway) -> None:
    (gateway.folder / "refuse").touch()
    await connect(page)
    await page.wait_for_function("events.length === 2")
    assert await page.evaluate("[events, toy.readyState]") == [["error", "close 1006"], 3]


async def test_a_close_that_was_meant_reaches_the_page(page: Page) -> None:
    for code in (1000, 4001):
        await connect(page)
        await page.evaluate("code => toy.send(`close ${code} because`)", code)
        await page.wait_for_function("toy.readyState === 3")
        assert await page.evaluate("events") == ["open", f"close {code}"]


async def test_the_pages_own_close_is_final_even_while_reconnecting(page: Page, gateway: Gateway) -> None:
    await connect(page)
    await gateway.kill()
    await page.wait_for_function("broken === 1")
    await page.evaluate("toy.close(1000)")
    await page.wait_for_function("toy.readyState === 3")
    await gateway.start()
    await connect(page)
    assert await page.evaluate("events") == ["open"]
    await page.evaluate("toy.close(3000, 'enough')")
    await page.wait_for_function("toy.readyState === 3")
    assert await page.evaluate("[events, opened]") == [["open", "close 3000"], 1]


async def test_it_looks_like_the_browsers_own_websocket(page: Page, gateway: Gateway) -> None:
    await page.goto("/toy/")
    found = await page.evaluate(
        """async () => {
          const socket = new WebSocket(`ws://${location.host}/toy/ws`, ["one", "two"]);
          const early = socket.readyState;
          let refused = "";
          try { socket.send("too early"); } catch (error) { refused = error.name; }
          let invalid = "";
          try { new WebSocket("ws://[bad"); } catch (error) { invalid = error.name; }
          await new Promise((opened) => { socket.onopen = opened; });
          socket.binaryType = "arraybuffer";
          const answer = new Promise((got) => { socket.onmessage = got; });
          socket.send(new Uint8Array([1, 2, 3]));
          const { data, origin } = await answer;
          return [socket instanceof WebSocket, WebSocket.OPEN, socket.OPEN, early, refused, invalid, socket.protocol,
                  socket.url, data instanceof ArrayBuffer, new Uint8Array(data)[2], origin, typeof socket.onopen,
                  socket.onclose, String(socket)];
        }"""
    )
    address = f"ws://127.0.0.1:{gateway.port}"
    assert found == [
        True, 1, 1, 0, "InvalidStateError", "SyntaxError", "one", f"{address}/toy/ws",
        True, 3, address, "function", None, "[object WebSocket]",
    ]  # fmt: skip


async def test_sockets_outside_of_the_app_are_left_alone(page: Page, gateway: Gateway) -> None:
    await connect(page, "/other/ws")
    await gateway.kill()
    await page.wait_for_function("toy.readyState === 3")
    assert await page.evaluate("[events, broken]") == [["open", "close 1006"], 1]


async def test_an_ending_is_shown_at_once_and_its_button_starts_again(page: Page, gateway: Gateway) -> None:
    await connect(page)
    gateway.say(CRASHED)
    await page.evaluate("toy.send('close 1001 crashed')")
    dialog = page.get_by_role("dialog", name="This app crashed")
    await expect(dialog).to_be_visible()
    await expect(dialog).to_contain_text("Your session is kept.")
    await expect(dialog).to_contain_text("c0ffee123456")
    assert await page.evaluate("[events, toy.readyState]") == [["open"], 1]

    await page.keyboard.press("Escape")  # back to the dead page; the way on stays in sight
    await expect(dialog).to_be_hidden()
    await page.get_by_role("button", name="Start again").click()
    await page.wait_for_url("**/toy/?a=1#part")
    assert gateway.heard("start") == ["start toy /toy/?a=1"]


async def test_a_gateway_that_knows_nothing_yet_ends_nothing(page: Page, gateway: Gateway) -> None:
    await connect(page)
    await gateway.kill()
    await page.wait_for_function("broken === 1")
    await page.evaluate("toy.send('first')")
    gateway.say(NOTHING)
    before = len(gateway.heard("status"))
    await gateway.start()
    async with asyncio.timeout(DEADLINE_S):
        while len(gateway.heard("status")) == before:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.01)
    gateway.say(READY)
    await page.wait_for_function("heard.length === 1")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_what_nobody_knows_of_any_more_has_ended(page: Page, gateway: Gateway) -> None:
    await connect(page)
    gateway.say(NOTHING)
    await page.evaluate("toy.send('close 1001 idle')")
    await expect(page.get_by_role("dialog", name="This app isn't running")).to_be_visible()


@pytest.mark.parametrize(
    "ask",
    [
        "fetch('/toy/gone', {method: 'POST'})",
        "(() => { const x = new XMLHttpRequest(); x.open('POST', '/toy/gone'); x.send(); })()",
        "(() => { new EventSource('/toy/gone'); })()",
    ],
    ids=["fetch", "XMLHttpRequest", "EventSource"],
)
async def test_an_app_without_websockets_shows_its_ending_too(page: Page, gateway: Gateway, ask: str) -> None:
    await page.goto("/toy/")
    await page.wait_for_function("document.readyState === 'complete'")
    gateway.say(CRASHED)
    await page.evaluate(ask)
    await expect(page.get_by_role("dialog")).to_be_visible()


async def test_a_silent_page_learns_of_its_ending_within_half_a_minute(page: Page, gateway: Gateway) -> None:
    await page.clock.install()
    await page.goto("/toy/")
    async with asyncio.timeout(DEADLINE_S):
        while not gateway.heard("status"):
            await page.clock.run_for(10)
    gateway.say(CRASHED)
    async with asyncio.timeout(DEADLINE_S):
        while not await page.get_by_role("dialog").is_visible():
            await page.clock.run_for(5_000)


async def test_before_the_idle_end_a_banner_counts_down_and_offers_to_stay(page: Page, gateway: Gateway) -> None:
    gateway.say(READY | {"left_s": 90.0})
    await page.goto("/toy/")
    bar = page.locator(".bar")
    await expect(bar).to_contain_text("Still there? Unused, this app ends in")
    await expect(bar.locator(".clock")).to_have_text(re.compile(r"^1:(1\d|2[0-8])$"))
    await bar.get_by_role("button", name="Stay").click()
    await expect(bar).to_be_hidden()
    assert gateway.heard("stay") == ["stay app=toy"]


async def test_using_the_app_takes_the_banner_away(page: Page, gateway: Gateway) -> None:
    gateway.say(READY | {"left_s": 90.0})
    await connect(page)
    await expect(page.locator(".bar")).to_be_visible()
    gateway.say(READY)
    await page.evaluate("toy.send('still here')")
    await expect(page.locator(".bar")).to_be_hidden()


async def test_the_end_of_the_lifetime_is_announced_without_an_offer(page: Page, gateway: Gateway) -> None:
    gateway.say(READY | {"left_s": 60.0, "left_why": "lifetime"})
    await page.goto("/toy/")
    await expect(page.locator(".bar")).to_contain_text("It ends in")
    await expect(page.locator(".bar button:visible")).to_have_count(0)


async def test_a_page_of_a_sandbox_that_was_replaced_reloads(page: Page, gateway: Gateway) -> None:
    await connect(page)
    await page.wait_for_function("performance.getEntriesByName(`${location.origin}/-/status?app=toy`).length > 0")
    gateway.say(READY | {"sandbox": "b" * 12})
    async with page.expect_navigation():
        await page.evaluate("toy.send('close 1001 updated')")
    await page.wait_for_function("window.toy === undefined")


async def test_the_waiting_page_follows_the_start_and_opens_the_app(page: Page, gateway: Gateway) -> None:
    gateway.say(STARTING)
    answer = await page.goto("/toy/?a=1#part")
    assert answer is not None
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    now = page.locator("[aria-current=step]")
    await expect(now).to_have_text("Making a container for you alone")
    bar = page.get_by_role("progressbar", name="How far the start has come")
    await expect(bar).to_be_hidden()
    gateway.say(
        STARTING
        | {"step": "loading", "elapsed_s": 2.2, "progress": 0.55, "usual": ", it usually takes 4 seconds"}
        | {"steps": {"queued": "0.0 s", "creating": "1.7 s", "starting": "0.3 s"}}
    )
    await expect(now).to_have_text("Loading the app")
    await expect(page.locator("[data-step=creating]")).to_have_text("Making a container for you alone 1.7 s")
    assert await bar.evaluate("bar => [bar.value, bar.max]") == [0.55, 1]
    await expect(page.get_by_text("2 seconds so far, it usually takes 4 seconds.")).to_be_visible()
    await expect(page.get_by_role("status")).to_have_text("Loading the app")
    gateway.say(READY)
    await expect(page.get_by_role("heading", name="Toy", exact=True)).to_be_visible()
    assert page.url.endswith("/toy/#part")


async def test_the_waiting_page_says_why_a_start_failed(page: Page, gateway: Gateway) -> None:
    gateway.say(STARTING)
    await page.goto("/toy/")
    gateway.say(READY | {"state": "ended", "ending": "failed"})
    await expect(page.get_by_role("heading", name="This app could not start")).to_be_visible()


async def test_the_waiting_page_starts_nothing_that_was_cancelled(page: Page, gateway: Gateway) -> None:
    gateway.say(STARTING)
    await page.goto("/toy/")
    gateway.say(READY | {"state": "ended", "ending": "visitor"})
    await expect(page.get_by_role("alert")).to_have_text("The start was cancelled.")
    await expect(page.get_by_role("link", name="Start it again")).to_be_visible()


async def test_the_cancel_button_ends_the_start(page: Page, gateway: Gateway) -> None:
    gateway.say(STARTING)
    await page.goto("/toy/")
    async with page.expect_navigation(url=gateway.url + "/"):
        await page.get_by_role("button", name="Cancel").click()
    assert gateway.heard("stop") == ["stop app=toy"]
    assert gateway.heard("start") == []


async def test_the_waiting_page_gives_up_on_a_start_that_nobody_knows_of(page: Page, gateway: Gateway) -> None:
    gateway.say(STARTING)
    await page.goto("/toy/")
    gateway.say(NOTHING)
    await expect(page.get_by_role("alert")).to_have_text("The start was cancelled.")


async def test_the_waiting_page_outlives_the_gateway(page: Page, gateway: Gateway) -> None:
    gateway.say(STARTING)
    await page.goto("/toy/")
    await gateway.kill()
    await expect(page.get_by_role("alert")).to_contain_text("The connection is lost")
    await gateway.start()
    await expect(page.get_by_role("alert")).to_be_hidden()
    gateway.say(READY)
    await expect(page.get_by_role("heading", name="Toy", exact=True)).to_be_visible()


async def test_without_scripts_the_waiting_page_reloads_itself(browser: Browser, gateway: Gateway) -> None:
    gateway.say(STARTING)
    async with tab(browser, base_url=gateway.url, java_script_enabled=False) as page:
        await page.goto("/toy/")
        await expect(page.get_by_role("heading", name="Starting Toy")).to_be_visible()
        bar = page.get_by_role("progressbar", name="How far the start has come")
        assert await bar.evaluate("bar => bar.position") == pytest.approx(0.4 / 3, abs=0.001)  # as the server wrote it
        gateway.say(STARTING | {"elapsed_s": 1.5})
        await expect(bar).to_have_attribute("value", "0.5")
        gateway.say(READY)
        await expect(page.get_by_role("heading", name="Toy", exact=True)).to_be_visible()


async def test_a_new_version_is_offered_and_may_be_declined(page: Page, gateway: Gateway) -> None:
    gateway.say(READY | {"outdated": True})
    await connect(page)
    said = page.get_by_text("There is a new version of this app. Opening it starts afresh.")
    await expect(said).to_be_visible()
    await page.get_by_role("button", name="Not now").click()
    await expect(said).to_be_hidden()
    async with page.expect_response("**/-/status?*"):
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # it asks
    await expect(said).to_be_hidden()
    assert gateway.heard("stop") == []
    await page.goto("about:blank")
    await page.goto("/toy/?a=1#part")  # another page asks again
    await page.get_by_role("button", name="Open it").click()
    await page.wait_for_url("**/toy/?a=1#part")
    await page.wait_for_function("document.readyState === 'complete'")
    await expect(said).to_be_hidden()
    assert gateway.heard("stop") == ["stop app=toy"]
    assert gateway.heard("start") == ["start toy /toy/?a=1"]


async def test_a_new_version_that_is_not_to_be_had_any_more_costs_nobody_the_old_one(
    page: Page, gateway: Gateway
) -> None:
    gateway.say(READY | {"outdated": True})
    await connect(page)
    said = page.get_by_text("There is a new version of this app. Opening it starts afresh.")
    await expect(said).to_be_visible()
    gateway.say(READY | {"outdated": False})  # the server drains, say; the page hasn't asked since
    await page.get_by_role("button", name="Open it").click()
    await expect(said).to_be_hidden()
    assert (gateway.heard("stop"), gateway.heard("start")) == ([], [])
    gateway.say(READY | {"outdated": True})
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # it asks
    await expect(said).to_be_visible()
    gateway.say(READY | {"outdated": False})
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await expect(said).to_be_hidden()
