"""The platform's pages and refusals, as responses."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from starlette.responses import Response

from htagweb_gateway.endings import duration, ending_words
from htagweb_gateway.pages import Pages
from htagweb_gateway.problems import local, login_url, problem, problem_of_error, problem_of_route, start_url
from htagweb_orchestrator import errors
from htagweb_orchestrator.model import AppCard, AppName, Ending, Person, Platform, Route, SandboxId, State, Step, UserId

STATIC = Path(__file__).parent.parent / "gateway" / "htagweb_gateway" / "static"
EVIL = '"><script>alert(1)</script>'
COUNTER = AppCard(name=AppName("counter"), title="Counter", description="Counts clicks.", generation=1)
CLOCK = AppCard(name=AppName("clock"), title="Clock", generation=2)
ANN = Person(id=UserId(EVIL), name=EVIL, email=EVIL, groups=("admin",))
ROW = {
    "id": "c0ffee", "app": EVIL, "user": EVIL, "state": "ready", "why": EVIL, "age_s": 61.0, "idle_s": 1.0, "left_s": 2,
    "memory_bytes": 18_000_000, "outdated": True,
}  # fmt: skip
USER = {
    "name": EVIL, "full_name": EVIL, "email": EVIL, "groups": [EVIL], "state": "enabled", "signed_in": 2,
    "last_refused_ago_s": 4.0,
}  # fmt: skip
ENTRY = {"at": "2030-01-01T00:00:00Z", "event": "signed-in", "who": EVIL, "method": EVIL}
BROKEN = AppCard(name=AppName("oops"), title="Oops", problem="apps/oops.py:3: '(' was never closed")


def running(**facts: object) -> Route:
    known: dict[str, object] = {
        "user": UserId("u"),
        "app": COUNTER.name,
        "sandbox": SandboxId("0" * 32),
        "state": State.READY,
    }
    return Route(**(known | facts))  # type: ignore[arg-type]


def ended(ending: Ending, **facts: object) -> Route:
    return running(state=State.ENDED, ending=ending, **facts)


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages()


def every_page(pages: Pages) -> list[Response]:
    limit = errors.UserLimitReached("You have five apps open.", limit="5", longest_idle="clock")
    evil = AppCard(name=AppName("evil"), title=EVIL, description=EVIL, problem=EVIL)
    return [
        pages.catalogue(
            [(COUNTER, running()), (CLOCK, None), (BROKEN, None), (evil, None)], platform=Platform(dev=True)
        ),
        pages.catalogue([], platform=Platform(warnings=(EVIL,))),
        pages.catalogue([], platform=Platform(), gone=[running(app=AppName(EVIL), left_s=61.0)]),
        pages.catalogue([], platform=Platform(), person=ANN, sign_out=True, operator=True),
        pages.catalogue([], platform=Platform(), sign_in="/-/login?next=%2F"),
        pages.login("/evil/" + EVIL, name=EVIL, error=EVIL, status=429, retry_s="30", insecure=True),
        pages.link(EVIL, "/evil/" + EVIL),
        pages.logout(ANN),
        pages.admin(
            [ROW],
            [{"name": EVIL, "title": EVIL, "version": "", "problem": EVIL, "state": EVIL}],
            [USER],
            [ENTRY],
            most=5,
            unused=[EVIL],
        ),
        pages.logs(EVIL, EVIL),
        pages.logs("c0ffee", ""),
        pages.sign_in_failed(EVIL, target="/evil/" + EVIL, status=503),
        pages.signed_out(told=False),
        pages.signed_out(told=True, elsewhere="?"),
        pages.signed_out(told=True, elsewhere=EVIL),
        pages.almost(),
        pages.waiting(evil, running(state=State.STARTING, step=Step.CREATING), target="/evil/" + EVIL),
        pages.waiting(
            COUNTER,
            running(state=State.STARTING, step=Step.LOADING, expected_s=4.0, steps_ms={"create": 210.0}),
            target="/counter/",
        ),
        pages.ended(evil, ended(Ending.CRASHED, detail=EVIL, error_id="c0ffee123456"), target="/evil/" + EVIL),
        pages.limit(limit, evil, longest_idle=evil, target="/evil/" + EVIL),
        pages.refused(errors.StartFailed(EVIL, error_id="c0ffee123456", traceback=EVIL), target="/evil/", dev=True),
        pages.enter("/evil/" + EVIL),
        pages.not_found("/" + EVIL),
        pages.not_found("/" + EVIL, sign_in=login_url("/evil/" + EVIL)),
        pages.bad_request(EVIL),
        pages.forbidden(EVIL, "public_url"),
        pages.error(502, EVIL, EVIL),
    ]


def text(response: Response) -> str:
    """What a reader sees of a page, blanks joined."""
    body = re.sub(r"</?span[^>]*>", "", bytes(response.body).decode())  # within a line
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def test_no_page_lets_a_text_become_markup_or_brings_anything_inline(pages: Pages) -> None:
    for response in every_page(pages):
        body = bytes(response.body).decode()
        assert "<script>" not in body
        assert "alert(1)" not in re.sub(r"&#34;&gt;&lt;script&gt;alert\(1\)", "", body)
        assert not re.search(r"<style|\sstyle=|\son\w+=|https?://|javascript:", body), body
        assert "None" not in text(response)


def test_every_page_is_fresh_sealed_and_framed_by_nobody(pages: Pages) -> None:
    for response in every_page(pages):
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
        assert ("frame-ancestors *" in policy) == (b'target="_blank"' in response.body)
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "same-origin"
        assert response.headers["cross-origin-opener-policy"] == "same-origin"


def test_every_page_has_a_language_a_title_and_one_heading(pages: Pages) -> None:
    for response in every_page(pages):
        body = bytes(response.body).decode()
        assert '<html lang="en">' in body
        assert re.search(r"<title>[^<]+</title>", body)
        assert body.count("<h1>") == 1
        assert body.count("<main>") == 1


def test_the_catalogue_tells_what_runs_for_me_and_how_to_stop_it(pages: Pages) -> None:
    mine = running(left_s=600.0, left_why=Ending.IDLE, idle_timeout_s=900.0)
    page = pages.catalogue([(COUNTER, mine), (CLOCK, ended(Ending.IDLE)), (BROKEN, None)], platform=Platform())
    assert page.status_code == 200
    assert "Running, unused for 5 minutes: 10 minutes left unless you use it." in text(page)
    body = bytes(page.body).decode()
    assert body.count('action="/-/stop"') == 1
    assert '<input type="hidden" name="app" value="counter">' in body
    assert ('href="/clock/"' in body, 'href="/oops/"' in body) == (True, False)


def test_the_catalogue_tells_what_runs_of_an_app_that_is_no_longer_there(pages: Pages) -> None:
    gone = running(app=AppName("old-shop"), left_s=600.0)
    for query, listed in (("", True), ("old", True), ("counter", False)):
        page = pages.catalogue([(COUNTER, None)], platform=Platform(), gone=[gone], query=query)
        assert (
            "old-shop No longer published here, or not for you. What you have of it still runs, 10 minutes at most,"
            in text(page)
        ) is listed
        assert ('name="app" value="old-shop"' in bytes(page.body).decode()) is listed
        assert 'href="/old-shop/"' not in bytes(page.body).decode()


def test_an_operators_problem_is_shown_to_developers_only(pages: Pages) -> None:
    for dev in (False, True):
        page = pages.catalogue([(BROKEN, None)], platform=Platform(dev=dev))
        assert "Out of order" in text(page)
        assert ("never closed" in text(page)) is dev
        refused = pages.refused(errors.StartFailed("It failed.", traceback="line 3"), target="/oops/", dev=dev)
        assert ("line 3" in text(refused)) is dev


def test_operators_see_what_is_being_prepared_and_what_failed(pages: Pages) -> None:
    apps = [
        {"name": "soon", "title": "Soon", "version": "", "problem": "", "state": "building"},
        {"name": "rota", "title": "Rota", "version": "0123", "problem": "There is no wheel.", "state": "failed"},
        {"name": "fine", "title": "Fine", "version": "4567", "problem": "", "state": "ready"},
    ]
    page = pages.admin([], apps, [], [], most=5)
    assert "Rota : version 0123 is served all the same There is no wheel." in text(page)
    assert "Soon building" in text(page)
    assert "Fine" not in text(page)
    body = bytes(page.body).decode()
    assert re.findall(r"\?build=(\w+)", body) == ["rota", "soon"]
    assert '<input type="hidden" name="build" value="rota">' in body


def test_an_app_that_is_being_prepared_is_no_link_and_one_with_a_version_is(pages: Pages) -> None:
    coming = AppCard(name=AppName("soon"), title="Soon", preparing=True)
    served = AppCard(name=AppName("better"), title="Better", preparing=True, version="1")
    behind = AppCard(name=AppName("behind"), title="Behind", problem="the new one is broken", version="1")
    page = pages.catalogue([(coming, None), (served, None), (behind, None)], platform=Platform())
    body = bytes(page.body).decode()
    assert text(page).count("Being prepared") == 1
    assert "Out of order" not in text(page)
    assert [f'href="/{name}/"' in body for name in ("soon", "better", "behind")] == [False, True, True]


def test_a_page_for_an_app_that_is_being_prepared_comes_back_by_itself(pages: Pages) -> None:
    page = pages.refused(errors.AppPreparing("It is being prepared."), target="/soon/?a=1")
    assert '<meta http-equiv="refresh" content="5; url=/soon/?a=1">' in bytes(page.body).decode()
    assert "refresh" not in bytes(pages.refused(errors.AppBroken("Broken."), target="/").body).decode()


def test_the_waiting_page_marks_the_present_step(pages: Pages) -> None:
    route = running(state=State.STARTING, step=Step.LOADING, started_ago_s=2.4, expected_s=4.0)
    page = pages.waiting(COUNTER, route, target="/counter/?a=1")
    assert (page.status_code, page.headers["retry-after"], page.headers["x-htagweb"]) == (503, "1", "starting")
    body = bytes(page.body).decode()
    assert re.findall(r'<li class="(\w+)" data-step="(\w+)"', body) == [
        ("done", "queued"), ("done", "creating"), ("done", "starting"), ("now", "loading"), ("later", "ready"),
    ]  # fmt: skip
    assert "2 seconds so far, it usually takes 4 seconds." in text(page)
    assert 'max="1" value="0.6"></progress>' in body
    assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in body
    assert 'data-target="/counter/?a=1"' in body


@pytest.mark.parametrize(
    ("so_far_s", "most_s", "words", "bar"),
    [
        (1.0, 8.2, "1 second so far, it usually takes 4 seconds and seldom more than 9 seconds.", 0.25),
        (6.0, 8.2, "6 seconds so far, it usually takes 4 seconds and seldom more than 9 seconds.", 0.95),
        (8.5, 8.2, "8 seconds so far, which is longer than usual: nearly always it takes 4 seconds or so.", 0.95),
        (1.0, 4.0, "1 second so far, it usually takes 4 seconds.", 0.25),
        (0.1, None, "0 seconds so far, it usually takes 4 seconds.", 0.025),
    ],
)
def test_the_bar_goes_by_the_median_and_the_words_by_how_long_it_seldom_takes(
    pages: Pages, so_far_s: float, most_s: float | None, words: str, bar: float
) -> None:
    route = running(
        state=State.STARTING, step=Step.STARTING, started_ago_s=so_far_s, expected_s=4.0, expected_most_s=most_s
    )
    page = pages.waiting(COUNTER, route, target="/counter/")
    assert words in text(page)
    assert f'max="1" value="{bar}"></progress>' in bytes(page.body).decode()


def test_steps_that_are_done_say_how_long_they_took(pages: Pages) -> None:
    steps_ms = {"queue": 20.0, "create": 1210.0, "start": 330.0}
    said = text(
        pages.waiting(COUNTER, running(state=State.STARTING, step=Step.LOADING, steps_ms=steps_ms), target="/counter/")
    )
    assert "Making a container for you alone 1.2 s Starting Python in it 0.3 s Loading the app Opening it" in said


def test_without_a_start_before_there_is_no_bar(pages: Pages) -> None:
    body = bytes(pages.waiting(COUNTER, running(state=State.STARTING), target="/counter/").body).decode()
    assert 'value="0" hidden></progress>' in body
    assert "usually" not in body


@pytest.mark.parametrize("ending", list(Ending))
def test_every_ending_has_words_and_exactly_one_button(pages: Pages, ending: Ending) -> None:
    route = ended(ending)
    title, reason, action = ending_words(route)
    page = pages.ended(COUNTER, route, target="/counter/?a=1&b=2")
    assert (page.status_code, page.headers["x-htagweb"]) == (503, "ended")
    assert f"{title} " in text(page)
    assert f"{reason} " in text(page)
    body = bytes(page.body).decode()
    assert re.findall(r'class="button" href="([^"]+)">([^<]+)<', body) == [
        ("/-/start?app=counter&amp;next=%2Fcounter%2F%3Fa%3D1%26b%3D2", action)
    ]
    assert "<button" not in body


def test_what_only_an_operator_can_mend_is_not_told_to_visitors(pages: Pages) -> None:
    error = errors.ImageNotFound("the engine has no image htagweb-sandbox: build it with docker compose build")
    assert "docker compose" not in text(pages.refused(error, target="/counter/"))
    assert "docker compose" in text(pages.refused(error, target="/counter/", dev=True))


def test_a_visitor_who_waits_for_room_is_told_his_place(pages: Pages) -> None:
    route = running(state=State.STARTING, step=Step.QUEUED, place=3, expected_s=40.0)
    said = text(pages.waiting(COUNTER, route, target="/counter/"))
    assert "You are number 3 in line, in about 40 seconds." in said
    assert "in line" not in text(
        pages.waiting(COUNTER, running(state=State.STARTING, step=Step.LOADING), target="/counter/")
    )


def test_endings_differ_in_their_words() -> None:
    seen = [ending for ending in Ending if ending is not Ending.SURPLUS]  # that one has no visitor
    titles = {ending_words(ended(ending)).title for ending in seen} | {ending_words(None).title}
    assert len(titles) == len(seen) + 1


def test_an_idle_end_names_the_time(pages: Pages) -> None:
    page = pages.ended(COUNTER, ended(Ending.IDLE, idle_timeout_s=900.0, error_id="c0ffee123456"), target="/counter/")
    assert "Nobody used it for 15 minutes" in text(page)
    assert "c0ffee123456" in text(page)


def test_a_limit_of_one_is_not_spoken_of_as_many(pages: Pages) -> None:
    error = errors.UserLimitReached("You have an app open.", limit="1", longest_idle="clock")
    page = pages.limit(error, COUNTER, longest_idle=CLOCK, target="/counter/")
    assert "You have an app open" in text(page)
    for plural in ("apps open", "longest", "another one"):
        assert plural not in text(page)


@pytest.mark.parametrize(("limit", "when"), [("2", "fewer than two"), ("1", "none")])
def test_an_app_with_a_smaller_limit_says_which(pages: Pages, limit: str, when: str) -> None:
    error = errors.UserLimitReached("You have 3 apps running.", limit=limit, running="3", longest_idle="clock")
    page = pages.limit(error, COUNTER, longest_idle=CLOCK, target="/counter/")
    assert "You have three apps open" in text(page)
    assert f"can start when you have {when}." in text(page)
    assert "<button" not in bytes(page.body).decode()  # to end one would not be enough


def test_at_the_limit_one_button_ends_the_longest_idle_app_and_goes_on(pages: Pages) -> None:
    error = errors.UserLimitReached("You have five apps open.", limit="5", longest_idle="clock")
    page = pages.limit(error, COUNTER, longest_idle=CLOCK, target="/counter/?a=1")
    body = bytes(page.body).decode()
    assert page.status_code == 429
    assert "You have five apps open" in text(page)
    assert re.findall(r"<button[^>]*>([^<]+)<", body) == ["End “Clock”, open “Counter”"]
    assert re.findall(r'name="(app|next)" value="([^"]+)"', body) == [("app", "clock"), ("next", "/counter/?a=1")]


def test_a_start_that_the_server_failed_of_blames_nobody_and_tells_strangers_nothing(pages: Pages) -> None:
    route = ended(Ending.SERVER, detail="no container engine answers at unix:///x", error_id="c0ffee123456")
    shown = text(pages.ended(COUNTER, route, target="/counter/"))
    assert "neither the app's nor yours" in shown
    assert "c0ffee123456" in shown
    assert "unix:" not in shown
    assert "unix:" in text(pages.ended(COUNTER, route, target="/counter/", dev=True))


def test_a_start_that_failed_in_the_app_says_so(pages: Pages) -> None:
    route = ended(Ending.FAILED, detail="Counter was not ready after 30 seconds.")
    shown = text(pages.ended(COUNTER, route, target="/counter/"))
    assert "The fault is in the app" in shown
    assert "not ready after 30 seconds" in shown


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (errors.CapacityExceeded("Try again soon."), 503, "5"),
        (errors.RateLimited("Too many starts within a minute. Wait a minute, then try again."), 429, "60"),
        (errors.UserLimitReached("You have five apps open."), 429, "60"),
        (errors.EngineUnavailable("The engine does not answer."), 503, "5"),
        (errors.Draining("Try again in a minute."), 503, "60"),
        (errors.StartTimeout("It was not ready in time."), 504, "5"),
        (errors.OrchestratorUnavailable("Nobody answers."), 503, "2"),
        (errors.StartFailed("It failed.", error_id="c0ffee123456"), 502, None),
        (errors.AppBroken("It is broken."), 503, None),
        (errors.AppPreparing("It is being prepared."), 503, "5"),
    ],
)
def test_a_refusal_says_why_and_when_to_come_back(
    pages: Pages, error: errors.OrchestratorError, status: int, retry: str | None
) -> None:
    page = pages.refused(error, target="/counter/", dev=True)
    assert (page.status_code, page.headers.get("retry-after"), page.headers["x-htagweb"]) == (
        status,
        retry,
        error.reason,
    )
    assert str(error) in text(page)
    assert error.facts.get("error_id", "") in text(page)
    program = problem_of_error(error)
    assert (program.status_code, program.headers.get("retry-after"), program.headers["x-htagweb"]) == (
        status, retry, error.reason,
    )  # fmt: skip
    assert program.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(program.body))["title"] == str(error)


def test_a_page_for_operators_names_the_setting(pages: Pages) -> None:
    page = pages.forbidden("This Origin is not known here.", "public_url")
    assert page.status_code == 403
    assert "public_url" in text(page)


def test_warnings_of_the_platform_stand_on_every_page() -> None:
    pages = Pages()
    pages.warnings = ("Memory limits are not enforced here.",)
    assert "Memory limits are not enforced here." in text(pages.not_found("/x"))


def test_a_program_is_told_why_and_how_to_start_again() -> None:
    answer = problem_of_route(COUNTER.name, ended(Ending.MEMORY, error_id="c0ffee123456"))
    facts = json.loads(bytes(answer.body))
    assert (answer.status_code, answer.headers["x-htagweb"]) == (503, "ended")
    assert (facts["reason"], facts["error_id"]) == ("memory", "c0ffee123456")
    assert facts["restart"] == "/-/start?app=counter&next=%2Fcounter%2F"


def test_a_program_is_told_of_a_start_in_progress() -> None:
    answer = problem_of_route(COUNTER.name, running(state=State.STARTING, step=Step.CREATING))
    assert (answer.headers["x-htagweb"], answer.headers["retry-after"]) == ("starting", "1")
    assert problem_of_route(COUNTER.name, None).headers["x-htagweb"] == "none"


def test_a_problem_carries_the_facts_it_was_given() -> None:
    answer = problem(403, "origin", "Not from there.", key="public_url")
    assert json.loads(bytes(answer.body)) == {
        "type": "about:blank", "status": 403, "reason": "origin", "title": "Not from there.", "key": "public_url",
    }  # fmt: skip


@pytest.mark.parametrize(
    "target",
    ["//evil", "/\\evil", "https:evil", "\t//evil", "/\t/evil", "@evil", "/a\r\nb", "javascript:alert(1)", "", "/a\\b"],
)
def test_a_target_elsewhere_becomes_the_front_page(target: str) -> None:
    assert local(target) == "/"
    assert start_url(COUNTER.name, target) == "/-/start?app=counter&next=%2F"


def test_a_target_here_is_kept() -> None:
    assert local("/counter/?a=//b&c=http://d") == "/counter/?a=//b&c=http://d"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 seconds"), (1, "1 second"), (89, "1 minute"), (900, "15 minutes"), (43200, "12 hours"), (90000, "1 day")],
)
def test_durations_are_said_in_their_largest_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_our_files_are_served_with_a_tag_and_not_again_to_who_has_them(pages: Pages) -> None:
    types = {
        "style.css": "text/css",
        "live.js": "text/javascript",
        "waiting.js": "text/javascript",
        "icon.svg": "image/",
    }
    for name, media_type in types.items():
        answer = pages.asset(name)
        assert answer is not None
        assert answer.headers["content-type"].startswith(media_type)
        assert answer.body == (STATIC / name).read_bytes()
        again = pages.asset(name, answer.headers["etag"])
        assert again is not None
        assert (again.status_code, again.body) == (304, b"")


def test_nothing_else_is_served(pages: Pages) -> None:
    for name in ("", "pages.py", "../pages.py", "/etc/passwd"):
        assert pages.asset(name) is None


def test_the_stylesheet_stays_small() -> None:
    assert len((STATIC / "style.css").read_text().splitlines()) < 60
