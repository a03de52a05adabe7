"""Signing in by name and password, and what it means to be signed out again."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed

from htagweb_gateway.sign_ins import SIGNED_OUT
from htagweb_orchestrator.model import UserId
from htagweb_orchestrator.people import AccountChange
from tests.sign_in.stage import PASSWORD, Person, Stage, place

FORGED = ("htagweb=", "htagweb=in-x.y.z", "htagweb=anon-me.aaaaaa.bbbbbbbbb")


async def test_a_person_signs_in_and_is_shown_who_he_is(stage: Stage) -> None:
    ann = stage.visitor()
    page = await ann.page("/-/login?next=/clock/")
    assert (page.status, page.header(b"cache-control")) == (200, b"no-store")
    assert b'<input type="hidden" name="next" value="/clock/">' in page.body
    answer = await ann.sign_in(next="/clock/")
    assert (answer.status, place(answer)) == (303, "/-/enter?next=%2Fclock%2F")
    assert place(await ann.page(place(answer))) == "/clock/"
    page = await ann.page("/")
    assert b"<span>Ann</span>" in page.body
    assert b'action="/-/logout"' in page.body
    assert PASSWORD.encode() not in page.body


async def test_unknown_and_wrong_are_answered_alike(stage: Stage) -> None:
    answers = [await stage.visitor().sign_in(name, "wrong") for name in ("ann", "nobody")]
    assert [answer.status for answer in answers] == [403, 403]
    first, second = (re.sub(rb'value="\w+"', b"", answer.body) for answer in answers)
    assert first == second
    assert b"The name or the password is wrong." in first
    assert answers[0].all(b"set-cookie") == []


async def test_who_fails_too_often_is_told_when_to_come_back(stage: Stage) -> None:
    ann = stage.visitor()
    async with asyncio.timeout(20):
        while (answer := await ann.sign_in("ann", "wrong")).status != 429:
            assert answer.status == 403
    assert int(answer.header(b"retry-after") or 0) > 0
    assert b'name="password"' in answer.body
    assert (await ann.sign_in("ann")).status == 429  # also with the right one, and the same words


async def test_50_the_cookie_of_before_is_not_the_cookie_of_after(stage: Stage) -> None:
    ann = stage.visitor()
    await ann.enter("hello")
    before = ann.cookies["htagweb"]
    await ann.sign_in()
    assert ann.cookies["htagweb"] != before
    await ann.follow("/clock/")
    for cookie in (f"htagweb={before}", *FORGED):
        assert (await ann.get("/clock/", Cookie=cookie)).status == 404
    again = ann.cookies["htagweb"]
    await ann.sign_in()
    assert ann.cookies["htagweb"] != again
    assert (await ann.get("/clock/", Cookie=f"htagweb={again}")).status == 404


async def test_51_the_cookie_is_for_this_host_and_for_no_script(closed_stage: Stage) -> None:
    await closed_stage.open(trusted_proxies=("127.0.0.1",))
    root = closed_stage.visitor()
    fields = {"X_Forwarded_Proto": "https", "Origin": f"https://{root.host}"}
    answer = await root.post("/-/login", f"name=root&password={PASSWORD}".encode(), **fields)
    assert answer.status == 303
    cookies = {cookie.partition(b"=")[0].decode(): cookie.decode().lower() for cookie in answer.all(b"set-cookie")}
    assert set(cookies) == {"__Host-htagweb", "__Host-htagweb-operator"}
    for cookie in cookies.values():
        assert {"path=/", "httponly", "secure"} <= set(cookie.split("; "))
        assert "domain" not in cookie
    assert "samesite=lax" in cookies["__Host-htagweb"]
    assert "samesite=strict" in cookies["__Host-htagweb-operator"]


ELSEWHERE = ["//evil", "/\\evil", "https:evil", "\t//evil", "@evil", "/\r\nX: evil", "javascript:alert(1)"]


@pytest.mark.parametrize("target", ELSEWHERE)
async def test_52_nobody_is_sent_elsewhere_after_signing_in(stage: Stage, target: str) -> None:
    ann = stage.visitor()
    answer = await ann.sign_in(next=target)
    assert place(answer) == "/-/enter?next=%2F"
    assert answer.header(b"x") is None
    assert place(await ann.page(f"/-/login?next={quote(target)}")) == "/"


@pytest.mark.parametrize("path", ["/-/login", "/-/logout"])
async def test_56_another_sites_page_neither_signs_in_nor_out(stage: Stage, path: str) -> None:
    ann = await stage.person()
    body = f"name=bob&password={PASSWORD}".encode()
    for headers in ({}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "same-site"}):
        assert (await ann.request("POST", path, headers, body)).status == 403
    assert b"<span>Ann</span>" in (await ann.page("/")).body


async def _open_everything(person: Person) -> tuple[object, object]:
    assert (await person.follow("/clock/")).status == 200
    socket = await person.socket("/clock/ws")
    await socket.send("hello")
    assert await socket.recv() == "hello"
    stream = await person.send("GET", "/clock/events", {"Accept": "text/event-stream"})
    assert b"data: first" in await stream.reader.readuntil(b"first")
    return socket, stream


async def _all_closed(socket: object, stream: object) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(10):
            await socket.recv()  # type: ignore[attr-defined]
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (SIGNED_OUT, "signed out")  # type: ignore[union-attr]
    await stream.closed(within_s=10)  # type: ignore[attr-defined]


async def test_54_signing_out_closes_what_is_open_and_refuses_the_rest(stage: Stage) -> None:
    ann = await stage.person()
    opened = await _open_everything(ann)
    old = ann.cookie
    answer = await ann.form("/-/logout")
    assert (answer.status, place(answer)) == (303, "/")
    assert not ann.cookie
    await _all_closed(*opened)
    for method, target in (("GET", "/clock/"), ("POST", "/clock/x"), ("GET", "/-/status?app=clock")):
        answer = await ann.request(method, target, {"Cookie": old, "Origin": f"http://{ann.host}"})
        assert answer.status == 404 or b'"none"' in answer.body
    assert (await ann.get("/hello/", Cookie=old)).status == 403  # nobody that is known here
    assert b'href="/-/login' in (await ann.page("/")).body


async def test_54_a_sign_out_in_one_browser_leaves_the_other(stage: Stage) -> None:
    here, there = await stage.person(), await stage.person()
    opened = await _open_everything(there)
    await here.follow("/clock/")
    await here.form("/-/logout")
    socket, _ = opened
    await socket.send("still?")  # type: ignore[attr-defined]
    assert await socket.recv() == "still?"  # type: ignore[attr-defined]
    await here.sign_in()
    await here.form("/-/logout", everywhere="1")
    await _all_closed(*opened)


async def test_54_whoever_is_signed_out_by_others_is_out_at_once(stage: Stage) -> None:
    ann = await stage.person()
    opened = await _open_everything(ann)
    await stage.plane.sign_ins.end_of(UserId("ann"))
    await _all_closed(*opened)
    assert (await ann.get("/clock/")).status == 404


@pytest.mark.parametrize("change", [AccountChange(disabled=True), AccountChange(password="another horse")])
async def test_54_who_is_disabled_or_has_a_new_password_is_out_at_once(stage: Stage, change: AccountChange) -> None:
    ann = await stage.person()
    opened = await _open_everything(ann)
    await stage.plane.people.change("ann", change)
    await _all_closed(*opened)
    assert (await ann.get("/clock/")).status == 404
    assert (await stage.visitor().sign_in("ann", PASSWORD)).status == 403


async def test_a_sign_in_counts_at_every_worker(stage: Stage) -> None:
    _, other = await stage.worker()
    ann = stage.visitor()
    answer = await ann.sign_in(next="/clock/")
    ann.server = other
    assert place(await ann.page(place(answer))) == "/clock/"
    assert (await ann.follow("/clock/")).status == 200


async def test_a_sign_in_that_is_too_old_is_over_without_an_orchestrator(stage: Stage) -> None:
    ann = await stage.person()
    sign_ins = stage.gateway.identity.sign_ins
    (known,) = sign_ins._known.values()
    sign_ins._known[known[0].id] = known[0], 0.0
    assert (await ann.get("/clock/")).status == 404


async def test_without_an_orchestrator_nobody_signs_in_and_what_runs_goes_on(stage: Stage) -> None:
    ann, bob = await stage.person(), stage.visitor()
    await ann.follow("/clock/")
    await stage.orchestrator_goes()
    assert (await bob.sign_in("bob")).status == 503
    assert (await ann.get("/clock/")).status == 200
    answer = await ann.form("/-/logout")
    assert answer.status == 503
    assert not ann.cookie
    assert b"You signed out here" in answer.body


async def test_nobody_is_offered_what_is_not_configured(closed_stage: Stage) -> None:
    await closed_stage.open(auth="anonymous")
    anybody = closed_stage.visitor()
    assert (await anybody.page("/-/login")).status == 404
    assert b"Sign in" not in (await anybody.page("/")).body
    assert b"Sign in" not in (await anybody.page("/clock/")).body
    assert (await anybody.sign_in()).status == 403


async def test_a_page_has_the_buttons_where_no_catalogue_does(closed_stage: Stage) -> None:
    await closed_stage.open(home="hello")
    ann = await closed_stage.person()
    page = await ann.page("/-/logout")
    assert b"As Ann, ann@example.org." in page.body
    assert b'name="everywhere"' in page.body
    await ann.form("/-/logout")
    assert place(await ann.page("/-/logout")) == "/"


async def test_a_form_that_is_too_long_is_refused(stage: Stage) -> None:
    assert (await stage.visitor().form("/-/login", name="x" * 20_000)).status == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_other_methods_are_refused(stage: Stage, method: str) -> None:
    assert (await stage.visitor().request(method, "/-/login")).status == 405


@pytest.mark.parametrize("on_sign_in", ["take", "leave"])
async def test_what_an_anonymous_visitor_runs_follows_him_or_is_left(closed_stage: Stage, on_sign_in: str) -> None:
    stage = closed_stage
    await stage.open(on_sign_in=on_sign_in)
    ann = stage.visitor()
    await ann.follow("/hello/")
    (before,) = stage.plane.sandboxes()
    kept = ann.cookie
    await ann.sign_in()
    assert (await ann.follow("/hello/")).status == 200
    mine = [sandbox.id for sandbox in stage.plane.sandboxes() if sandbox.lease.user == "ann"]
    assert (mine == [before.id]) == (on_sign_in == "take")
    assert (await stage.visitor().get("/hello/", Cookie=kept)).status == 403  # the old cookie is nobody's now
