"""The main job, end to end: the compose stack, real containers, a real browser."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from tests.chromium import DRAWN
from tests.e2e.conftest import Visitor, arrival
from tests.e2e.stack import REPOSITORY, Stack, docker, until

pytestmark = [pytest.mark.docker, pytest.mark.e2e]

HEALTHY = ["clock", "counter", "counter2", "form", "hello", "plot", "router", "session", "stream", "todo", "upload"]


def open_app(page: Page, name: str, query: str = "") -> Page:
    page.goto(f"/{name}/{query}")
    # A cold start may show the waiting page first; it opens the app by itself.
    return opened(page)


def opened(page: Page) -> Page:
    """The app's own page is there, not one of the platform's, and is drawn."""
    page.locator("script[data-app]").wait_for(state="attached", timeout=60_000)
    page.wait_for_function(DRAWN)
    return page


def answers_to(page: Page) -> list[Response]:
    """What the server answers to this page from now on; the list grows."""
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer))
    return answers


def step_up(page: Page) -> None:
    button = page.get_by_role("button", name="one more")
    button.wait_for()
    page.wait_for_function(DRAWN)  # it may have been loaded anew
    button.click()


def expect_count(page: Page, value: int) -> None:
    expect(page.locator("output").first).to_have_text(str(value))


def use(page: Page, name: str) -> None:
    """Do one thing in an example, and see the server's answer to it."""
    match name:
        case "hello":
            expect(page.locator("body")).to_contain_text("hello world")
        case "counter" | "counter2":
            step_up(page)
            expect_count(page, 1)
        case "session":
            page.get_by_role("button", name="Count").click()
            expect(page.get_by_label("in this sandbox")).to_have_text("1")
        case "todo":
            page.get_by_role("textbox").fill("buy bread")
            page.get_by_role("textbox").press("Enter")
            expect(page.locator("li", has_text="buy bread")).to_be_visible()
        case "form":
            page.get_by_role("button", name="Send").click()
            expect(page.locator("table")).to_contain_text("The server got")
        case "clock":
            shown = page.locator("time").inner_text()
            expect(page.locator("time")).not_to_have_text(shown)
        case "stream":
            page.get_by_role("button", name="Compute").click()
            expect(page.locator(".digits b").first).to_be_visible()
        case "router":
            page.get_by_role("link", name="Gateway").first.click()
            expect(page).to_have_url(re.compile("#/"))
            expect(page.locator("article h2")).to_contain_text("ateway")
        case "upload":
            page.locator("input[type=file]").set_input_files(
                {"name": "note.txt", "mimeType": "text/plain", "buffer": b"a small note"}
            )
            expect(page.locator("dl")).to_contain_text("note.txt")
        case "plot":
            page.get_by_role("button", name="Throw").click()
            expect(page.locator("figcaption")).to_contain_text("100")


@pytest.mark.parametrize("name", HEALTHY)
def test_each_example_opens_from_the_catalogue_and_answers(
    visitor: Visitor, stack: Stack, shots: Path, name: str
) -> None:
    page = visitor()
    page.goto("/")
    page.locator(f"a.button[href='/{name}/']").click()
    opened(page)
    use(page, name)
    page.screenshot(path=shots / f"app-{name}.png")
    assert [(row["app"], row["state"]) for row in stack.rows()] == [(name, "ready")]


@pytest.mark.parametrize("name", HEALTHY)
def test_each_example_works_where_websockets_are_blocked(
    browser: Browser, stack: Stack, no_websockets: str, name: str
) -> None:
    context = arrival(browser, no_websockets)
    use(open_app(context.new_page(), name), name)
    context.close()
    stack.htagweb("reap", "--all", "--yes")


def test_two_visitors_have_two_containers_and_two_tabs_share_one(visitor: Visitor, stack: Stack) -> None:
    ann, bob = open_app(visitor(), "counter"), open_app(visitor(), "counter")
    step_up(ann)
    expect_count(ann, 1)
    expect_count(bob, 0)
    second_tab = open_app(ann.context.new_page(), "counter")
    expect_count(second_tab, 1)
    rows = stack.rows()
    assert len(rows) == len({row["user"] for row in rows}) == 2
    assert {row["id"] for row in rows} == {box["Names"].removeprefix("htagweb-") for box in stack.containers()}


def test_a_reload_keeps_the_apps_state(visitor: Visitor) -> None:
    for name in ("counter", "counter2"):
        page = open_app(visitor(), name)
        step_up(page)
        expect_count(page, 1)
        page.reload()
        expect_count(page, 1)


def test_query_parameters_reach_the_app(visitor: Visitor) -> None:
    expect_count(open_app(visitor(), "counter", "?41"), 41)


