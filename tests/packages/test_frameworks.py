"""Frameworks that aren't in the image, as their packages are today, in apps below a prefix."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from playwright.async_api import expect
from websockets.asyncio.client import connect

from tests.chromium import CHROMIUM, chromium, press, tab
from tests.packages.conftest import Stage

pytestmark = pytest.mark.docker

FASTAPI = """
# /// script
# dependencies = ["fastapi"]
# ///
from fastapi import FastAPI, WebSocket
from fastapi.responses import HTMLResponse

app = FastAPI(title="Shop")
basket: list[str] = []

@app.get("/", response_class=HTMLResponse)
async def page():
    return f"<!doctype html><html><head></head><body><a href='{app.url_path_for('things')}'>{len(basket)} things</a>"

@app.post("/things/{thing}")
async def add(thing: str, count: int = 1) -> list[str]:
    basket.extend([thing] * count)
    return basket

@app.get("/things")
def things() -> list[str]:
    return basket

@app.websocket("/talk")
async def talk(socket: WebSocket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"{socket.url.path} {text}")
"""


async def test_fastapi_serves_its_routes_its_docs_and_websockets_below_the_apps_address(stage: Stage) -> None:
    stage.download("fastapi")
    stage.publish("shop.py", FASTAPI)
    await stage.serve()
    visitor = stage.visitor()
    assert "0 things" in await stage.shows("shop", visitor)
    added = await visitor.post("/shop/things/hat?count=2")
    assert (added.status, json.loads(added.body)) == (200, ["hat", "hat"])
    refused = await visitor.post("/shop/things/hat?count=many")
    assert (refused.status, refused.header(b"content-type")) == (422, b"application/json")
    assert json.loads((await visitor.get("/shop/things")).body) == ["hat", "hat"]

    docs = (await visitor.get("/shop/docs", accept="text/html")).body.decode()
    assert "url: '/shop/openapi.json'" in docs
    said = json.loads((await visitor.get("/shop/openapi.json")).body)
    assert (said["info"]["title"], said["servers"]) == ("Shop", [{"url": "/shop"}])

    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    address = f"ws://{visitor.host}/shop/talk"
    origin: Any = f"http://{visitor.host}"
    async with connect(address, origin=origin, additional_headers={"Cookie": cookie}, open_timeout=30) as socket:
        await socket.send("hello")
        assert await socket.recv() == "/shop/talk hello"


NICEGUI = """
# /// script
# dependencies = ["nicegui"]
# ///
from fastapi import FastAPI
from nicegui import ui

app = FastAPI()

@ui.page("/")
def page():
    count = ui.label("0")
    ui.button("more", on_click=lambda: count.set_text(str(int(count.text) + 1)))
    ui.link("other", "/other")

@ui.page("/other")
def other():
    ui.label("the other page")

ui.run_with(app)
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
@pytest.mark.skipif("REAL_WHEELS" not in os.environ, reason="builds for half a minute: REAL_WHEELS=1 has it tried")
async def test_nicegui_is_clicked_in_a_browser_below_the_apps_address(stage: Stage) -> None:
    stage.download("nicegui")
    stage.publish("shop.py", NICEGUI)
    await stage.serve()
    await stage.settled("shop")
    async with chromium() as browser, tab(browser) as page:
        failed: list[str] = []
        page.on("requestfailed", lambda request: failed.append(request.url))
        page.on("response", lambda answer: failed.append(answer.url) if answer.status in (400, 404, 500) else None)
        await page.goto(f"http://localhost:{stage.server.port}/shop/")
        for said in ("1", "2"):
            await press(page, "more")
            await expect(page.get_by_text(said, exact=True)).to_be_visible()
        await page.get_by_role("link", name="other").click()
        await expect(page.get_by_text("the other page")).to_be_visible()
        assert failed == []
