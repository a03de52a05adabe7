"""Parano mode at the harness's door: what is let in, what is refused, and that it is refused without doing anything."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.harness.apps import COUNTER1, COUNTER2
from tests.harness.conftest import Boot
from tests.harness.driver import DEADLINE_S, Harness, booted
from tests.harness.page1 import Page as Page1
from tests.harness.page2 import Page as Page2
from tests.harness.sealed_page import SealedPage
from tests.sites import Sites

BROKEN, GONE = 4801, 4810
BOTH = pytest.mark.parametrize(("generation", "source"), [(1, COUNTER1), (2, COUNTER2)], ids=["htag 1", "htag 2"])


async def served(boot: Boot, generation: int, source: str, **load: Any) -> Harness:
    harness = await boot(generation)
    await harness.load(source, parano=True, **load)
    await harness.claim()
    return harness


@pytest.fixture
async def counter(boot: Boot) -> Harness:
    return await served(boot, 1, COUNTER1)


class Opened1:
    """A sealed page of the counter of htag 1, and what its clicks say."""

    def __init__(self, page: SealedPage, html: str) -> None:
        self.page = page
        self.inner = Page1(page.harness, html)

    @classmethod
    async def open(cls, harness: Harness) -> Opened1:
        page = await SealedPage.open(harness)
        return cls(page, (await page.ask("GET", "/")).text)

    def click(self) -> dict[str, Any]:
        message = self.inner.message(self.inner.call_of("more"))
        return {"instance": self.inner.instance, "page": self.inner.name, **message}

    @property
    def query(self) -> str:
        return self.inner.path[1:]


async def closed(websocket: Any) -> int:
    """The code by which the other side closes."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            while True:
                await websocket.recv()
        except ConnectionClosed as end:
            return int(end.rcvd.code) if end.rcvd else 1006


@BOTH
async def test_the_first_answer_has_nothing_of_the_app(boot: Boot, generation: int, source: str) -> None:
    harness = await served(boot, generation, source)
    answer = await harness.http.get("/")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    for word in ("more", "htag_event", "INSTANCE", "interact(", "output", "HTAG_CSRF"):
        assert word not in answer.text
    assert (await harness.http.head("/")).status_code == 200


@BOTH
async def test_what_comes_in_the_clear_is_refused(boot: Boot, generation: int, source: str) -> None:
    harness = await served(boot, generation, source)
    page = await SealedPage.open(harness)
    html = (await page.ask("GET", "/")).text
    if generation == 1:
        click: object = {"instance": Page1(harness, html).instance, "page": "p", "n": 1, "got": 0}
    else:
        click = Page2(html).event("more")
    for path in ("/_post", "/event", "/", "/_sealed", "/_sealed/agree"):
        assert (await harness.http.post(path, json=click)).status_code in (400, 403), path
    for path in ("/stream", "/_stream", "/anything", "/_sealed", "/_sealed?e30"):
        assert (await harness.http.get(path)).status_code in (400, 403), path
    for path in ("/ws", "/_ws"):
        with pytest.raises(InvalidStatus):
            async with harness.websocket(path):
                pass
    assert "counted" not in harness.link.output


