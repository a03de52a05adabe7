"""An app for members, from the account that the command makes to the sign-out in another tab, with everything real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Visitor
from tests.e2e.stack import Stack, until
from tests.e2e.test_main_job import step_up

pytestmark = [pytest.mark.docker, pytest.mark.e2e]

PASSWORD = "correct horse battery"
PHONE = {"width": 375, "height": 720}


def sign_in(page: Page, name: str = "ann") -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def one_more(page: Page, shown: str) -> None:
    step_up(page)
    expect(page.locator("output")).to_have_text(shown)


def test_a_members_app_opens_for_members_and_a_sign_out_elsewhere_stops_it_at_once(
    visitor: Visitor, stack: Stack, shots: Path
) -> None:
    stack.htagweb("users", "add", "ann", "--full-name", "Ann Oak", typed=PASSWORD)
    page = visitor()
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.emulate_media(color_scheme="dark")
    answer = page.goto("/members/")
    assert answer is not None
    assert answer.status == 404
    page.get_by_role("link", name="Sign in").click()
    sign_in(page)
    one_more(page, "1")
    until(lambda: [(row["app"], row["user"], row["ws"]) for row in stack.rows()] == [("members", "ann", 1)])

    other = page.context.new_page()
    other.goto("/")
    expect(other.get_by_text("Ann Oak")).to_be_visible()
    other.get_by_role("button", name="Sign out").click()
    # It takes milliseconds, on a machine that isn't busy; by asking, the page would learn of it within 30 s.
    expect(page.get_by_role("dialog")).to_contain_text("You are signed out", timeout=15_000)
    until(lambda: stack.rows()[0]["ws"] == 0, what="the gateway has told of it")
    page.screenshot(path=shots / "signed-out-for-real.png")

    page.bring_to_front()
    page.get_by_role("button", name="Sign in").click()
    sign_in(page)
    one_more(page, "2")  # it was there all the time

    stack.htagweb("users", "disable", "ann")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert stack.rows() == []
    said = [entry["event"] for entry in json.loads(stack.htagweb("audit", "--json").stdout) if entry["who"] == "ann"]
    assert said[:2] == ["signed-in", "started"]
    assert "signed-out" in said
