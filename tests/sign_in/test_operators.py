"""What operators reach through the gateway, which has no right of its own: the orchestrator decides about each call."""

from __future__ import annotations

import base64
import json

import pytest

from htagweb_orchestrator.catalogue import Catalogue
from htagweb_orchestrator.settings import AppSettings
from tests.sign_in.stage import Person, Stage, place


async def bearer(stage: Stage) -> dict[str, str]:
    secret, _ = await stage.plane.tokens.create("program", life_s=None)
    return {"Authorization": f"Bearer {secret}"}


def of_a_browser(person: Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {person.cookies['htagweb-operator']}"}


async def test_an_operators_token_gets_what_the_command_gets(stage: Stage) -> None:
    ann = await stage.person()
    await ann.follow("/clock/")
    program, token = stage.visitor(), await bearer(stage)
    answer = await program.request("GET", "/-/api/v1/sandboxes", token)
    (row,) = json.loads(answer.body)
    assert (answer.status, row["app"], row["user"], row["state"]) == (200, "clock", "ann", "ready")
    assert answer.header(b"cache-control") == b"no-store"
    answer = await program.request("POST", "/-/api/v1/reap", token, json.dumps({"ids": [row["id"]]}).encode())
    assert [each["ended"] for each in json.loads(answer.body)] == [True]
    assert (await program.request("GET", "/-/api/v1/nothing", token)).status == 404


@pytest.mark.parametrize("path", ["sandboxes", "apps", "users", "audit", "logs/c0ffee", "nothing"])
async def test_without_a_good_token_every_call_is_refused_alike(stage: Stage, path: str) -> None:
    root, ann = await stage.person("root"), await stage.person()
    gone, browsers = await bearer(stage), of_a_browser(root)
    for token in stage.plane.tokens.all():
        await stage.plane.tokens.revoke(token.id)
    fields: list[dict[str, str]] = [
        {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic cm9vdDpyb290"},
        {"Authorization": f"Bearer {ann.cookies['htagweb']}"}, {"Authorization": "Bearer a/../b"}, gone, browsers,
    ]  # fmt: skip
    for headers in fields:
        for method in ("GET", "POST", "DELETE", "PATCH"):
            answer = await ann.request(method, f"/-/api/v1/{path}", headers)
            assert (answer.status, answer.header(b"www-authenticate")) == (401, b"Bearer"), (method, headers)


async def test_a_browsers_cookies_call_nothing(stage: Stage) -> None:
    root = await stage.person("root")
    assert (await root.get("/-/api/v1/sandboxes", Sec_Fetch_Site="same-origin")).status == 401
    assert (await root.post("/-/api/v1/reap", b'{"ids": []}')).status == 401


async def test_the_page_shows_what_runs_and_ends_it(stage: Stage) -> None:
    root, ann = await stage.person("root"), await stage.person()
    await ann.follow("/clock/")
    stage.machine.write("broken", "def (")
    assert b'href="/-/admin"' in (await root.page("/")).body
    page = (await root.page("/-/admin")).body.decode()
    assert "<p>ann</p>" in page
    running = stage.plane.sandboxes()[0].id
    assert f'name="end" value="{running}"' in page
    assert (await root.page(f"/-/admin?logs={running}")).status == 200
    assert (await root.page("/-/admin?logs=../x")).status == 404
    assert (await root.page("/-/admin?build=clock")).status == 200
    assert (await root.page("/-/admin?build=../x")).status == 404
    assert (await root.form("/-/admin", build="clock")).status == 303
    answer = await root.form("/-/admin", end=running)
    assert (answer.status, place(answer)) == (303, "/-/admin")
    assert stage.plane.sandboxes() == []
    assert (await root.form("/-/admin", end=running)).status == 303  # gone already


async def test_the_page_says_that_the_server_drains_and_ends_that(stage: Stage) -> None:
    root = await stage.person("root")
    assert b"Draining" not in (await root.page("/-/admin")).body
    program, token = stage.visitor(), await bearer(stage)
    answer = await program.request("POST", "/-/api/v1/drain", token, b'{"on": true}')
    assert json.loads(answer.body) == {"draining": True, "running": 0, "waiting": 0}
    assert b"Draining" in (await root.page("/-/admin")).body
    refused = await root.follow("/clock/")
    assert (refused.status, refused.header(b"retry-after")) == (503, b"60")
    assert (await root.form("/-/admin", drain="off")).status == 303
    assert not json.loads((await program.request("GET", "/-/api/v1/drain", token)).body)["draining"]
    assert (await root.follow("/clock/")).status == 200


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("drain", b"{}"),
        ("drain", b'{"off": true}'),
        ("drain", b'{"on": false, "of": true}'),
        ("prune", b'{"Yes": true}'),
        ("reap", b'{"ids": [], "reason": "updated"}'),
        ("data/remove", b'{"usr": "ann"}'),  # not everybody's, then
    ],
)
async def test_a_program_that_says_something_else_than_it_means_is_refused(
    stage: Stage, call: str, body: bytes
) -> None:
    program, token = stage.visitor(), await bearer(stage)
    answer = await program.request("POST", f"/-/api/v1/{call}", token, body)
    assert (answer.status, json.loads(answer.body)["reason"]) == (400, "bad-request")
    assert not stage.plane.operators.drained()["draining"]


