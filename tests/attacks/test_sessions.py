"""Real sandboxes, gateway and orchestrator, each a process: a hundred pages write into two users' sessions at once, and
the orchestrator is killed in the middle."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from htagweb_gateway.orchestrator_client import OrchestratorClient
from htagweb_orchestrator.model import AppName, UserId
from tests.attacks.processes import gateway, orchestrator, serves
from tests.attacks.stage import Stage
from tests.attacks.visitor import Browser
from tests.e2e.conftest import free_port
from tests.engines.conftest import SOCKET

pytestmark = pytest.mark.docker

APP = """
from htag import Tag

class App(Tag.div):
    def init(self, who="nobody"):
        self.who = who
        self += Tag.button("append", _onclick=self.bind.write())

    def write(self):
        mine = self.session.setdefault("NAME", [])
        mine.append(f"{self.who} {len(mine)}")
"""
APPS = ("diary", "ledger")
PAGES, CLICKS = 25, 2  # of each user and app


async def test_a_hundred_writers_and_a_kill_lose_nothing_and_cross_nothing(closed_stage: Stage) -> None:
    if SOCKET != "/var/run/docker.sock":
        pytest.skip("the orchestrator's process looks for the engine at its usual place")
    stage = closed_stage
    for app in APPS:
        stage.publish(f"{app}.py", APP.replace("NAME", app))
    async with AsyncExitStack() as open_:
        first = await open_.enter_async_context(orchestrator(stage))
        client = await serves(stage)
        open_.push_async_callback(client.close)
        port = free_port()
        await open_.enter_async_context(gateway(stage, port))
        users = {who: await opened(open_, port, who) for who in ("ann", "bob")}
        clicked = asyncio.Semaphore(0)

        async def writer(browser: Browser, who: str) -> None:
            page = await browser.page(who)
            for _ in range(CLICKS):
                await page.click("append")
                clicked.release()

        async with asyncio.TaskGroup() as writers:
            for who, browsers in users.items():
                for browser in browsers:
                    for _ in range(PAGES):
                        writers.create_task(writer(browser, who))
            for _ in range(PAGES):  # an eighth of them all
                await clicked.acquire()
            first.kill()
            await first.wait()
            await open_.enter_async_context(orchestrator(stage))
        again = await serves(stage)
        open_.push_async_callback(again.close)
        for who, browsers in users.items():
            expected = {app: [f"{who} {number}" for number in range(PAGES * CLICKS)] for app in APPS}
            assert await settled(again, browsers[0].user, expected) == expected


async def opened(open_: AsyncExitStack, port: int, who: str) -> list[Browser]:
    """One visitor, with a browser at each app."""
    browsers = [Browser(port, app) for app in APPS]
    for browser in browsers:
        open_.push_async_callback(browser.http.aclose)
        browser.http.cookies = browsers[0].http.cookies
        await browser.page(who)
    return browsers


async def settled(client: OrchestratorClient, user: UserId, expected: dict[str, list[str]]) -> dict[str, object]:
    """The record, once it has what sandboxes kept while there was no orchestrator; or as it is when time is up."""
    found: dict[str, object] = {}
    for _ in range(100):
        found = await client.session(user, AppName(APPS[0]))
        if found == expected:
            break
        await asyncio.sleep(0.1)
    return found
