"""Accounts, tokens and the audit log, by the operator's own command over the operators' socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import argon2
import pytest
from typer.testing import CliRunner, Result

from htagweb.cli import app
from htagweb_orchestrator.audit import FILE_BYTES, Event
from htagweb_orchestrator.errors import AppNotFound, NotAnOperator, SessionStoreFailed, SignInLimited, SignInRefused
from htagweb_orchestrator.model import Ending, UserId
from htagweb_orchestrator.passwords import OF_ADDRESS
from htagweb_orchestrator.people import NewAccount
from htagweb_orchestrator.settings import AppSettings
from htagweb_orchestrator.tokens import LINK_S
from tests.orchestrator.stage import CLOCK, HELLO, Plane, Stage, eventually
from tests.orchestrator.test_service import folder, served  # noqa: F401  (a fixture)

ANN = UserId("ann")
FIRST, SECOND = "correct horse", "battery staple"
Command = Callable[..., Awaitable[Result]]


@pytest.fixture
async def plane(stage: Stage) -> Plane:
    stage.apps["hello"] = AppSettings(access=("group:staff",))
    return await stage.open(auth="password")


@pytest.fixture
async def htagweb(plane: Plane, folder: Path) -> AsyncIterator[Command]:  # noqa: F811
    """Type a command; `typed` is what stands on its stdin."""

    async def run(*words: str, typed: str | bytes = "") -> Result:
        runner = CliRunner(env={"HTAGWEB_ADMIN_DIR": str(folder)})
        return await asyncio.to_thread(runner.invoke, app, list(words), input=typed)

    async with served(Stage.operator_app(plane), folder / "admin.sock"):
        yield run


async def rows(htagweb: Command, *words: str) -> list[dict[str, Any]]:
    result = await htagweb(*words, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


async def test_an_account_from_its_making_to_its_removal(plane: Plane, htagweb: Command) -> None:
    made = await htagweb("users", "add", "ann", "--group", "staff", "--full-name", "Ann Oak", typed=f"{FIRST}\n")
    assert (made.exit_code, made.output) == (0, "")
    watch = await plane.gateway()
    await plane.visitors.sign_in("ann", FIRST)
    await plane.until_ready(ANN, HELLO)
    (shown,) = await rows(htagweb, "users")
    assert {key: shown[key] for key in ("name", "full_name", "groups", "state", "signed_in", "sandboxes")} == {
        "name": "ann", "full_name": "Ann Oak", "groups": ["staff"], "state": "enabled", "signed_in": 1, "sandboxes": 1,
    }  # fmt: skip
    assert shown["last_sign_in_ago_s"] < 60
    assert "Ann Oak" in (await htagweb("users")).stdout

    assert (await htagweb("users", "passwd", "ann", typed=f"{SECOND}\n")).exit_code == 0
    await eventually(lambda: not watch.sign_ins)
    with pytest.raises(SignInRefused):
        await plane.visitors.sign_in("ann", FIRST)
    await plane.visitors.sign_in("ann", SECOND)

    assert (await htagweb("users", "disable", "ann")).exit_code == 0
    await eventually(lambda: not watch.sign_ins)
    assert (await plane.until_ended(ANN, HELLO)).ending is Ending.OPERATOR
    with pytest.raises(SignInRefused):
        await plane.visitors.sign_in("ann", SECOND)
    assert (await htagweb("users", "enable", "ann")).exit_code == 0
    await plane.visitors.sign_in("ann", SECOND)

    assert (await htagweb("users", "set", "ann", "--no-groups")).exit_code == 0
    await eventually(lambda: not watch.sign_ins)  # what she may do is decided when she signs in
    await plane.visitors.sign_in("ann", SECOND)
    with pytest.raises(AppNotFound):
        await plane.lease(ANN, HELLO)

    await plane.belongings.patch_session(ANN, CLOCK, {"a": 1}, [])
    assert (await htagweb("users", "remove", "ann")).exit_code == 2
    assert (await htagweb("users", "remove", "ann", "--yes")).exit_code == 0
    assert await plane.belongings.session(ANN, CLOCK) == {}
    assert await rows(htagweb, "users") == []


async def test_others_bad_links_keep_no_operator_out(plane: Plane) -> None:
    path = (await plane.people.link())["path"]
    for _ in range(OF_ADDRESS):
        with pytest.raises(SignInRefused):
            await plane.visitors.redeem("guess", client="192.0.2.66")
    with pytest.raises(SignInLimited):
        await plane.visitors.redeem("guess", client="192.0.2.66")
    assert await plane.visitors.redeem(path.partition("=")[2], client="192.0.2.1")


async def test_a_sign_out_that_could_not_be_stored_holds_and_is_stored_later(stage: Stage, plane: Plane) -> None:
    await plane.people.add(NewAccount(name="ann", password=FIRST))
    watch = await plane.gateway()
    welcome = await plane.visitors.sign_in("ann", FIRST)
    with stage.locked("accounts.sqlite"):
        with pytest.raises(SessionStoreFailed):
            await plane.visitors.sign_out(welcome.sid)
        await eventually(lambda: not watch.sign_ins)
        assert plane.sign_ins.of_secret(welcome.sid) is None
    await plane.sign_ins.expire()
    again = await stage.open(auth="password")
    assert again.sign_ins.of_secret(welcome.sid) is None


async def test_nobody_is_signed_in_without_it_being_stored(stage: Stage, plane: Plane) -> None:
    await plane.people.add(NewAccount(name="ann", password=FIRST))
    with stage.locked("accounts.sqlite"), pytest.raises(SessionStoreFailed):
        await plane.visitors.sign_in("ann", FIRST)
    assert plane.sign_ins.all() == ()


@pytest.mark.parametrize(
    ("words", "typed", "code", "said"),
    [
        (("add", "Ann"), FIRST, 2, "can't be a name"),
        (("add", "anon-ann"), FIRST, 2, "can't be a name"),
        (("add", "operator"), FIRST, 2, "can't be a name"),
        (("add", "eve"), "short", 2, "A password has 8 to 1024 characters."),
        (("add", "eve"), b"caf\xe9 au lait", 2, "A password is read as UTF-8"),
        (("add", "eve"), "", 2, "A password has 8 to 1024 characters."),
        (("add", "eve", "--group", "a b"), FIRST, 2, "can't be a group"),
        (("add", "bob"), FIRST, 2, "There is a user bob already."),
        (("passwd", "eve"), FIRST, 3, "There is no user eve."),
        (("disable", "../tokens"), "", 3, "There is no user ../tokens."),
        (("set", "bob"), "", 2, "Say what to change"),
        (("sign-out", "bob"), "", 3, "bob is not signed in."),
    ],
)
async def test_a_mistake_is_told_and_changes_nothing(
    htagweb: Command, words: tuple[str, ...], typed: str | bytes, code: int, said: str
) -> None:
    assert (await htagweb("users", "add", "bob", typed=FIRST)).exit_code == 0
    result = await htagweb("users", *words, typed=typed)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output
    assert [row["name"] for row in await rows(htagweb, "users")] == ["bob"]


async def test_a_token_opens_the_operators_api_until_it_is_revoked(
    stage: Stage, plane: Plane, htagweb: Command
) -> None:
    made = await htagweb("token", "create", "backup", "--life", "1h")
    secret = made.stdout.strip()
    assert await plane.visitors.operator(secret) == "token:backup"
    (shown,) = await rows(htagweb, "token")
    assert (shown["label"], round(shown["left_s"]), shown["used_ago_s"]) == ("backup", 3600, 0)
    assert not any(secret.encode() in path.read_bytes() for path in (stage.root / "state").glob("*.sqlite*"))
    again = await stage.open(auth="password")
    assert await again.visitors.operator(secret) == "token:backup"
    stage.clock.forward(3601)
    with pytest.raises(NotAnOperator):
        await again.visitors.operator(secret)
    lasting = (await htagweb("token", "create", "lasting")).stdout.strip()
    assert (await htagweb("token", "create", "lasting")).exit_code == 2
    stage.clock.forward(1e8)
    assert await plane.visitors.operator(lasting)
    assert (await htagweb("token", "revoke", "lasting")).exit_code == 0
    assert (await htagweb("token", "revoke", "lasting")).exit_code == 3
    with pytest.raises(NotAnOperator):
        await plane.visitors.operator(lasting)


async def test_a_token_is_named_by_its_label_or_by_the_first_digits_of_its_id(htagweb: Command) -> None:
    """A label may be what another one's id begins with."""
    assert (await htagweb("token", "create", "backup")).exit_code == 0
    (backup,) = await rows(htagweb, "token")
    digit = backup["id"][0]
    assert (await htagweb("token", "create", digit)).exit_code == 0
    assert (await htagweb("token", "revoke", digit)).exit_code == 0
    assert [row["label"] for row in await rows(htagweb, "token")] == ["backup"]
    assert (await htagweb("token", "revoke", "")).exit_code == 3
    assert (await htagweb("token", "revoke", digit)).exit_code == 0
    assert await rows(htagweb, "token") == []


