"""What an app prints reaches the operator, and costs the app nothing."""

from __future__ import annotations

import asyncio

from tests.harness.driver import Harness
from tests.harness.page1 import Page

APP = """
import os, subprocess, sys, time
from htag import Tag

class App(Tag.div):
    def init(self):
        self += [Tag.button(name, _onclick=getattr(self.bind, name)()) for name in ("say", "flood", "block", "child")]

    def say(self):
        print("to stdout ✓")
        print("to stderr", file=sys.stderr)
        os.write(1, b"raw \\xff\\n")
        print("half a line", end="")

    def flood(self):
        line = b"x" * 1023 + b"\\n"
        began = time.monotonic()
        for _ in range(10 * 1024):
            os.write(1, line)
        print(f"flooded in {time.monotonic() - began:.3f}")

    def block(self):
        print("before the block")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            os.write(2, b"y" * 100 + b"\\n")
            time.sleep(0.01)
        print("after the block")

    def child(self):
        subprocess.run(["/bin/echo", "from a child"])
"""


async def ready(harness: Harness) -> Page:
    await harness.load(APP)
    await harness.claim()
    return await Page.open(harness)


async def test_both_streams_and_raw_writes_arrive(first: Harness) -> None:
    await (await ready(first)).click("say")
    await first.link.said("half a line")
    assert "to stdout ✓\n" in first.link.output
    assert "to stderr\n" in first.link.output
    assert "raw \ufffd\n" in first.link.output


async def test_a_childs_output_arrives(first: Harness) -> None:
    await (await ready(first)).click("child")
    await first.link.said("from a child")


async def test_a_flood_is_cut_and_counted_and_its_end_arrives(first: Harness) -> None:
    await (await ready(first)).click("flood")
    await first.link.said("flooded in")
    frames = [frame for frame in first.link.heard if frame["type"] == "output"]
    got = sum(len(frame["text"].encode()) for frame in frames)
    assert got + sum(frame["dropped"] for frame in frames) >= 10 * 1024 * 1024
    assert got < 10 * 1024 * 1024
    assert all(len(frame["text"]) <= 32 * 1024 for frame in frames)


async def test_output_goes_on_while_a_handler_blocks_the_loop(first: Harness) -> None:
    page = await ready(first)
    task = asyncio.create_task(page.click("block"))
    await first.link.said("before the block")
    await first.link.said("yyyy")
    assert not task.done()
    await task
    await first.link.said("after the block")


async def test_a_flood_while_importing_does_not_stop_the_import(first: Harness) -> None:
    await first.load("print('z' * 10_000_000)\nprint('imported')\n" + APP)
    await first.link.said("imported")


async def test_what_was_not_sent_waits_for_the_next_connection(first: Harness) -> None:
    page = await ready(first)
    first.link.close()
    await page.click("say")
    newer = await first.connect()
    await newer.hello()
    await newer.said("half a line")