def test_twenty_parallel_first_requests_start_one_container(stack: Stack) -> None:
    first = stack.get("/hello/", headers={"Accept": "text/html"})[1]
    browser = {"Accept": "text/html", "Cookie": first["set-cookie"].partition(";")[0]}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: stack.get("/hello/", headers=browser)[0], range(20)))
    assert set(answers) <= {200, 503}
    until(lambda: stack.get("/hello/", headers=browser)[0] == 200)
    assert len(stack.containers()) == 1
    stack.htagweb("reap", "--all", "--yes")


def test_a_script_can_not_start_an_app(visitor: Visitor, stack: Stack) -> None:
    page = open_app(visitor(), "hello")
    status = page.evaluate("async () => (await fetch('/-/start?app=todo', {headers: {accept: 'text/html'}})).status")
    assert status == 403
    assert page.evaluate("async () => (await fetch('/todo/', {headers: {accept: 'text/html'}})).status") == 503
    assert [row["app"] for row in stack.rows()] == ["hello"]


def test_an_idle_app_is_put_away_and_its_page_says_why(visitor: Visitor, stack: Stack, shots: Path) -> None:
    page = open_app(visitor(), "brief")
    clicked = time.monotonic()
    step_up(page)
    expect_count(page, 1)
    until(lambda: not stack.containers(), what="the container is gone")
    assert time.monotonic() - clicked > 5.5, "not before 6 s without activity"
    again = page.get_by_role("link", name="Start again").or_(page.get_by_role("button", name="Start again"))
    expect(again).to_be_visible()
    expect(page.get_by_text("Nobody used it for 6 seconds")).to_be_visible()
    page.screenshot(path=shots / "ended-idle.png")
    again.click()
    expect_count(page, 0)


def test_a_visitor_who_only_has_the_tab_open_is_idle(visitor: Visitor, stack: Stack) -> None:
    """The clock pushes every second; that is the app's doing, not the visitor's."""
    page = open_app(visitor(), "clock")
    use(page, "clock")
    before = stack.rows()[0]["idle_s"]
    for _ in range(3):
        use(page, "clock")
    assert stack.rows()[0]["idle_s"] >= before + 1.5


def test_nobody_notices_that_the_orchestrator_is_killed(visitor: Visitor, stack: Stack) -> None:
    gen1, gen2 = open_app(visitor(), "counter"), open_app(visitor(), "counter2")
    for page in (gen1, gen2):
        page.evaluate("window.kept = true")
    before = {row["id"]: row["idle_s"] for row in stack.rows()}
    stack.kill("orchestrator")
    for count in range(1, 6):
        for page in (gen1, gen2):
            step_up(page)
            expect_count(page, count)
    until(lambda: stack.htagweb("list", "--json", check=False).returncode == 0, what="the orchestrator is back")
    until(lambda: {row["id"] for row in stack.rows()} == set(before), what="list equals what it was")
    for count in range(6, 9):
        for page in (gen1, gen2):
            step_up(page)
            expect_count(page, count)
    assert gen1.evaluate("window.kept"), "the page was not reloaded"
    assert gen2.evaluate("window.kept"), "the page was not reloaded"


def test_idle_clocks_go_on_where_they_were_when_the_orchestrator_is_killed(visitor: Visitor, stack: Stack) -> None:
    open_app(visitor(), "hello")
    until(lambda: stack.rows()[0]["idle_s"] > 6)
    stack.kill("orchestrator")
    until(lambda: stack.htagweb("list", "--json", check=False).returncode == 0, what="the orchestrator is back")
    assert until(stack.rows)[0]["idle_s"] > 6


def test_containers_and_state_outlive_a_killed_gateway_and_no_click_is_lost(visitor: Visitor, stack: Stack) -> None:
    gen1, gen2 = open_app(visitor(), "counter"), open_app(visitor(), "counter2")
    for page in (gen1, gen2):
        step_up(page)
        expect_count(page, 1)
        page.evaluate("window.kept = true")
    before = {box["ID"] for box in stack.containers()}
    stack.kill("gateway")
    for page in (gen1, gen2):
        step_up(page)
    for page in (gen1, gen2):
        expect(page.locator("output").first).to_have_text("2", timeout=30_000)
    assert gen1.evaluate("window.kept"), "the page was not reloaded"
    assert gen2.evaluate("window.kept"), "the page was not reloaded"
    assert {box["ID"] for box in stack.containers()} == before
    gen1.reload()
    expect_count(gen1, 2)


def test_a_removed_container_is_a_crash_that_one_button_mends(visitor: Visitor, stack: Stack, shots: Path) -> None:
    for name in ("counter", "counter2"):
        page = open_app(visitor(), name)
        answers = answers_to(page)
        docker("rm", "-f", stack.containers()[0]["ID"])
        again = page.get_by_role("link", name="Start again").or_(page.get_by_role("button", name="Start again"))
        expect(again).to_be_visible()
        expect(page.get_by_text("crashed", exact=False).first).to_be_visible()
        page.screenshot(path=shots / f"ended-crashed-{name}.png")
        again.click()
        expect_count(page, 0)
        step_up(page)
        expect_count(page, 1)
        assert 502 not in {answer.status for answer in answers}
        stack.htagweb("reap", "--all", "--yes")


