"""The browser of the tests' visitors, and how long they wait for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright import async_api, sync_api
from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
ARGS = ["--no-sandbox", "--disable-gpu"]
PATIENCE_MS = 30_000  # what takes milliseconds takes seconds where everything else runs at the same time
for api in (async_api, sync_api):
    api.expect.set_options(timeout=PATIENCE_MS)

# The first frame of htag 2's streams puts a new body in place of the page's own, which looks the same. What was typed
# into that is lost then, and so is a click between its two halves. This has to run in the page before anything else.
NOTE_DRAWN = """(() => {
  const log = console.log;
  console.log = (...said) => {
    if (`${said[0]}`.includes("payload updates") && `${said[1]}`.includes("body-")) window.drawn = true;
    log(...said);
  };
})()"""
DRAWN = "document.readyState !== 'loading' && (window.drawn || window.use_pure_http || !window.htag_transport)"


@asynccontextmanager
async def chromium(*args: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGS, *args])
        yield browser
        await browser.close()


@asynccontextmanager
async def tab(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A page of somebody who was never here."""
    context = await browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    await context.add_init_script(NOTE_DRAWN)
    yield await context.new_page()
    await context.close()


async def press(page: Page, label: str) -> None:
    """Click on the button, once it's not going to be put in place of another."""
    button = page.get_by_role("button", name=label, exact=True)
    await button.wait_for()
    await page.wait_for_function(DRAWN)
    await button.click()