async def test_htags_own_pictures_are_no_secret(boot: Boot) -> None:
    harness = await served(boot, 2, COUNTER2)
    answer = await harness.http.get("/logo.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


async def test_a_sealed_post_is_answered(counter: Harness) -> None:
    opened = await Opened1.open(counter)
    answer = await opened.page.ask("POST", "/_post", body=opened.click())
    assert json.loads(answer.text)["frames"]


async def test_a_sealed_event_is_answered(boot: Boot) -> None:
    harness = await served(boot, 2, COUNTER2)
    page = await SealedPage.open(harness)
    inner = Page2((await page.ask("GET", "/")).text)
    event = {**inner.event("more"), "fallback": True}
    refused = await page.ask("POST", "/event", body=event, **{"X-HTAG-TOKEN": "another page's"})
    assert "location.reload" in refused.text
    answer = await page.ask("POST", "/event", body=event, **{"X-HTAG-TOKEN": inner.token})
    assert json.loads(answer.text)["payloads"]
    await harness.link.said("counted to 1")


async def test_a_page_that_is_none_says_so_sealed_too(counter: Harness) -> None:
    page = await SealedPage.open(counter)
    assert (await page.ask("GET", "/nowhere")).status_code == 404


async def test_a_sealed_socket_works_like_an_open_one(counter: Harness) -> None:
    opened = await Opened1.open(counter)
    async with opened.page.socket("/_ws", opened.query) as socket:
        kind, head = await socket.record()
        assert (kind, json.loads(head)) == ("h", {"protocol": ""})
        for n in (1, 2):
            await socket.send(opened.click())
            assert (await socket.receive())["done"] == n
    await counter.link.said("counted to 2")


async def test_a_sealed_stream_brings_events_and_begins_with_its_head(boot: Boot) -> None:
    harness = await served(boot, 2, COUNTER2)
    page = await SealedPage.open(harness)
    await page.ask("GET", "/")
    channel, address = page.stream("/stream")
    async with asyncio.timeout(DEADLINE_S), harness.http.stream("GET", address) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        records = sealed_events(answer)
        kind, head = channel.open(await anext(records))
        assert (kind, json.loads(head)["status"]) == ("h", 200)
        kind, first = channel.open(await anext(records))
        assert (kind, first[:6]) == ("b", b"data: ")


async def sealed_events(answer: Any) -> Any:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield base64.b64decode(line[6:])


# -- what a proxy could do -------------------------------------------------------------------------------------------


async def test_a_click_that_is_sent_again_is_refused(counter: Harness) -> None:
    opened = await Opened1.open(counter)
    body = opened.page.channel("exchange").request(
        {"method": "POST", "path": "/_post"}, json.dumps(opened.click()).encode()
    )
    statuses = [(await counter.http.post("/_sealed", content=body)).status_code for _ in range(3)]
    assert statuses == [200, 409, 409]
    await counter.link.said("counted to 1")
    assert counter.link.output.count("counted") == 1


async def test_a_request_that_was_cut_or_changed_is_refused(counter: Harness) -> None:
    opened = await Opened1.open(counter)
    head = {"method": "POST", "path": "/_post"}
    body = opened.page.channel("exchange").request(head, json.dumps(opened.click()).encode())
    ends = [len(body) - 21, len(body) - 1]  # without its end, and within it
    changed = [body[:end] for end in ends] + [body + body[20:], body[:-1] + bytes([body[-1] ^ 1])]
    for each in changed:
        # Whatever was opened of it has used its number up: that channel was spoilt, and the page begins another.
        fresh = opened.page.channel("exchange").request(head, json.dumps(opened.click()).encode())
        spoilt = fresh[: len(each)] if len(each) < len(body) else fresh[:20] + each[20:]
        assert (await counter.http.post("/_sealed", content=spoilt)).status_code == 400
    await counter.link.ping()
    assert "counted" not in counter.link.output


async def test_frames_that_are_repeated_swapped_or_clear_end_the_socket(counter: Harness) -> None:
    opened = await Opened1.open(counter)

    async def told(*frames: bytes | str) -> int:
        for frame in frames:
            await socket.websocket.send(frame)
        return await closed(socket.websocket)

    async with opened.page.socket("/_ws", opened.query) as socket:
        await socket.record()
        click = socket.channel.seal("t", json.dumps(opened.click()).encode())
        await socket.websocket.send(click)
        assert (await socket.receive())["done"] == 1
        assert await told(click) == BROKEN
    async with opened.page.socket("/_ws", opened.query) as socket:
        first, second = (socket.channel.seal("t", json.dumps(opened.click()).encode()) for _ in range(2))
        assert await told(second, first) == BROKEN
    async with opened.page.socket("/_ws", opened.query) as socket:
        assert await told(json.dumps(opened.click())) == BROKEN
    async with opened.page.socket("/_ws", opened.query) as socket:
        assert await told(json.dumps(opened.click()).encode()) == BROKEN
    async with opened.page.socket("/_ws", opened.query) as socket:
        assert await told(socket.channel.seal("t", json.dumps(opened.click()).encode())[:-1]) == BROKEN
    await counter.link.said("counted to 1")
    assert counter.link.output.count("counted") == 1


async def test_a_socket_cannot_be_opened_by_what_opened_another(counter: Harness) -> None:
    opened = await Opened1.open(counter)
    begun = opened.page.channel("socket").begin({"path": "/_ws", "query": opened.query})
    async with counter.websocket("/_sealed") as one, counter.websocket("/_sealed") as other:
        await one.send(begun)
        await one.recv()
        await other.send(begun)
        assert await closed(other) == BROKEN


async def test_another_page_keeps_its_keys_while_one_is_loaded_again(counter: Harness) -> None:
    one, other = await Opened1.open(counter), await Opened1.open(counter)
    again = await Opened1.open(counter)
    for opened in (one, other, again):
        assert (await opened.page.ask("POST", "/_post", body=opened.click())).status_code == 200
    assert len({each.page.name for each in (one, other, again)}) == 3


async def test_a_page_of_an_earlier_sandbox_is_told_by_whatever_way_it_asks(boot: Boot) -> None:
    old, new = await served(boot, 1, COUNTER1), await served(boot, 1, COUNTER1)
    opened = await Opened1.open(old)
    page = opened.page
    page.harness = new
    body = page.channel("exchange").request({"method": "GET", "path": "/"})
    assert (await new.http.post("/_sealed", content=body)).status_code == 410
    _, address = page.stream("/_stream", opened.query)
    assert "event: gone" in (await new.http.get(address)).text
    async with page.socket("/_ws", opened.query) as socket:
        assert await closed(socket.websocket) == GONE


# -- what it costs, and where it isn't to be had ---------------------------------------------------------------------


@pytest.mark.parametrize("parano", [False, True])
async def test_only_an_app_with_parano_pays_for_it(boot: Boot, parano: bool) -> None:
    harness = await boot(2)
    await harness.load(COUNTER2, parano=parano)
    await harness.claim()
    mapped = await asyncio.to_thread(Path(f"/proc/{harness.process.pid}/maps").read_text)
    assert ("cryptography" in mapped) is parano


async def test_an_app_of_no_htag_is_refused(boot: Boot) -> None:
    harness = await boot(0)
    app = "async def app(scope, receive, send):\n    pass\n"
    answer = await harness.load(app, "app:app", parano=True, expect="failed")
    assert "parano is for apps of htag only" in answer["error"]


async def test_where_its_package_is_missing_the_app_is_not_served(sites: Sites, tmp_path: Path) -> None:
    (tmp_path / "site-gen1").symlink_to(sites.root / "site-gen1")
    (tmp_path / "site").mkdir()
    for path in (sites.root / "site").iterdir():
        if not path.name.startswith("cryptography"):
            (tmp_path / "site" / path.name).symlink_to(path)
    async with booted(Sites(tmp_path), 1) as harness:
        await harness.connect()
        await harness.link.hello()
        answer = await harness.load(COUNTER1, parano=True, expect="failed")
    assert "parano needs the package cryptography, which isn't here" in answer["error"]


async def test_an_apps_own_module_of_that_name_is_not_taken_for_the_real_one(boot: Boot) -> None:
    harness = await boot(1)
    await harness.load({"app.py": COUNTER1, "cryptography.py": "raise RuntimeError('mine')"}, parano=True)
    await harness.claim()
    assert (await (await SealedPage.open(harness)).ask("GET", "/")).status_code == 200
