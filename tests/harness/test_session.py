"""The user's session in a sandbox: stored before the reply, and not lost for want of an orchestrator."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.harness.conftest import Boot
from tests.harness.driver import Harness, Link
from tests.harness.page1 import Page

APP = """
import asyncio
from htag import Tag

class App(Tag.div):
    def init(self):
        self.kept = self.session
        self += Tag.p(f"session {sorted(self.session.items())}")
        for name in ("put", "append", "drop", "odd", "big", "later", "show", "state_of", "slow", "both", "half"):
            self += Tag.button(name, _onclick=getattr(self.bind, name)())

    def put(self):
        self.session["n"] = self.session.get("n", 0) + 1

    def append(self):
        self.session.setdefault("list", []).append(1)

    def drop(self):
        self.session.pop("n", None)

    def odd(self):
        self.session["odd"] = {1, 2}

    def big(self):
        self.session["big"] = "x" * 100_000

    def half(self):
        self.session["half"] = "\\ud83d of an emoji"
        print("said", self.session["half"].encode("ascii", "backslashreplace"))

    def both(self):
        self.session["odd"] = object()
        self.session["fine"] = 1

    async def later(self):
        async def work():
            self.session["later"] = True
        self.task = asyncio.create_task(work())

    def show(self):
        print("the session is", sorted(self.session.items()), self.session is self.kept)

    def state_of(self):
        self.state["clicks"] = 1

    async def slow(self):
        print("slow begins")
        await asyncio.sleep(0.3)
        print("slow sees", self.session.get("other"))
"""

APP2 = """
from htag import Tag

class App(Tag.App):
    def init(self):
        self += Tag.p(f"session {sorted(self.request.session.items())}")
"""


async def ready(harness: Harness, session: dict[str, object] | None = None) -> Page:
    await harness.load(APP)
    await harness.claim(session=session)
    return await Page.open(harness)


async def changes(link: Link) -> list[tuple[dict[str, object], list[str]]]:
    return [(frame["set"], frame["del"]) for frame in link.heard if frame["type"] == "session"]


@pytest.mark.parametrize(("generation", "source"), [(1, APP), (2, APP2)])
async def test_the_record_is_there_when_the_first_page_is_made(boot: Boot, generation: int, source: str) -> None:
    harness = await boot(generation)
    await harness.load(source)
    await harness.claim(session={"user": "ann", "n": 3})
    page = (await harness.http.get("/")).text
    assert "n&#x27;, 3" in page or "('n', 3), ('user', 'ann')" in page


async def test_a_change_is_stored_before_the_reply(first: Harness) -> None:
    page = await ready(first)
    await page.click("put")
    assert await changes(first.link) == [({"n": 1}, [])]


async def test_changes_in_place_and_deletions_count(first: Harness) -> None:
    page = await ready(first, {"n": 1, "list": [0]})
    await page.click("append")
    await page.click("drop")
    assert await changes(first.link) == [({"list": [0, 1]}, []), ({}, ["n"])]


async def test_nothing_is_sent_where_nothing_changed(first: Harness) -> None:
    page = await ready(first, {"n": 1})
    await page.click("show")
    await first.link.said("the session is [('n', 1)] True")
    assert await changes(first.link) == []


async def test_htags_own_state_lives_in_the_session(first: Harness) -> None:
    page = await ready(first)
    await page.click("state_of")
    assert await changes(first.link) == [({"app.App": {"clicks": 1}}, [])]


async def test_a_change_outside_an_interaction_is_flushed_soon(first: Harness) -> None:
    page = await ready(first)
    await page.click("later")
    assert (await first.link.frame("session"))["set"] == {"later": True}


async def test_a_reply_waits_for_the_ack_but_not_for_long(first: Harness) -> None:
    page = await ready(first)
    first.link.acks = False
    began = time.monotonic()
    await page.click("put")
    assert 0.2 < time.monotonic() - began < 2


async def test_without_an_orchestrator_nothing_waits_and_the_difference_is_sent_later(first: Harness) -> None:
    page = await ready(first)
    first.link.close()
    for _ in range(3):
        await page.click("put")
    newer = await first.connect()
    await newer.hello()
    # The first click may have come before the harness noticed: then it is sent once more, before the difference.
    await newer.frame("session", set={"n": 3})


async def test_what_was_not_acknowledged_is_sent_again_to_the_next_orchestrator(first: Harness) -> None:
    page = await ready(first)
    first.link.acks = False
    await page.click("put")
    newer = await first.connect()
    await newer.hello()
    assert (await newer.frame("session"))["set"] == {"n": 1}


async def test_a_refused_change_is_put_back_and_told_to_the_app(first: Harness) -> None:
    page = await ready(first, {"n": 1})
    first.link.refuse = lambda frame: "the session is full"
    await page.click("put")
    await first.link.said("the session is full; put back: n")
    await page.click("show")
    await first.link.said("the session is [('n', 1)]")


async def test_what_is_not_json_is_put_back_and_the_rest_is_stored(first: Harness) -> None:
    page = await ready(first)
    await page.click("odd")
    await first.link.said("'odd' is not JSON")
    await page.click("both")
    await page.click("show")
    await first.link.said("the session is [('fine', 1)]")
    assert await changes(first.link) == [({"fine": 1}, [])]


async def test_half_a_character_breaks_nothing(first: Harness) -> None:
    page = await ready(first)
    await page.click("half")
    await page.click("put")
    assert await changes(first.link) == [({"half": "? of an emoji"}, []), ({"n": 1}, [])]


async def test_too_much_is_put_back_before_it_is_sent(first: Harness) -> None:
    page = await ready(first, {"n": 1})
    await page.click("big")
    await first.link.said("larger than 65536 bytes; put back")
    await page.click("show")
    await first.link.said("the session is [('n', 1)]")
    assert await changes(first.link) == []


async def test_a_change_from_elsewhere_appears_between_interactions(first: Harness) -> None:
    page = await ready(first, {"other": 1})
    slow = asyncio.create_task(page.click("slow"))
    await first.link.said("slow begins")
    first.link.send({"type": "session", "set": {"other": 2}, "del": []})
    await slow
    await first.link.said("slow sees 1")
    await page.click("show")
    await first.link.said("the session is [('other', 2)] True")
    assert await changes(first.link) == []


async def test_a_change_from_elsewhere_that_came_before_our_ack_is_the_older_one(first: Harness) -> None:
    page = await ready(first)
    first.link.acks = False
    clicking = asyncio.create_task(page.click("put"))
    await first.link.frame("session")
    first.link.send({"type": "session", "set": {"n": 7, "other": 2}, "del": []})
    await clicking
    await page.click("show")
    await first.link.said("the session is [('n', 1), ('other', 2)] True")


async def test_a_deletion_from_elsewhere_appears(first: Harness) -> None:
    page = await ready(first, {"n": 1})
    first.link.send({"type": "session", "set": {}, "del": ["n"]})
    await first.link.ping()
    await page.click("show")
    await first.link.said("the session is []")


async def test_a_new_instance_sees_the_same_session(first: Harness) -> None:
    page = await ready(first)
    await page.click("put")
    assert "session [('n', 1)]" in (await first.http.get("/?again")).text


async def test_many_changes_without_acks_stay_within_bounds(first: Harness) -> None:
    page = await ready(first)
    first.link.acks = False
    async with first.websocket("/_ws" + page.path) as websocket:
        for _ in range(40):
            await websocket.send(page.text(page.call_of("put")))
        for _ in range(40):
            json.loads(await websocket.recv())
    assert len(await changes(first.link)) <= 32
