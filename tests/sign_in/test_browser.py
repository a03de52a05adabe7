"""Signing in and out as people do it, in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.chromium import CHROMIUM, PATIENCE_MS, chromium
from tests.sign_in.provider import CLIENT, SECRET, provider
from tests.sign_in.stage import PASSWORD, Stage, free_port

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")

PHONE = {"width": 375, "height": 720}
# When the browser's own sockets close, below the page shim, which takes them in place of the page.
NOTE_CLOSE = """(() => {
  const Native = WebSocket;
  window.WebSocket = class extends Native {
    constructor(...args) { super(...args); this.addEventListener("close", () => { window.closedAt = Date.now(); }); }
  };
})()"""
NOTE_CLICK = """document.addEventListener("click", () => { localStorage.clickedAt = Date.now(); }, { capture: true })"""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


async def arrive(browser: Browser, url: str) -> BrowserContext:
    context = await browser.new_context(base_url=url, viewport=PHONE, color_scheme="dark")  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    return context


@pytest.fixture
async def context(browser: Browser, stage: Stage) -> AsyncIterator[BrowserContext]:
    context = await arrive(browser, f"http://localhost:{stage.server.port}")
    yield context
    await context.close()


@pytest.fixture
def shots() -> Path:
    """Where a test leaves pictures to look at; not committed."""
    folder = Path(__file__).parents[2] / ".run" / "shots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def sign_in(page: Page, name: str = "ann", password: str = PASSWORD) -> None:
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()


async def test_who_signs_out_in_another_tab_sees_his_app_stop_at_once(context: BrowserContext, shots: Path) -> None:
    page = await context.new_page()
    await page.add_init_script(NOTE_CLOSE)
    await page.goto("/todo/")
    await page.screenshot(path=shots / "sign-in-not-found.png")
    await page.get_by_role("link", name="Sign in").click()
    await page.screenshot(path=shots / "sign-in.png")
    await sign_in(page, password="wrong")
    await expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    await expect(page.get_by_label("Name")).to_have_value("ann")
    await page.screenshot(path=shots / "sign-in-wrong.png")
    await sign_in(page)
    await expect(page.locator("#said")).to_have_text("connected")
    assert page.url.endswith("/todo/")

    other = await context.new_page()
    await other.goto("/")
    await expect(other.get_by_text("Ann", exact=True)).to_be_visible()
    await other.screenshot(path=shots / "sign-in-catalogue.png", full_page=True)
    await other.evaluate(NOTE_CLICK)
    await other.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("dialog")).to_contain_text("You are signed out")
    # By the browser's clock, however late this test is told. It takes milliseconds; by asking, the page would learn of
    # it within 30 s.
    took_ms = await page.evaluate("closedAt - Number(localStorage.clickedAt)")
    assert 0 <= took_ms < 10_000
    # The shim keeps the page's own socket open: an htag page would fall to other transports.
    assert await page.evaluate("socket.readyState") == 1
    await page.screenshot(path=shots / "signed-out.png")
    await expect(other.get_by_role("link", name="Sign in")).to_be_visible()

    await page.bring_to_front()
    await page.get_by_role("button", name="Sign in").click()
    await sign_in(page)
    await expect(page.locator("#said")).to_have_text("connected")


async def test_the_password_is_typed_into_a_form_that_password_managers_know(context: BrowserContext) -> None:
    page = await context.new_page()
    await page.goto("/-/login")
    assert await page.evaluate("document.activeElement.id") == "name"
    assert await page.get_by_label("Name").get_attribute("autocomplete") == "username"
    assert await page.get_by_label("Password").get_attribute("autocomplete") == "current-password"
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_an_operator_ends_a_sandbox_on_the_page(context: BrowserContext, stage: Stage, shots: Path) -> None:
    for name in ("ann", "bob"):
        await (await stage.person(name)).follow("/clock/")
    page = await context.new_page()
    await page.goto("/-/admin")
    await sign_in(page, "root")
    await page.screenshot(path=shots / "admin.png", full_page=True)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.get_by_label("End clock of ann").click()
    await page.get_by_role("button", name="End it now").locator("visible=true").click()
    await expect(page.get_by_text("1 with a visitor")).to_be_visible()
    assert [sandbox.lease.user for sandbox in stage.plane.sandboxes()] == ["bob"]
    await page.set_viewport_size({"width": 1100, "height": 800})
    await page.emulate_media(color_scheme="light")
    await page.screenshot(path=shots / "admin-wide.png")


async def test_somebody_signs_in_at_a_provider_and_out_of_it(browser: Browser, closed_stage: Stage) -> None:
    """The provider is another site to the browser, which brings our cookies back from there all the same."""
    async with provider() as elsewhere:
        await closed_stage.open(
            auth="oidc", oidc_issuer=elsewhere.issuer, oidc_client_id=CLIENT, oidc_client_secret=SECRET, dev=True
        )
        context = await arrive(browser, f"http://localhost:{closed_stage.server.port}")
        page = await context.new_page()
        await page.goto("/todo/")
        await page.get_by_role("link", name="Sign in").click()
        await expect(page.locator("#said")).to_have_text("connected")
        assert page.url.endswith("/todo/")
        await page.goto("/")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("link", name="Sign in")).to_be_visible()
        (logout,) = elsewhere.logouts
        assert logout["id_token_hint"].count(".") == 2
        await context.close()


# What a hostile app's page tries from its own host, as whoever opened it.
ATTEMPTS = """async (portal) => {
  const other = location.origin.replace("hello.", "clock.");
  const outcome = {};
  const attempt = async (name, work) => {
    try { outcome[name] = await work(); } catch (problem) { outcome[name] = problem.name; }
  };
  const reading = { credentials: "include" }, blind = { credentials: "include", mode: "no-cors" };
  const form = { method: "POST", body: new URLSearchParams({ app: "clock", everywhere: "1" }), ...blind };
  await attempt("read the catalogue", async () => (await fetch(`${portal}/`, reading)).status);
  await attempt("read the operators' page", async () => (await fetch(`${portal}/-/admin`, reading)).status);
  await attempt("read another app", async () => (await fetch(`${other}/x`, reading)).status);
  await attempt("sign out", async () => (await fetch(`${portal}/-/logout`, form)).type);
  await attempt("stop another app", async () => (await fetch(`${other}/-/stop`, form)).type);
  await attempt("talk to another app", () => new Promise((done) => {
    const socket = new WebSocket(`${other.replace("http", "ws")}/ws`);
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  }));
  const framed = (url) => new Promise((done) => {
    const frame = document.body.appendChild(document.createElement("iframe"));
    frame.onload = () => { try { done(frame.contentDocument ? "read" : "unreadable"); } catch { done("unreadable"); } };
    frame.src = url;
  });
  outcome["frame the catalogue"] = await framed(`${portal}/`);
  outcome["frame another app"] = await framed(`${other}/`);
  outcome["cookies"] = document.cookie;
  return outcome;
}"""


async def test_57_an_app_at_a_host_of_its_own_reaches_neither_another_nor_the_portal(
    browser: Browser, closed_stage: Stage
) -> None:
    stage = closed_stage
    stage.port = free_port()
    portal = f"http://portal.localhost:{stage.port}"
    await stage.open(public_url=portal, apps_domain="apps.localhost")
    context = await arrive(browser, portal)
    page = await context.new_page()
    await page.goto("/-/login?next=/clock/")
    await sign_in(page, "root")
    await expect(page.locator("#said")).to_have_text("connected")
    assert page.url == f"http://clock.apps.localhost:{stage.port}/"

    evil = await context.new_page()
    blocked: list[str] = []
    evil.on("console", lambda message: blocked.append(message.text))
    await evil.goto("/hello/")
    await expect(evil.locator("#said")).to_have_text("connected")
    assert evil.url == f"http://hello.apps.localhost:{stage.port}/"
    outcome = await evil.evaluate(ATTEMPTS, portal)
    assert outcome == {
        "read the catalogue": "TypeError",
        "read the operators' page": "TypeError",
        "read another app": "TypeError",
        "sign out": "opaque",  # that is all it sees, whatever comes of it
        "stop another app": "opaque",
        "talk to another app": "refused",
        "frame the catalogue": "unreadable",
        "frame another app": "unreadable",
        "cookies": "",
    }
    assert sum("frame-ancestors" in text or "frame" in text.lower() for text in blocked) >= 2, blocked
    assert {sandbox.lease.app for sandbox in stage.plane.sandboxes()} == {"hello", "clock"}
    assert [known.person.id for known in stage.plane.sign_ins.all()] == ["root"]
    await page.evaluate("socket.send('still here')")
    await expect(page.locator("#said")).to_have_text("still here")
    await context.close()
