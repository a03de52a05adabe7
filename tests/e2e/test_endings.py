"""Each way in which a sandbox ends, and how it is told: in the open page, to an operator, in the log; and what keeps a
sandbox from it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import Visitor, arrival
from tests.e2e.stack import Stack, docker, until
from tests.e2e.test_main_job import expect_count, open_app, opened, step_up

pytestmark = [pytest.mark.docker, pytest.mark.e2e]

Act = Callable[[Page, Stack], object]


def press(label: str) -> Act:
    return lambda page, stack: page.get_by_role("button", name=label, exact=True).click()


def nothing(page: Page, stack: Stack) -> None:
    pass


def remove(page: Page, stack: Stack) -> None:
    docker("rm", "-f", stack.containers()[0]["ID"])


def stop_in_another_tab(page: Page, stack: Stack) -> None:
    tab = page.context.new_page()
    tab.goto("/")
    tab.get_by_role("button", name="Stop Counter", exact=True).click()


def reap(page: Page, stack: Stack) -> None:
    stack.htagweb("reap", "--all", "--yes")


def publish_and_reap(page: Page, stack: Stack) -> None:
    with (stack.folder / "apps" / "counter.py").open("a") as app:
        app.write(f"# a newer version, of {time.time()}\n")
    until(lambda: stack.rows()[0]["outdated"], what="the new version is there")
    stack.htagweb("reap", "--outdated", "--yes")


ENDINGS = {
    "idle": ("brief", nothing, "idle", "This app was put away"),
    "lifetime": ("shortlived", nothing, "lifetime", "Time's up for this app"),
    "timeout, blocking": ("endless", press("sync"), "timeout", "This app took too long"),
    "timeout, awaiting": ("endless", press("async"), "timeout", "This app took too long"),
    "timeout, htag 2, blocking": ("endless2", press("sync"), "timeout", "This app took too long"),
    "timeout, htag 2, awaiting": ("endless2", press("async"), "timeout", "This app took too long"),
    "memory": ("hungry", press("eat all"), "memory", "This app ran out of memory"),
    "crashed": ("dies", press("abort"), "crashed", "This app crashed"),
    "removed": ("counter2", remove, "crashed", "This app crashed"),
    "exited": ("dies", press("exit"), "exited", "This app has finished"),
    "visitor": ("counter", stop_in_another_tab, "visitor", "You stopped this app"),
    "operator": ("counter2", reap, "operator", "This app was stopped"),
    "updated": ("counter", publish_and_reap, "updated", "This app was updated"),
}


def ends_logged(stack: Stack, sandbox: str) -> list[dict[str, Any]]:
    """The log lines that tell of this sandbox's end."""
    found = []
    for line in stack.logs("orchestrator").splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line[line.index("{") :])  # compose puts a control sequence before
            if event.get("event") == "sandbox ended" and event.get("sandbox") == sandbox:
                found.append(event)
    return found


def audited(stack: Stack, row: dict[str, Any]) -> list[str]:
    entries = json.loads(stack.htagweb("audit", "--event", "ended", "--who", row["user"], "--json").stdout)
    return [entry["ending"] for entry in entries if entry["sandbox"] == row["id"]]


def counted(stack: Stack, app: str) -> Counter[str]:
    """Of this app, by ending, as Prometheus is told beside the gateway."""

    def told() -> str:  # whole, and not without an orchestrator that was too busy to answer
        metrics = stack.metrics()
        return metrics if re.search(r"^htagweb_up\S* 1", metrics, re.MULTILINE) else ""

    found = re.findall(rf'htagweb_endings_total{{app="{app}",ending="(\w+)"}} (\d+)', until(told))
    return Counter({ending: int(count) for ending, count in found})


