"""Parano mode where the page and what it asks for have two addresses: a program's own route, and /_/<app>/."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import pytest
from playwright.async_api import expect

from tests.chromium import CHROMIUM, PATIENCE_MS, chromium, press, tab
from tests.harness.apps import COUNTER1, COUNTER2
from tests.sites import Sites

from .conftest import Write

PROGRAM = """
{source}
from htagweb import {server}
{server}(App, parano=True).run(host="127.0.0.1", port={port}, openBrowser=False)
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
@pytest.mark.parametrize(
    ("generation", "source", "server"), [(1, COUNTER1, "WebServer"), (2, COUNTER2, "WebServerWS")], ids=["1", "2"]
)
async def test_a_sealed_page_of_a_program_of_ones_own_works(
    write: Write, sites: Sites, generation: int, source: str, server: str
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    file = write("program.py", PROGRAM.format(source=source, server=server, port=port))
    path = os.pathsep.join([str(sites.root / f"site-gen{generation}"), *filter(None, sys.path)])
    program = await asyncio.create_subprocess_exec(
        sys.executable, file.name, cwd=file.parent, env={**os.environ, "PYTHONPATH": path}
    )
    try:
        async with asyncio.timeout(PATIENCE_MS / 1000):
            while True:
                try:
                    _, probe = await asyncio.open_connection("127.0.0.1", port)
                    probe.close()
                    break
                except OSError:
                    assert program.returncode is None
                    await asyncio.sleep(0.05)
        async with chromium() as browser, tab(browser) as page:
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.on("websocket", lambda websocket: asked.append(websocket.url))
            await page.goto(f"http://127.0.0.1:{port}/")
            for n in (1, 2):
                await press(page, "more")
                await expect(page.locator("output")).to_have_text(str(n))
        apps = [url for url in asked if "/_/app-" in url]
        assert len(apps) >= 3
        assert all("/_sealed" in url or url.endswith(".png") for url in apps), apps
    finally:
        program.terminate()
        await program.wait()
