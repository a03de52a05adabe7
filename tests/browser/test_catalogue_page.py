"""The catalogue in a real Chromium, from a real gateway and orchestrator: found, read and used by everybody."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from htagweb_gateway.app import Gateway
from htagweb_gateway.identity import Identity
from htagweb_gateway.pages import Pages
from htagweb_orchestrator.model import AppName, UserId
from htagweb_orchestrator.settings import AppSettings
from tests.chromium import CHROMIUM, chromium, tab
from tests.gateway.scripted import Server, gateway
from tests.orchestrator.stage import Stage, eventually
from tests.test_pages import every_page

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.asyncio(loop_scope="module"),
]
EVIL_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="8" height="8" fill="#0b6e75"/>
<script>document.title = "run"; document.documentElement.dataset.run = "yes"</script></svg>"""
VISITOR = UserId("anon-visitor")


class Shop:
    """A platform with some apps, and one visitor who has one of them running."""

    def __init__(self, server: Server, cookie: str) -> None:
        self.url = f"http://localhost:{server.port}"
        name, _, value = cookie.partition(";")[0].partition("=")
        self.cookie: Any = {"name": name, "value": value, "url": self.url}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    stage = Stage(folder)
    try:
        stage.write("weather", '"""Tomorrow, and the day after."""\nfrom htag import Tag\nclass App(Tag.div): pass\n')
        stage.write("notes", "from starlette.applications import Starlette\napp = Starlette()\n")
        stage.write("broken", "def")
        stage.write("staff-only", "from htag import Tag\nclass App(Tag.div): pass\n")
        stage.apps[AppName("staff-only")] = AppSettings(access=("signed-in",))
        (folder / "apps" / "weather.svg").write_text(EVIL_SVG)
        plane = await stage.open(dev=True)
        await plane.until_ready(VISITOR, AppName("weather"))
        identity = Identity(bytes(range(32)))
        front = Gateway(orchestrator=plane, identity=identity)
        async with front.running(), gateway(front) as server:
            await eventually(lambda: front.routes.filled)
            yield Shop(server, identity.issue("http", VISITOR))
    finally:
        await stage.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, shop: Shop) -> AsyncIterator[Page]:
    async with tab(browser) as page:
        await page.context.add_cookies([shop.cookie])
        yield page


async def complaints(page: Page, *rules: str) -> list[str]:
    """What axe finds wrong, by all its rules or by these."""
    await page.evaluate(AXE)
    options = {"runOnly": list(rules)} if rules else {}
    found = await page.evaluate("(options) => axe.run(options).then((found) => found.violations)", options)
    return [f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}" for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
async def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    shop: Shop, page: Page, scheme: Any, width: int
) -> None:
    await page.emulate_media(color_scheme=scheme)
    await page.set_viewport_size({"width": width, "height": 720})
    for path in ("/", "/?q=weather", "/?q=nothing+of+the+kind"):
        await page.goto(shop.url + path)
        assert await complaints(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_axe_finds_nothing_on_any_page_of_ours(shop: Shop, page: Page) -> None:
    await page.set_viewport_size({"width": 360, "height": 720})
    bodies = [bytes(response.body).decode().replace("http-equiv", "data-was") for response in every_page(Pages())]

    async def answer(route: Route) -> None:
        number = int(route.request.url.rpartition("/")[2])
        await route.fulfill(body=bodies[number], content_type="text/html; charset=utf-8")

    await page.route("**/test/*", answer)
    await page.route("**/*.js", lambda route: route.abort())  # they would go on to where the page leads
    for number in range(len(bodies)):
        await page.goto(f"{shop.url}/test/{number}")
        await page.emulate_media(color_scheme="light", reduced_motion="reduce")
        assert await complaints(page) == [], await page.title()
        await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        assert await complaints(page, "color-contrast") == [], await page.title()


async def test_nothing_comes_from_elsewhere(shop: Shop, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    async with page.expect_request("**/-/icon/weather?*"):
        await page.goto(shop.url)
    assert [url for url in asked if not url.startswith(shop.url + "/")] == []


async def test_it_has_what_this_visitor_may_open(shop: Shop, page: Page) -> None:
    await page.goto(shop.url)
    titles = await page.get_by_role("heading", level=2).all_inner_texts()
    assert "Weather htag 1" in [re.sub(r"\s+", " ", title).strip() for title in titles]
    assert not any("Staff" in title for title in titles)
    await expect(page.get_by_text("Running", exact=False)).to_have_count(1)
    await expect(page.get_by_text("Out of order at the moment.")).to_have_count(1)


async def test_the_search_shows_what_fits_while_one_types_and_by_the_keyboard(shop: Shop, page: Page) -> None:
    await page.goto(shop.url)
    rows = page.locator(".apps > li:visible")
    everything = await rows.count()
    await page.keyboard.press("Tab")
    await page.keyboard.type("day tomorrow")
    await expect(rows).to_have_count(1)
    await expect(page.get_by_role("status")).to_have_text("1 app")
    await page.keyboard.press("Tab")  # to its link
    assert await page.evaluate("document.activeElement.getAttribute('href')") == "/weather/"
    await page.get_by_role("searchbox").fill("")
    await expect(rows).to_have_count(everything)


async def test_the_search_works_without_scripts(shop: Shop, browser: Browser) -> None:
    plain = await browser.new_page(java_script_enabled=False)
    await plain.goto(shop.url)
    await plain.get_by_role("searchbox").fill("NOTES")
    await plain.get_by_role("button", name="Search").click()
    await expect(plain.get_by_role("heading", level=2)).to_have_count(1)
    await expect(plain.get_by_role("status")).to_contain_text("1 app with “NOTES”")
    await plain.get_by_role("link", name="All apps").click()
    assert await plain.get_by_role("heading", level=2).count() > 1
    await plain.close()


async def test_a_picture_that_holds_a_script_is_only_a_picture(shop: Shop, page: Page) -> None:
    await page.goto(shop.url)
    icon = page.locator(".apps img")
    await expect(icon).to_have_count(1)
    await expect(icon).to_have_js_property("complete", True)
    assert await icon.evaluate("(img) => img.naturalWidth") > 0
    answer = await page.goto(f"{shop.url}{await icon.get_attribute('src')}")  # opened by itself
    assert answer is not None
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert await page.evaluate("document.documentElement.dataset.run") is None
    assert (await page.request.get(f"{shop.url}/-/icon/hello")).status == 404
    assert (await page.request.get(f"{shop.url}/-/icon/staff-only")).status == 404