async def test_the_page_says_what_of_the_configuration_is_not_used(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = await stage.person("root")
    assert b"Configuration" not in (await root.page("/-/admin")).body
    monkeypatch.setattr(Catalogue, "problems", ("htagweb.toml: auth is used after a restart",))
    page = (await root.page("/-/admin")).body.decode()
    assert page.count("Configuration") == page.count("htagweb.toml: auth is used after a restart") == 1


async def test_nobody_else_sees_the_page_or_presses_its_buttons(stage: Stage) -> None:
    root, ann, anybody = await stage.person("root"), await stage.person(), stage.visitor()
    await root.follow("/clock/")
    running = stage.plane.sandboxes()[0].id
    assert (await ann.page("/-/admin")).status == 404
    assert place(await anybody.page("/-/admin")) == "/-/login?next=%2F-%2Fadmin"
    ann.cookies["htagweb-operator"] = "guessed"
    assert (await ann.page("/-/admin")).status == 404
    assert (await ann.form("/-/admin", end=running)).status == 404
    body = f"end={running}".encode()
    for headers in ({}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert (await root.request("POST", "/-/admin", headers, body)).status == 403
    assert [sandbox.id for sandbox in stage.plane.sandboxes()] == [running]
    assert (await root.get("/-/admin")).status == 404  # a script's request, and no person's


async def test_an_operator_who_signed_out_is_none_any_more(stage: Stage) -> None:
    root = await stage.person("root")
    kept = dict(root.cookies)
    assert (await root.page("/-/admin")).status == 200
    await root.form("/-/logout")
    root.cookies = kept
    assert (await root.page("/-/admin")).status in (303, 404)


async def test_a_call_that_is_too_long_is_refused(stage: Stage) -> None:
    root = await stage.person("root")
    answer = await root.request("POST", "/-/api/v1/reap", await bearer(stage), b" " * (1024 * 1024 + 1))
    assert answer.status == 413


@pytest.mark.parametrize("auth", ["password", "anonymous"])
async def test_a_one_time_link_signs_an_operator_in_by_a_click(closed_stage: Stage, auth: str) -> None:
    stage = closed_stage
    await stage.open(auth=auth)
    link = str((await stage.plane.people.link())["path"])
    token = link.partition("token=")[2]
    first, second = stage.visitor(), stage.visitor()
    page = await first.page(link)  # as whatever shows a preview of links does
    assert (page.status, page.all(b"set-cookie")) == (200, [])
    assert (await first.form("/-/login", token=token)).status == 303
    assert (await first.page("/-/admin")).status == 200
    answer = await second.form("/-/login", token=token)
    assert answer.status == 403
    assert b"You are not signed in" in answer.body
    assert (await second.page("/-/admin")).status in (303, 404)


async def test_no_list_of_an_operators_tells_an_apps_secret(closed_stage: Stage) -> None:
    stage, secret = closed_stage, "hush-6f1d0c"
    folder = stage.machine.root / "secrets"
    folder.mkdir()
    (folder / "api-key").write_text(secret)
    stage.machine.apps["clock"] = AppSettings(secrets=("api-key",))
    await stage.open(secrets_dir=folder)
    ann, token = await stage.person(), await bearer(stage)
    await ann.follow("/clock/")
    running = stage.plane.sandboxes()[0].id
    sent = base64.b64encode(secret.encode()).decode()
    assert any(sent in repr(made.harness.heard) for made in stage.machine.machine.containers.values())
    for path in (
        "sandboxes", f"sandboxes/{running}", f"logs/{running}", "apps", "pool", "data", "warnings", "users", "audit",
        "configuration", "metrics",
    ):  # fmt: skip
        answer = await stage.visitor().request("GET", f"/-/api/v1/{path}", token)
        assert answer.status == 200, path
        assert secret.encode() not in answer.body, path
        assert sent.encode() not in answer.body, path
