"""Who may open what. An app that somebody may not open answers him like one that doesn't exist, on every route."""

from __future__ import annotations

import ast
import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

import htagweb_gateway
from htagweb_orchestrator.model import AppName, AppsChanged
from tests.orchestrator.stage import eventually
from tests.sign_in.stage import PAGE, Person, Stage, place

PROGRAM = {"Accept": "application/json", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
PATHS = (
    "/{app}", "/{app}/", "/{app}/?a=1", "/{app}/x/y", "/{app}/events", "/{app}/_ws", "/{app}/event", "/{app}/%2e",
    "/-/status?app={app}", "/-/start?app={app}", "/-/start?app={app}&next=/{app}/x", "/-/enter?next=/{app}/",
    "/-/stop", "/-/stay", "/-/login?next=/{app}/", "/-/login/callback?state={app}", "/-/icon/{app}",
    "/-/admin?build={app}", "/-/api/v1/apps/{app}/log", "/-/healthz?app={app}", "/-/readyz?app={app}",
    "/-/logout?next=/{app}/",  # the last: it does sign him out
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
PRIVATE, NOTHING = "todo", "zzzz"  # of one length, so that even lengths must agree
Seen = tuple[int, list[tuple[bytes, bytes]], bytes]


async def answers(person: Person, app: str) -> AsyncIterator[tuple[str, Seen]]:
    """What each route says to this visitor, with the app's name taken out, and what differs by chance."""
    name = app.encode()
    for path, method, headers in itertools.product(PATHS, METHODS, (PAGE, PROGRAM)):
        cookies = dict(person.cookies)
        body = b"app=" + name + b"&next=/" + name + b"/" if method in ("POST", "PUT") else b""
        fields = {**headers, "Origin": f"http://{person.host}"}
        answer = await person.request(method, path.format(app=app), fields, body)
        person.cookies = cookies  # whoever has none shall have none at the next route
        shown = sorted((key, value.replace(name, b"?")) for key, value in answer.headers if key != b"date")
        shown = [(key, value.split(b"=")[0] if key == b"set-cookie" else value) for key, value in shown]
        yield f"{method} {path} {headers['Accept']}", (answer.status, shown, answer.body.replace(name, b"?"))


def test_no_route_of_the_platforms_is_left_out() -> None:
    """Every string in the gateway's code that is a path below /-/, and what it serves of files."""
    known = {path.format(app=NOTHING).partition("?")[0] for path in PATHS}
    found = set()
    for module in Path(htagweb_gateway.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} if re.fullmatch(r"/-/[\w./-]+", node.value) else set()
    assert {"/-/status", "/-/admin", "/-/api/v1/", "/-/icon/"} <= found
    files = {"/-/icon.svg"}  # the same for everybody
    left_out = {path for path in found - files if not any(one == path or _below(one, path) for one in known)}
    assert left_out == set()


def _below(path: str, folder: str) -> bool:
    return folder.endswith("/") and path.startswith(folder)


async def socket_refusal(person: Person, path: str) -> tuple[int, bytes]:
    with pytest.raises(InvalidStatus) as refusal:
        await person.socket(path)
    return refusal.value.response.status_code, bytes(refusal.value.response.body or b"")


@pytest.mark.parametrize("who", ["nobody", "anonymous", "bob"])
async def test_55_every_route_of_a_forbidden_app_answers_as_if_it_did_not_exist(stage: Stage, who: str) -> None:
    ann = await stage.person("ann")
    assert (await ann.follow("/todo/")).status == 200
    running = stage.plane.sandboxes()[0].id
    other = await stage.person("bob") if who == "bob" else stage.visitor()
    if who == "anonymous":
        await other.enter("hello")
    forbidden = {route: seen async for route, seen in answers(other, PRIVATE)}
    if who == "bob":
        assert (await other.sign_in("bob")).status == 303
    unknown = {route: seen async for route, seen in answers(other, NOTHING)}
    if who == "bob":
        assert (await other.sign_in("bob")).status == 303
    for route, seen in unknown.items():
        assert forbidden[route] == seen, route
    assert len(forbidden) == len(PATHS) * len(METHODS) * 2
    for path in ("/{}/ws", "/{}/", "/{}/_ws?x=1"):
        assert await socket_refusal(other, path.format(PRIVATE)) == await socket_refusal(other, path.format(NOTHING))
    for target in (f"/{running}/", f"/-/{running}", f"/todo/?sandbox={running}", f"/-/status?app={running}"):
        answer = await other.get(target)
        assert answer.status == 404 or b'"sandbox":""' in answer.body, target
    assert [sandbox.id for sandbox in stage.plane.sandboxes()] == [running]
    assert (await ann.get("/todo/")).status == 200


async def test_who_opens_what_is_not_for_him_is_in_the_audit_log(stage: Stage) -> None:
    bob, anybody = await stage.person("bob"), stage.visitor()
    for _ in range(3):  # once in a minute
        for person in (bob, anybody):
            assert (await person.page("/todo/x")).status == 404
            assert (await person.page("/-/start?app=todo")).status == 404
            assert (await person.page("/zzzz/")).status == 404  # of such there are any number
    await socket_refusal(bob, "/form/ws")
    assert (await bob.get("/-/status?app=form")).status == 200  # what pages ask by themselves
    await bob.page("/")
    await stage.gateway.flush()
    entries = await stage.plane.audit.entries(event="refused")
    assert sorted((entry["who"], entry["app"], entry["why"]) for entry in entries) == [
        ("", "todo", "forbidden"), ("bob", "form", "forbidden"), ("bob", "todo", "forbidden"),
    ]  # fmt: skip


async def test_a_refusal_is_told_when_there_is_an_orchestrator_again(stage: Stage) -> None:
    bob = await stage.person("bob")
    await stage.orchestrator_goes()
    assert (await bob.page("/todo/")).status == 404
    await stage.gateway.flush()
    await stage.orchestrator_comes()
    await stage.gateway.flush()
    (entry,) = await stage.plane.audit.entries(event="refused")
    assert (entry["who"], entry["app"]) == ("bob", "todo")


async def test_the_catalogue_lists_what_its_visitor_may_open(stage: Stage) -> None:
    seen = {}
    for who in ("", "bob", "ann"):
        person = await stage.person(who) if who else stage.visitor()
        body = (await person.page("/")).body.decode()
        seen[who] = [app for app in ("hello", "clock", "todo", "form") if f'href="/{app}/"' in body]
    assert seen == {
        "": ["hello"],
        "bob": ["hello", "clock"],
        "ann": ["hello", "clock", "todo", "form"],
    }


async def test_an_anonymous_visitor_is_offered_to_sign_in_whatever_the_name(stage: Stage) -> None:
    anybody = stage.visitor()
    for app in ("todo", "zzzz"):
        page = await anybody.page(f"/{app}/deep?x=1")
        assert page.status == 404
        assert f'href="/-/login?next=%2F{app}%2Fdeep%3Fx%3D1"' in page.body.decode()
        assert page.all(b"set-cookie") == []
    bob = await stage.person("bob")
    assert b"/-/login" not in (await bob.page("/todo/")).body  # he did that already


async def test_whoever_signs_in_gets_where_he_wanted_to_go(stage: Stage) -> None:
    ann = stage.visitor()
    answer = await ann.sign_in(next="/todo/deep?x=1")
    assert place(await ann.page(place(answer))) == "/todo/deep?x=1"
    page = await ann.follow("/todo/deep?x=1")
    assert b'"path":"/deep"' in page.body


async def test_an_app_is_not_told_the_cookie_of_whoever_is_signed_in(stage: Stage) -> None:
    root = await stage.person("root")
    page = await root.follow("/clock/")
    assert page.status == 200
    assert root.cookies["htagweb"] not in page.body.decode()
    assert root.cookies["htagweb-operator"]
    assert "cookie" not in page.body.decode()


async def test_a_person_has_one_sandbox_in_all_his_browsers(stage: Stage) -> None:
    here, there = await stage.person(), await stage.person()
    await here.follow("/clock/")
    await there.follow("/clock/")
    assert len(stage.plane.sandboxes()) == 1
    assert stage.gateway.routes.get(stage.plane.sandboxes()[0].lease.user, AppName("clock")) is not None


async def test_whoever_may_not_open_it_any_more_is_shut_out_of_what_he_has_open(stage: Stage) -> None:
    ann, bob = await stage.person("ann"), await stage.person("bob")
    sockets = []
    for person in (ann, bob):
        assert (await person.follow("/clock/")).status == 200
        sockets.append(await person.socket("/clock/ws"))
    cards = stage.plane._catalogue.cards()
    changed = [
        msgspec.structs.replace(card, access=("group:staff",)) if card.name == "clock" else card for card in cards
    ]
    stage.plane._hub.publish(AppsChanged(apps=tuple(changed)))
    with pytest.raises(ConnectionClosed):
        async with asyncio.timeout(15):
            await sockets[1].recv()
    assert (await bob.get("/clock/")).status == 404
    # What his open page says: no more than of an app that never was.
    told, unknown = [json.loads((await bob.get(f"/-/status?app={app}")).body) for app in ("clock", "never")]
    assert told | {"app": "never"} == unknown
    assert told["text"] == "It is no longer published here, or not for you. Your session is kept."
    await sockets[0].send("still here")
    assert await sockets[0].recv() == "still here"
    assert (await ann.get("/clock/")).status == 200
    await sockets[0].close()


async def test_what_is_not_published_any_more_can_be_ended_to_make_room(closed_stage: Stage) -> None:
    await closed_stage.open(max_per_user=1)
    ann = await closed_stage.person("ann")
    assert (await ann.follow("/clock/")).status == 200
    cards = tuple(card for card in closed_stage.plane._catalogue.cards() if card.name != "clock")
    closed_stage.plane._hub.publish(AppsChanged(apps=cards))
    await eventually(lambda: "clock" not in closed_stage.gateway.routes.apps)
    full = await ann.follow("/todo/")
    assert full.status == 429
    assert "End “clock”, open “Todo”" in full.body.decode()
    assert place(await ann.form("/-/stop", app="clock", next="/todo/")) == "/todo/"
    assert (await ann.follow("/todo/")).status == 200