def test_whoever_is_no_visitor_starts_nothing(stack: Stack) -> None:
    page = {"Accept": "text/html"}
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Origin": stack.url,
    }
    for _ in range(10):
        assert stack.get("/counter/", headers=page)[0] == 303
        assert stack.get("/counter/", method="HEAD", headers=page)[0] == 403
        assert stack.get("/counter/", method="POST", body=b"{}")[0] == 403
        assert stack.get("/counter/_ws", headers=upgrade)[0] == 403
        assert stack.get("/nothing-here/", headers=page)[0] == 404
    assert stack.containers() == []
    assert stack.rows() == []


def test_a_frame_that_gets_no_cookie_shows_one_link_and_starts_nothing(
    visitor: Visitor, stack: Stack, shots: Path, another_site: str
) -> None:
    """Another site frames the app; the browser keeps our SameSite cookie to itself there."""
    page = visitor()
    page.goto(another_site)
    for _ in range(5):
        frame = page.frame_locator("iframe")
        link = frame.get_by_role("link")
        expect(link).to_have_count(1)
        expect(link).to_have_attribute("target", "_blank")
        page.screenshot(path=shots / "framed.png")
        page.reload()
    assert stack.containers() == []
    with page.context.expect_page() as opening:
        page.frame_locator("iframe").get_by_role("link").click()
    expect_count(opened(opening.value), 0)


def test_a_forged_cookie_is_a_new_visitor(stack: Stack) -> None:
    forged = {"Accept": "text/html", "Cookie": "htagweb=anon-me.abcdef.0123456789abcdef"}
    status, headers, _ = stack.get("/counter/", headers=forged)
    assert status == 303
    assert headers["set-cookie"].startswith("htagweb=anon-")
    assert "HttpOnly; SameSite=Lax" in headers["set-cookie"]


def test_an_unknown_app_is_a_404_page(visitor: Visitor, shots: Path) -> None:
    page = visitor()
    answer = page.goto("/no-such-app/")
    assert answer is not None
    assert answer.status == 404
    page.screenshot(path=shots / "not-found.png")


@pytest.mark.parametrize("name", ["crash", "crash2", "exits"])
def test_an_app_that_fails_to_load_shows_an_id_and_the_operator_its_traceback(
    visitor: Visitor, stack: Stack, shots: Path, name: str
) -> None:
    page = visitor()
    page.goto(f"/{name}/")
    expect(page.get_by_role("heading", name="This app could not start")).to_be_visible()
    error_id = page.locator("code").first.inner_text()
    assert re.fullmatch("[0-9a-f]{12}", error_id)
    page.screenshot(path=shots / f"failed-{name}.png")
    said = stack.htagweb("logs", error_id).stdout
    assert {"crash": "crashed in init, on purpose", "crash2": "on purpose", "exits": "SystemExit"}[name] in said
    until(lambda: not stack.containers(), what="it leaves no container")


def test_a_file_that_can_not_be_parsed_is_out_of_order_and_the_others_serve(visitor: Visitor, stack: Stack) -> None:
    page = visitor()
    page.goto("/unparsable/")
    expect(page.get_by_role("heading", name="This app is out of order")).to_be_visible()
    assert "unparsable" in stack.htagweb("apps").stdout
    open_app(page, "hello")


def test_an_app_that_ends_its_process_is_explained(visitor: Visitor, stack: Stack, shots: Path) -> None:
    page = open_app(visitor(), "dies")
    page.get_by_role("button", name="os._exit").click()
    expect(page.get_by_text("This app crashed")).to_be_visible()
    page.screenshot(path=shots / "ended-dies.png")
    page = open_app(visitor(), "dies")
    page.get_by_role("button", name="exit", exact=True).click()
    expect(page.get_by_text("This app has finished")).to_be_visible()


def test_an_app_that_eats_all_memory_is_ended_for_that(visitor: Visitor, stack: Stack) -> None:
    page = open_app(visitor(), "hungry")
    page.get_by_role("button", name="eat all").click()
    expect(page.get_by_text("ran out of memory")).to_be_visible()


def test_at_the_limit_of_five_one_button_ends_the_longest_idle(visitor: Visitor, stack: Stack, shots: Path) -> None:
    page = visitor()
    for name in ("hello", "counter", "counter2", "todo", "form"):
        open_app(page, name)
    page.goto("/router/")
    expect(page.get_by_role("heading", name="You have five apps open")).to_be_visible()
    page.screenshot(path=shots / "limit.png")
    page.get_by_role("button", name="End “Hello”, open “Router”").click()
    opened(page)
    expect(page.locator("nav")).to_be_visible()
    assert {row["app"] for row in stack.rows()} == {"counter", "counter2", "todo", "form", "router"}


