"""Pages of an embedded server in a real Chromium: they lie anywhere, and their own addresses below /_/."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, WebSocketRoute, expect

from tests.chromium import CHROMIUM, chromium, press, tab
from tests.harness.apps import COUNTER1, COUNTER2
from tests.sites import Sites

from .conftest import Write

# One browser for all tests of the module, so one event loop as well.
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
    pytest.mark.timeout(90),
    pytest.mark.asyncio(loop_scope="module"),
]
SOURCES = {1: COUNTER1, 2: COUNTER2}

SERVER = """
import sys
from htagweb import {kind}

app = {kind}("app:App", {options})

async def deep(request):
    return await app.serve(request, "app:App")

app.add_route("/deep/page", deep)
app.run("127.0.0.1", int(sys.argv[1]))
"""

Run = Callable[..., "asyncio.Future[str]"]


@asynccontextmanager
async def running(folder: Path, sites: Sites, generation: int) -> AsyncIterator[str]:
    """server.py of that folder; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join([str(sites.root / f"site-gen{generation}"), *filter(None, sys.path)])
    server = await asyncio.create_subprocess_exec(
        sys.executable, "server.py", str(port), cwd=folder, env={**os.environ, "PYTHONPATH": path}
    )
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    assert server.returncode is None
                    await asyncio.sleep(0.02)
            writer.close()
        yield f"http://localhost:{port}"
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    async with tab(browser) as page:
        yield page


@pytest_asyncio.fixture(loop_scope="module")
async def serve(write: Write, sites: Sites) -> AsyncIterator[Callable[..., object]]:
    async with AsyncExitStack() as stack:

        async def serve(generation: int, kind: str = "WebServerWS", options: str = "debug=True") -> str:
            write("app.py", SOURCES[generation])
            folder = write("server.py", SERVER.format(kind=kind, options=options)).parent
            return await stack.enter_async_context(running(folder, sites, generation))

        yield serve


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("kind", ["WebServerWS", "WebServer"])
async def test_a_click_is_answered_wherever_the_page_lies(serve: Run, page: Page, generation: int, kind: str) -> None:
    sockets: list[str] = []
    page.on("websocket", lambda each: sockets.append(each.url))
    home = await serve(generation, kind)
    await page.goto(f"{home}/?a=1")
    for n in ("1", "2"):
        await press(page, "more")
        await expect(page.locator("output")).to_have_text(n)
    await page.goto(f"{home}/deep/page?a=1")
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("3")  # the same instance
    assert bool(sockets) is (kind == "WebServerWS")
    assert all("/_/app-" in each for each in sockets)


@pytest.mark.parametrize("generation", [1, 2])
async def test_where_websockets_dont_get_through_clicks_go_by_http(serve: Run, page: Page, generation: int) -> None:
    home = await serve(generation)
    refused: list[str] = []

    async def refuse(route: WebSocketRoute) -> None:
        refused.append(route.url)
        await route.close(code=1011)

    await page.route_web_socket("**/*", refuse)
    await page.goto(f"{home}/?a=1")
    for n in ("1", "2"):
        await press(page, "more")
        await expect(page.locator("output")).to_have_text(n)
    assert refused


@pytest.mark.parametrize("generation", [1, 2])
async def test_an_open_page_loads_itself_anew_when_its_file_changes(
    serve: Run, write: Write, page: Page, generation: int
) -> None:
    await page.goto(await serve(generation))
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("1")
    write("app.py", SOURCES[generation].replace('"more"', '"add"'))
    await expect(page.get_by_role("button", name="add", exact=True)).to_be_visible()


async def test_a_page_whose_process_ended_says_so_and_opens_again(serve: Run, page: Page) -> None:
    home = await serve(1, options="timeout_inactivity=1")
    await page.goto(f"{home}/?a=1")
    await press(page, "more")
    await page.get_by_role("dialog").get_by_role("button").click()
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("1")
    assert page.url == f"{home}/?a=1"


@pytest.mark.parametrize("generation", [1, 2])
async def test_in_parano_mode_a_click_is_answered(serve: Run, page: Page, generation: int) -> None:
    home = await serve(generation, options="parano=True")
    await page.goto(f"{home}/deep/page?a=1")
    await press(page, "more")
    await expect(page.locator("output")).to_have_text("1")
