"""A platform with a warm pool: no visitor finds what another left there; and while all click and parts are killed at
random, nobody but a killed sandbox's visitor may notice."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from playwright.async_api import BrowserContext, Page, expect

from tests.chromium import chromium
from tests.e2e.clicker import Clicker, Clicker1, Clicker2
from tests.e2e.conftest import free_port
from tests.e2e.stack import PROJECT, Stack, docker, until

pytestmark = [pytest.mark.docker, pytest.mark.e2e]

USERS = int(os.environ.get("CHAOS_USERS", "5"))
SECONDS = float(os.environ.get("CHAOS_SECONDS", "25"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))  # make chaos takes another each time


MARKER = """
import os

from htag import Tag

SEEN = []


class App(Tag.main):
    def init(self):
        self.shown = Tag.output(self.found())
        self += self.shown
        self += Tag.button("leave", _onclick=self.bind.leave())

    def found(self):
        return f"found {SEEN} {[name for name in os.listdir('/tmp') if name == 'marker']}"

    def leave(self):
        SEEN.append("marker")
        open("/tmp/marker", "w").close()
        self.shown.clear(self.found())
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A platform of its own, with a warm pool. The environment is what it was afterwards: another may run beside it."""
    with pytest.MonkeyPatch.context() as environment:
        for name in (
            "COMPOSE_PROJECT_NAME", "HTAGWEB_PORT", "E2E_FOLDER", "HTAGWEB_ORPHAN_TIMEOUT", "HTAGWEB_WARM_MAX",
        ):  # fmt: skip
            environment.setenv(name, "")  # so that it is put back
        folder = tmp_path_factory.mktemp("chaos")
        stack = Stack(folder, project=f"{PROJECT}-chaos", port=free_port(), environment={"HTAGWEB_WARM_MAX": "4"})
        stack.publish()
        (folder / "apps" / "marker.py").write_text(MARKER)
        try:
            stack.up()
            yield stack
        finally:
            print(stack.logs("orchestrator")[-6000:], stack.logs("gateway")[-2000:])
            stack.down()


async def opened(context: BrowserContext) -> tuple[Page, str]:
    """The marker's page in a visitor's browser, and the id of what serves it."""
    page = await context.new_page()
    await page.goto("/marker/")
    await page.locator("script[data-app]").wait_for(state="attached")
    status = await (await context.request.get("/-/status?app=marker")).json()
    return page, str(status["sandbox"])


async def test_what_one_visitor_leaves_no_other_finds_in_a_warm_sandbox(platform: Stack) -> None:
    def warm() -> set[str]:
        """Sandboxes that have imported the app already, and wait for a visitor."""
        rows = [row for row in platform.rows() if (row["app"], row["state"]) == ("marker", "warm")]
        return {row["id"][:12] for row in rows}

    def gone(sandbox: str) -> bool:
        return not any(sandbox in box["Names"] for box in platform.containers())

    async with chromium() as browser:
        ann, bob, carol = [await browser.new_context(base_url=platform.url) for _ in range(3)]
        page, first = await opened(ann)
        shown = page.locator("output")
        await expect(shown).to_have_text("found [] []")
        await page.get_by_role("button", name="leave").click()
        await expect(shown).to_have_text("found ['marker'] ['marker']")
        stopped = await ann.request.post("/-/stop", form={"app": "marker"}, headers={"Origin": platform.url})
        assert stopped.ok
        await asyncio.to_thread(until, lambda: gone(first), what="the first one is gone")
        waiting = await asyncio.to_thread(until, warm, what="one that has the app is waiting")
        pages = await asyncio.gather(*(opened(context) for context in (bob, carol, ann)))
        for page, _ in pages:
            await expect(page.locator("output")).to_have_text("found [] []")
        sandboxes = {sandbox for _, sandbox in pages}
        assert len(sandboxes | {first}) == 4
        assert sandboxes & waiting


class Chaos:
    """Kills parts, one after the other, in an order of its own; every kind of part in each round."""

    def __init__(self, stack: Stack, clickers: list[Clicker], rng: Random, killed: set[str]) -> None:
        self.kills: Counter[str] = Counter()
        self._stack = stack
        self._clickers = clickers
        self._rng = rng
        self._killed = killed

    async def run(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            parts = ["gateway", "orchestrator", "sandbox", "sandbox"]
            self._rng.shuffle(parts)
            for part in parts:
                await asyncio.sleep(self._rng.uniform(0.5, 3.0))
                if time.monotonic() > until_s:
                    return
                if part == "sandbox":
                    await asyncio.to_thread(self._kill_a_sandbox)
                else:
                    await asyncio.to_thread(self._kill, part)

    def _kill(self, service: str) -> None:
        until(lambda: self._runs(service), what=f"the {service} runs again")
        self._stack.kill(service)
        self.kills[service] += 1

    def _runs(self, service: str) -> bool:
        container = self._stack.docker_compose("ps", "-q", service).stdout.strip()
        return bool(container) and docker("inspect", "--format", "{{.State.Running}}", container) == "true"

    def _kill_a_sandbox(self) -> None:
        """While an orchestrator is there: changes of a session that nobody could take are lost with their sandbox."""
        until(
            lambda: self._stack.htagweb("list", "--json", check=False).returncode == 0, what="the orchestrator is back"
        )
        time.sleep(1.0)  # until it has reached every harness
        victim = self._rng.choice(self._clickers).sandbox
        names = [box["Names"] for box in self._stack.containers() if victim and victim in box["Names"]]
        if names:
            self._killed.add(victim)
            docker("kill", names[0])
            self.kills["sandbox"] += 1


async def test_nobody_notices_a_kill_but_the_visitor_of_what_was_killed(platform: Stack) -> None:
    print(f"CHAOS_SEED={SEED}")
    rng, killed = Random(SEED), set[str]()
    clickers: list[Clicker] = [
        (Clicker2 if number % 2 else Clicker1)(platform.url, f"user-{number}", Random(rng.random()), killed)
        for number in range(USERS)
    ]
    chaos = Chaos(platform, clickers, rng, killed)
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for clicker in clickers:
            tasks.create_task(clicker.run(over))
        await chaos.run(time.monotonic() + SECONDS)
        over.set()
    answered = sum(clicker.answered for clicker in clickers)
    print(f"{answered} clicks, {sum(clicker.starts for clicker in clickers)} sandboxes, killed: {dict(chaos.kills)}")
    assert [complaint for clicker in clickers for complaint in clicker.complaints] == []
    assert answered > USERS * SECONDS / 4
    assert set(chaos.kills) == {"gateway", "orchestrator", "sandbox"}
    _nothing_is_left(platform, clickers)


def _nothing_is_left(platform: Stack, clickers: list[Clicker]) -> None:
    """One sandbox for each visitor, the warm pool, and nothing else; and when those are ended, nothing at all."""

    def mine() -> list[str]:
        rows = [row for row in platform.rows() if row["app"] in (Clicker1.app, Clicker2.app) and row["user"]]
        return sorted(row["id"][:12] for row in rows)

    until(lambda: mine() == sorted(clicker.sandbox for clicker in clickers), what="one sandbox for each visitor")
    names = {box["Names"].removeprefix("htagweb-")[:12] for box in platform.containers()}
    assert {clicker.sandbox for clicker in clickers} <= names
    platform.docker_compose("stop", "gateway")
    platform.htagweb("reap", "--all", "--yes", check=False)
    until(lambda: not mine(), what="no visitor has a sandbox")