def test_the_catalogue_shows_what_runs_for_me_and_stops_it(visitor: Visitor, stack: Stack, shots: Path) -> None:
    page = open_app(visitor(), "counter")
    page.goto("/")
    page.screenshot(path=shots / "catalogue.png", full_page=True)
    page.get_by_role("button", name="Stop Counter", exact=True).click()
    expect(page.get_by_role("button", name="Stop Counter", exact=True)).to_have_count(0)
    assert stack.containers() == []


def test_a_slow_start_shows_the_waiting_page_and_opens_by_itself(visitor: Visitor, shots: Path) -> None:
    page = visitor()
    answer = page.goto("/slowstart/")
    assert answer is not None
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    page.screenshot(path=shots / "waiting.png")
    expect(page.get_by_text("started")).to_be_visible()


def test_a_session_is_kept_when_the_sandbox_ends(visitor: Visitor, stack: Stack) -> None:
    page = open_app(visitor(), "session")
    page.get_by_role("button", name="Count").click()
    page.get_by_role("button", name="Count").click()
    expect(page.get_by_label("in your session")).to_have_text("2")
    stack.htagweb("reap", "--app", "session", "--yes")
    expect(page.get_by_text("This app was stopped")).to_be_visible()
    open_app(page, "session") if page.get_by_text("Start again").count() == 0 else page.get_by_text(
        "Start again"
    ).click()
    expect(page.get_by_label("in your session")).to_have_text("2")
    expect(page.get_by_label("in this sandbox")).to_have_text("0")


def test_a_file_dropped_into_apps_is_an_app_without_a_restart(visitor: Visitor, stack: Stack) -> None:
    source = (REPOSITORY / "apps/hello.py").read_text().replace("hello world", "hello newcomer")
    (stack.folder / "apps" / "newcomer.py").write_text(source)
    page = visitor()
    until(lambda: stack.get("/newcomer/")[0] != 404)
    expect(open_app(page, "newcomer").locator("body")).to_contain_text("hello newcomer")


def test_reap_is_a_dry_run_until_told_yes(visitor: Visitor, stack: Stack) -> None:
    open_app(visitor(), "hello")
    stack.htagweb("reap", "--all")
    assert len(stack.containers()) == 1
    stack.htagweb("reap", "--all", "--yes")
    assert stack.containers() == []
    assert stack.htagweb("reap", "--all", "--yes", check=False).returncode == 3


def test_the_services_restarted_together_find_every_sandbox_again(visitor: Visitor, stack: Stack) -> None:
    page = open_app(visitor(), "counter")
    step_up(page)
    expect_count(page, 1)
    before = {row["id"] for row in stack.rows()}
    stack.docker_compose("restart", "gateway", "orchestrator")
    until(lambda: stack.get("/-/readyz")[0] == 200)
    step_up(page)
    expect(page.locator("output").first).to_have_text("2", timeout=30_000)
    assert {row["id"] for row in stack.rows()} == before


def test_down_and_up_again_finds_every_sandbox_still_clicking(visitor: Visitor, stack: Stack) -> None:
    page = open_app(visitor(), "counter")
    step_up(page)
    expect_count(page, 1)
    before = {row["id"] for row in stack.rows()}
    stack.docker_compose("down")
    step_up(page)
    stack.docker_compose("up", "--detach", "--wait", "--no-build")
    expect(page.locator("output").first).to_have_text("2", timeout=30_000)
    assert {row["id"] for row in stack.rows()} == before


def test_sandboxes_without_a_platform_end_by_themselves(visitor: Visitor, stack: Stack) -> None:
    """The harness does it; what it leaves, a stopped container and its directory, the next start removes."""
    open_app(visitor(), "hello")
    stack.docker_compose("down")
    orphan_timeout_s = 30
    try:
        until(
            lambda: all(box["State"] == "exited" for box in stack.containers()),
            within_s=orphan_timeout_s + 10,
            what="the sandbox ended",
        )
    finally:
        stack.docker_compose("up", "--detach", "--wait", "--no-build")
    until(lambda: not stack.containers(), what="the next start removes what is left")


def test_make_down_leaves_nothing(visitor: Visitor, stack: Stack) -> None:
    for name in ("hello", "counter2"):
        open_app(visitor(), name)
    assert len(stack.containers()) == 2
    try:
        stack.script("down")
        assert stack.containers() == []
        assert docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.project}") == ""
        assert docker("network", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={stack.project}") == ""
    finally:
        stack.docker_compose("up", "--detach", "--wait", "--no-build")