async def test_a_token_that_was_never_good_is_not_made(htagweb: Command) -> None:
    result = await htagweb("token", "create", "backup", "--life", "0s")
    assert (result.exit_code, result.stderr) == (2, "A token's life is a second to ten years.\n")
    assert (await htagweb("token", "create", "backup", "--life", "4000d")).exit_code == 2
    assert await rows(htagweb, "token") == []


async def test_who_was_only_told_to_wait_has_not_failed(
    plane: Plane, htagweb: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that signs in at one moment, from one address."""
    assert (await htagweb("users", "add", "ann", typed=FIRST)).exit_code == 0
    verify, somebody_waits = argon2.PasswordHasher.verify, threading.Event()
    monkeypatch.setattr(argon2.PasswordHasher, "verify", lambda *asked: somebody_waits.wait(30) and verify(*asked))

    async def refused(name: str) -> str:
        with pytest.raises((SignInRefused, SignInLimited)) as told:
            await plane.visitors.sign_in(name, "wrong", client="192.0.2.1")
        if told.type is SignInLimited:
            somebody_waits.set()
        return str(told.value)

    told = await asyncio.gather(*(refused(f"pupil{n}") for n in range(OF_ADDRESS)))
    assert any("at this moment" in text for text in told)
    assert not any("sign-ins failed" in text for text in told)
    assert await plane.visitors.sign_in("ann", FIRST, client="192.0.2.1")


async def test_a_link_signs_an_operator_in_once(stage: Stage, plane: Plane, htagweb: Command) -> None:
    async def link() -> str:
        return (await htagweb("token", "link")).stdout.strip().removeprefix("/-/login?token=")

    secret = await link()
    assert not any(secret.encode() in path.read_bytes() for path in (stage.root / "state").glob("*.sqlite*"))
    welcome = await plane.visitors.redeem(secret)
    assert (welcome.sign_in.person.groups, welcome.sign_in.method) == (("admin",), "link")
    assert await plane.visitors.operator(welcome.operator_token) == "operator"
    older, newer = await link(), await link()
    late = await link()
    stage.clock.forward(LINK_S + 1)
    for bad in (secret, older, newer, late, "", "guess"):
        with pytest.raises(SignInRefused):
            await plane.visitors.redeem(bad)


async def test_the_first_start_offers_a_link_until_there_is_an_operator(plane: Plane, htagweb: Command) -> None:
    assert await plane.people.first_link()
    await htagweb("users", "add", "ann", "--group", "admin", typed=FIRST)
    assert await plane.people.first_link() is None
    await htagweb("users", "disable", "ann")
    assert await plane.people.first_link()


async def test_where_a_provider_says_who_is_an_operator_no_link_is_offered(stage: Stage) -> None:
    assert await (await stage.open(auth="oidc")).people.first_link() is None
    anonymous = await stage.open()
    assert await anonymous.people.first_link()
    assert "nobody signs in by an account" in await anonymous.people.add(NewAccount(name="ann", password=FIRST))


async def test_who_signed_in_another_way_does_so_anew(stage: Stage, plane: Plane) -> None:
    await plane.people.add(NewAccount(name="ann", password=FIRST))
    welcome = await plane.visitors.sign_in("ann", FIRST)
    link = await plane.visitors.redeem((await plane.people.link())["path"].partition("=")[2])
    again = await stage.open(auth="oidc")
    assert [each.id for each in again.sign_ins.all()] == [link.sign_in.id] != [welcome.sign_in.id]


async def test_the_audit_log_says_who_did_what(stage: Stage, plane: Plane, htagweb: Command) -> None:
    await htagweb("users", "add", "ann", "--group", "admin", "--group", "staff", typed=FIRST)
    for name in ("ann", "nobody"):
        with pytest.raises(SignInRefused):
            await plane.visitors.sign_in(name, "wrong", client="192.0.2.7")
    welcome = await plane.visitors.sign_in("ann", FIRST, client="192.0.2.7")
    route = await plane.until_ready(ANN, HELLO)
    for _ in range(3):
        with pytest.raises(AppNotFound):
            await plane.lease(UserId("anon-1"), HELLO, client="192.0.2.8")
    await htagweb("reap", "--app", "hello", "--yes")
    await plane.visitors.sign_out(welcome.sid)
    with pytest.raises(NotAnOperator):
        await plane.visitors.operator("guess", "192.0.2.9")
    told = [{key: value for key, value in row.items() if key != "at"} for row in await rows(htagweb, "audit")]
    assert told == [
        {"event": "operated", "who": "command", "call": "POST /v1/users", "about": "ann", "status": 200},
        {"event": "sign-in-refused", "who": "ann", "why": "wrong", "client": "192.0.2.7"},
        {"event": "sign-in-refused", "who": "", "why": "wrong", "client": "192.0.2.7"},
        {"event": "signed-in", "who": "ann", "method": "password", "client": "192.0.2.7"},
        {"event": "started", "who": "ann", "app": "hello", "sandbox": route.sandbox},
        {"event": "refused", "who": "anon-1", "app": "hello", "why": "unknown-app", "client": "192.0.2.8"},
        {"event": "ended", "who": "ann", "app": "hello", "sandbox": route.sandbox, "ending": "operator"},
        {"event": "operated", "who": "command", "call": "POST /v1/reap", "about": route.sandbox[:12], "status": 200},
        {"event": "signed-out", "who": "ann"},
        {"event": "operation-refused", "who": "", "client": "192.0.2.9"},
    ]
    path = stage.root / "state" / "audit.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [{key: value for key, value in line.items() if key != "at"} for line in lines] == told
    assert [row["event"] for row in await rows(htagweb, "audit", "--who", "ann", "-n", "2")] == ["ended", "signed-out"]
    assert len(await rows(htagweb, "audit", "--event", "sign-in-refused")) == 2
    shown = json.loads((await htagweb("inspect", route.sandbox[:12], "--json")).stdout)
    assert [line.split()[1] for line in shown["history"]] == ["started", "ended"]
    stage.clock.forward(100)
    assert await rows(htagweb, "audit", "--within", "50s") == []
    assert "sign-in-refused" in (await htagweb("audit")).stdout


async def test_the_audit_log_is_bounded_and_survives_what_it_can_not_write(
    stage: Stage, plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    path = stage.root / "state" / "audit.jsonl"
    path.write_bytes(b"x" * (FILE_BYTES - 10))
    plane.audit.add(Event.SIGNED_OUT, "ann")
    await plane.audit.settle()
    assert json.loads(path.read_text())["who"] == "ann"
    assert path.with_name("audit.jsonl.1").stat().st_size == FILE_BYTES - 10
    path.unlink()
    path.mkdir()
    plane.audit.add(Event.SIGNED_OUT, "ann")
    await plane.audit.settle()
    assert "the audit log can't be written" in caplog.text
    path.rmdir()
    plane.audit.add(Event.SIGNED_OUT, "bob")
    assert (await plane.audit.entries(who="bob"))[0]["event"] == "signed-out"


async def test_a_store_that_is_locked_refuses_loudly_and_changes_nothing(
    stage: Stage, plane: Plane, htagweb: Command
) -> None:
    await htagweb("users", "add", "ann", typed=FIRST)
    with stage.locked("accounts.sqlite"):
        result = await htagweb("users", "passwd", "ann", typed=SECOND)
        assert (result.exit_code, "Nothing was changed" in result.stderr) == (1, True)
    assert await plane.visitors.sign_in("ann", FIRST)
