"""The control connection: what an honest harness says, and when its process ends."""

from __future__ import annotations

import asyncio
import os
import socket
import stat

import pytest

from tests.harness.apps import COUNTER1
from tests.harness.conftest import Boot
from tests.harness.driver import DEADLINE_S, Harness, booted
from tests.harness.page1 import Page, receive
from tests.sites import Sites

BLOCKING = """
from htag import Tag
import time

class App(Tag.div):
    def init(self):
        self += Tag.button("block", _onclick=self.bind.block())
        self += Tag.button("leave", _onclick=self.bind.leave())

    def block(self):
        print("blocking")
        time.sleep(30)

    def leave(self):
        print("leaving")
        self.exit()
"""


@pytest.mark.parametrize("generation", [1, 2])
async def test_a_blank_harness_says_who_it_is(boot: Boot, generation: int) -> None:
    hello = (await boot(generation)).link.heard[0]
    assert hello["stage"] == "blank"
    assert hello["generation"] == generation
    assert hello["protocol"] == 1
    assert hello["version"] == ""
    assert int(hello["htag"].split(".")[0]) in ((0, 1) if generation == 1 else (2,))


async def test_it_makes_exactly_two_sockets_and_writes_nothing(sites: Sites) -> None:
    async with booted(sites, 1) as harness:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in harness.run.iterdir()}
        assert modes == {"app.sock": 0o666, "control.sock": 0o600}
        assert (harness.run.parent / "boot.log").read_text() == ""


async def test_a_run_directory_that_takes_no_socket_is_explained_on_stderr(sites: Sites) -> None:
    async with booted(sites, 1) as harness:
        harness.command[harness.command.index("--run") + 1] += "/nowhere"
        again = await asyncio.create_subprocess_exec(
            *harness.command, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
        )
        _, said = await asyncio.wait_for(again.communicate(), DEADLINE_S)
        assert again.returncode == 1
        assert b"No such file or directory" in said


async def test_the_newest_connection_wins_and_learns_the_stage(first: Harness) -> None:
    await first.load(COUNTER1)
    await first.claim()
    older = first.link
    newer = await first.connect()
    hello = await newer.hello()
    assert (hello["stage"], hello["version"]) == ("claimed", "v1")
    await older.until(lambda: older.closed)
    await newer.ping()


async def test_a_ping_is_answered_by_the_event_loop_not_by_the_thread(first: Harness) -> None:
    await first.load(BLOCKING)
    await first.claim()
    page = await Page.open(first)
    blocked = asyncio.create_task(page.click("block"))
    await first.link.said("blocking")
    first.link.send({"type": "ping", "n": 7})
    with pytest.raises(TimeoutError):
        await first.link.until(lambda: any(frame["type"] == "ping" for frame in first.link.heard), deadline_s=0.3)
    blocked.cancel()


async def test_an_orphan_ends_by_itself(first: Harness) -> None:
    await first.link.hello(orphan_timeout_s=0.2)
    await first.load(COUNTER1)
    await first.claim()
    first.link.close()
    assert await first.ended() == 0


async def test_a_connection_that_says_nothing_is_no_orchestrator(first: Harness) -> None:
    await first.link.hello(orphan_timeout_s=0.2)
    await first.connect()
    assert await first.ended() == 0


async def test_end_closes_open_pages_as_going_away_and_ends_the_process(first: Harness) -> None:
    await first.load(COUNTER1)
    await first.claim()
    page = await Page.open(first)
    async with first.websocket("/_ws" + page.path) as websocket:
        first.link.send({"type": "end", "reason": "idle", "grace_s": 5})
        await websocket.wait_closed()
        assert websocket.close_code == 1001
    assert await first.ended() == 0


async def test_end_ends_a_process_whose_loop_is_blocked(first: Harness) -> None:
    await first.load(BLOCKING)
    await first.claim()
    page = await Page.open(first)
    blocked = asyncio.create_task(page.click("block"))
    await first.link.said("blocking")
    first.link.send({"type": "end", "reason": "timeout", "grace_s": 0.1})
    assert await first.ended() == 0
    blocked.cancel()


async def test_end_ends_a_blank_harness(first: Harness) -> None:
    first.link.send({"type": "end", "reason": "updated", "grace_s": 5})
    assert await first.ended() == 0


async def test_an_app_that_exits_says_so_after_its_last_reply(first: Harness) -> None:
    await first.load(BLOCKING)
    await first.claim()
    page = await Page.open(first)
    async with first.websocket("/_ws" + page.path) as websocket:
        await websocket.send(page.text(page.call_of("leave")))
        assert (await receive(websocket))["done"] == 1
        await first.link.frame("exit")
    assert "leaving" in first.link.output
    assert await first.ended() == 0


async def test_an_unknown_frame_is_ignored(first: Harness) -> None:
    first.link.send({"type": "weather", "wind": "strong"})
    await first.link.ping()


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02no", b"\x00\x00\x00\x02[]", b"\x00\x50\x00\x00"]
)
async def test_what_is_no_frame_closes_the_connection_and_nothing_else(first: Harness, data: bytes) -> None:
    first.link.send_raw(data)
    await first.link.until(lambda: first.link.closed)
    await (await first.connect()).hello()


async def test_a_second_claim_is_refused(first: Harness) -> None:
    await first.load(COUNTER1)
    await first.claim()
    heard = len(first.link.heard)
    first.link.send({"type": "claim", "session": {}, "query": "", "prefix": "/toy", "profile": None})
    answer = await first.link.frame("failed", after=heard)
    assert answer["stage"] == "claim"
    assert (await first.http.get("/")).status_code == 200


async def test_a_claim_before_the_load_is_refused(first: Harness) -> None:
    await first.claim(expect="failed")


async def test_nothing_is_served_before_the_claim(first: Harness) -> None:
    await first.load(COUNTER1)
    assert (await first.http.get("/")).status_code == 503


async def test_head_says_that_the_page_is_there_without_touching_the_app(first: Harness) -> None:
    await first.load(COUNTER1)
    await first.claim(query="41")
    page = await Page.open(first, "?41")
    answer = await first.http.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await page.click("more"))["update"]


async def test_sigterm_ends_it(first: Harness) -> None:
    await first.load(COUNTER1)
    await first.claim()
    first.process.terminate()
    assert await first.ended() == 0


async def test_no_descriptor_of_the_run_directory_stays_open(first: Harness) -> None:
    await first.load(COUNTER1)
    await first.claim()
    folder = f"/proc/{first.process.pid}/fd"
    open_files = await asyncio.to_thread(lambda: [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)])
    assert not [path for path in open_files if path.startswith(str(first.run.parent))]


async def test_a_flood_of_connections_is_survived(first: Harness) -> None:
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(first.run / "control.sock"))
    await (await first.connect()).hello()