@pytest.mark.parametrize(("app", "act", "word", "title"), ENDINGS.values(), ids=ENDINGS.keys())
def test_each_ending_is_told_alike_in_page_command_log_audit_and_metrics(
    visitor: Visitor, stack: Stack, shots: Path, app: str, act: Act, word: str, title: str
) -> None:
    before = counted(stack, app)
    page = open_app(visitor(), app)
    sandbox = page.evaluate("app => fetch(`/-/status?app=${app}`).then(r => r.json()).then(r => r.sandbox)", app)
    act(page, stack)
    dialog = page.get_by_role("dialog", name=title)
    expect(dialog).to_be_visible()
    page.screenshot(path=shots / f"ended-{word}.png")
    inspected = json.loads(stack.htagweb("inspect", sandbox, "--json").stdout)
    assert (inspected["state"], inspected["ending"]) == ("ended", word)
    assert inspected["because"]
    (logged,) = ends_logged(stack, inspected["id"])
    assert (logged["ending"], logged["app"], logged["user"]) == (word, app, inspected["user"])
    assert audited(stack, inspected) == [word]
    assert counted(stack, app) - before == Counter([word])
    until(lambda: not stack.containers(), what="it leaves no container")
    dialog.get_by_role("button").click()
    opened(page)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_start_that_fails_is_told_alike_too(visitor: Visitor, stack: Stack) -> None:
    page = visitor()
    page.goto("/crash/")
    expect(page.get_by_role("heading", name="This app could not start")).to_be_visible()
    error_id = page.locator("code").first.inner_text()
    inspected = json.loads(stack.htagweb("inspect", error_id, "--json").stdout)
    assert (inspected["ending"], inspected["because"]) == ("failed", "it never got to its first page")
    assert [event["ending"] for event in ends_logged(stack, inspected["id"])] == ["failed"]
    assert counted(stack, "crash")["failed"] > 0


def test_an_init_that_takes_too_long_says_so_and_where_it_was(visitor: Visitor, stack: Stack, shots: Path) -> None:
    page = visitor()
    page.goto("/neverstart/")
    expect(page.get_by_role("heading", name="This app could not start")).to_be_visible()
    expect(page.get_by_text("took longer than 1 second over its first page")).to_be_visible()
    page.screenshot(path=shots / "failed-init-too-long.png")
    assert "time.sleep(2)" in stack.htagweb("logs", page.locator("code").first.inner_text()).stdout


# -- interactions that take too long -----------------------------------------------------------------------------------


def test_a_handler_that_spins_holds_up_nobody_else(visitor: Visitor, stack: Stack) -> None:
    other = open_app(visitor(), "counter")
    press("sync")(open_app(visitor(), "spins"), stack)  # for a minute
    for count in range(1, 4):
        step_up(other)
        expect_count(other, count)
    assert {row["app"] for row in stack.rows()} == {"counter", "spins"}


def test_of_a_handler_that_takes_too_long_the_line_is_in_the_log(visitor: Visitor, stack: Stack) -> None:
    page = open_app(visitor(), "endless")
    sandbox = stack.rows()[0]["id"]
    press("sync")(page, stack)
    expect(page.get_by_role("dialog", name="This app took too long")).to_be_visible()
    said = stack.htagweb("logs", sandbox).stdout
    assert "This took longer than 2 s." in said
    assert "in spin" in said
    assert stack.rows() == []


@pytest.mark.parametrize("name", ["blocking", "awaiting"])
def test_work_that_says_it_takes_long_is_let_be_and_listed(visitor: Visitor, stack: Stack, name: str) -> None:
    page = open_app(visitor(), "working")
    press(name)(page, stack)
    why = until(lambda: [row["why"] for row in stack.rows() if row["why"].startswith("busy")])
    assert re.fullmatch(rf"busy: an? {name} report, \d+s left", why[0])
    expect(page.locator("output")).to_have_text(f"{name} done")


def test_work_keeps_its_sandbox_while_nobody_looks_also_when_the_orchestrator_is_killed(
    visitor: Visitor, stack: Stack
) -> None:
    page = open_app(visitor(), "working")
    press("for long")(page, stack)
    expect(page.locator("output")).to_have_text("going on")
    (row,) = stack.rows()
    assert row["left_s"] > 500
    stack.kill("orchestrator")
    until(lambda: stack.htagweb("list", "--json", check=False).returncode == 0, what="the orchestrator is back")
    until(lambda: [row["why"][:23] for row in stack.rows()] == ["busy: the yearly report"])
    until(lambda: stack.rows()[0]["age_s"] > row["age_s"] + 8, what="longer than its idle_timeout has passed")
    press("quick")(page, stack)
    expect(page.locator("output")).to_have_text("quick done")


# -- the banner ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["websocket", "no websocket"])
def page(request: pytest.FixtureRequest, browser: Browser, stack: Stack, no_websockets: str) -> Iterator[Page]:
    context = arrival(browser, stack.url if request.param == "websocket" else no_websockets)
    yield context.new_page()
    context.close()
    stack.htagweb("reap", "--all", "--yes", check=False)


