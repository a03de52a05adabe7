"""Parano mode through the whole platform: what the gateway passes on to the browser is ciphertext."""

from __future__ import annotations

import json
import urllib.parse

import pytest
from playwright.sync_api import Response, WebSocket, expect

from tests.e2e.conftest import Visitor
from tests.e2e.stack import Stack
from tests.e2e.test_main_job import expect_count, open_app, step_up

pytestmark = [pytest.mark.docker, pytest.mark.e2e]


@pytest.mark.parametrize("name", ["sealed", "sealed2"])
def test_a_sealed_app_works_and_only_ciphertext_leaves_its_container(visitor: Visitor, stack: Stack, name: str) -> None:
    page = visitor()
    answers: list[Response] = []
    frames: list[str | bytes] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: frames.append(frame))
        socket.on("framereceived", lambda frame: frames.append(frame))

    page.on("response", lambda answer: answers.append(answer))
    page.on("websocket", listen)
    open_app(page, name)
    expect(page.get_by_role("button", name="one more")).to_be_visible()
    for count in (1, 2):
        step_up(page)
        expect_count(page, count)
    page.reload()
    expect_count(page, 2)
    ours = [answer for answer in answers if urllib.parse.urlsplit(answer.url).path.startswith(f"/{name}/")]
    assert {urllib.parse.urlsplit(answer.url).path.removeprefix(f"/{name}/") for answer in ours} <= {
        "", "_sealed", "_sealed/agree", "logo.png",
    }  # fmt: skip
    assert len(frames) >= 6
    for frame in frames:
        assert isinstance(frame, bytes)
        assert b"output" not in frame

    cookie = "; ".join(f"{each['name']}={each['value']}" for each in page.context.cookies())
    status, _, html = stack.get(f"/{name}/", headers={"Cookie": cookie, "Accept": "text/html"})
    assert (status, "one more" in html) == (200, False)
    clear = {"Cookie": cookie, "Origin": stack.url, "Content-Type": "application/json"}
    for path in ("_post", "event"):
        status, _, text = stack.get(f"/{name}/{path}", method="POST", headers=clear, body=b"{}")
        assert (status, "parano is on" in json.loads(text)["error"]) == (403, True)


def test_a_sealed_page_goes_on_after_the_gateway_was_killed(visitor: Visitor, stack: Stack) -> None:
    page = open_app(visitor(), "sealed2")
    step_up(page)
    expect_count(page, 1)
    page.evaluate("window.stayed = true")
    stack.kill("gateway")
    step_up(page)
    expect(page.locator("output").first).to_have_text("2", timeout=30_000)
    assert page.evaluate("window.stayed")


def test_a_sealed_page_says_why_its_app_ended(visitor: Visitor, stack: Stack) -> None:
    page = open_app(visitor(), "sealed")
    step_up(page)
    expect_count(page, 1)
    stack.htagweb("reap", "--app", "sealed", "--yes")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button").click()
    expect(page.get_by_role("button", name="one more")).to_be_visible()
    expect_count(page, 0)