def test_before_an_idle_end_the_page_counts_down_and_one_may_stay(page: Page, stack: Stack) -> None:
    open_app(page, "drowsy")
    bar = page.locator(".bar")
    expect(bar).to_contain_text("Still there? Unused, this app ends in")
    expect(bar.locator(".clock")).to_have_text(re.compile("^0:0[0-3]$"))
    bar.get_by_role("button", name="Stay").click()
    expect(bar).to_be_hidden()
    assert stack.rows()[0]["left_s"] > 4
    expect(bar).to_contain_text("Still there?")
    step_up(page)
    expect(bar).to_be_hidden()
    expect(page.get_by_role("dialog", name="This app was put away")).to_be_visible()


def test_before_the_end_of_its_life_the_page_says_so(page: Page) -> None:
    open_app(page, "shortlived")
    expect(page.locator(".bar")).to_contain_text("This app has run for as long as it may. It ends in")
    expect(page.locator(".bar button:visible")).to_have_count(0)
    expect(page.get_by_role("dialog", name="Time's up for this app")).to_be_visible()


@pytest.mark.parametrize("app", ["counter", "counter2"])
def test_a_crash_is_shown_where_websockets_are_blocked_too(page: Page, stack: Stack, app: str) -> None:
    open_app(page, app)
    step_up(page)
    expect_count(page, 1)
    remove(page, stack)
    # htag 2 without a WebSocket notices at the next click; else the dialog may cover the button already.
    page.get_by_role("button", name="one more").dispatch_event("click")
    expect(page.get_by_role("dialog", name="This app crashed")).to_be_visible()


# -- where the time went -----------------------------------------------------------------------------------------------


def test_the_first_page_tells_where_the_time_went_and_so_does_inspect(visitor: Visitor, stack: Stack) -> None:
    page = visitor()
    answers = []
    page.on("response", lambda answer: answers.append(answer))
    open_app(page, "counter")
    page.reload()
    opened(page)
    pages = [answer for answer in answers if answer.url.endswith("/counter/") and answer.status == 200]
    told = [answer.headers.get("server-timing", "") for answer in pages]
    assert told[1:] == [""] * (len(told) - 1)
    steps = dict(re.findall(r"(\w+);dur=([\d.]+)", told[0]))
    (row,) = stack.rows()
    inspected = json.loads(stack.htagweb("inspect", row["id"], "--json").stdout)
    assert list(steps) == ["queue", "create", "start", "load", "render"]
    assert {step: float(took) for step, took in steps.items()} == inspected["steps"]
    assert float(steps["create"]) > 1
    assert inspected["because"].startswith("its user did something")


# -- the gateway dies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("app", ["counter", "counter2"])
def test_a_click_that_dies_with_the_gateway_is_not_lost(visitor: Visitor, stack: Stack, app: str) -> None:
    """The gateway stands still, so the click is in its socket and no further, and then it is killed."""
    page = open_app(visitor(), app)
    step_up(page)
    expect_count(page, 1)
    page.evaluate("window.stayed = true")
    gateway = stack.pid("gateway")
    os.kill(gateway, signal.SIGSTOP)
    step_up(page)
    os.kill(gateway, signal.SIGKILL)
    expect(page.locator("output").first).to_have_text("2", timeout=60_000)
    step_up(page)
    expect(page.locator("output").first).to_have_text("3", timeout=60_000)
    assert page.evaluate("window.stayed"), "the page was not reloaded"


@pytest.mark.parametrize(("app", "delay_ms"), [("counter", 2), ("counter2", 0), ("counter2", 5)])
def test_a_click_is_done_once_if_the_gateway_dies_moments_later(
    visitor: Visitor, stack: Stack, app: str, delay_ms: int
) -> None:
    until(lambda: stack.get("/-/readyz")[0] == 200, within_s=60, what="the engine has started the gateway again")
    page = open_app(visitor(), app)
    page.evaluate("window.stayed = true")
    gateway = stack.pid("gateway")
    step_up(page)
    page.wait_for_timeout(delay_ms)
    os.kill(gateway, signal.SIGKILL)
    expect(page.locator("output").first).to_have_text("1", timeout=60_000)
    until(lambda: stack.get("/-/readyz")[0] == 200, within_s=60, what="the engine has started the gateway again")
    step_up(page)
    expect(page.locator("output").first).to_have_text("2", timeout=60_000)
    assert page.evaluate("window.stayed"), "the page was not reloaded"
