"""Signing in and out, over the gateway's socket and by its own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import argon2
import msgspec
import pytest

from htagweb_gateway.orchestrator_client import OrchestratorClient
from htagweb_orchestrator.accounts import Account
from htagweb_orchestrator.errors import (
    AppNotFound,
    NotAnOperator,
    SessionTooLarge,
    SignInLimited,
    SignInRefused,
)
from htagweb_orchestrator.model import Person, Snapshot, State, UserId, Welcome, sign_in_id
from htagweb_orchestrator.passwords import OF_NAME, Passwords
from htagweb_orchestrator.people import AccountChange
from htagweb_orchestrator.settings import AppSettings
from tests.orchestrator.stage import CLOCK, HELLO, Plane, Stage, eventually
from tests.orchestrator.test_service import folder, served  # noqa: F401  (a fixture)

ANN = UserId("ann")
PASSWORD = "correct horse battery"


@pytest.fixture
async def plane(stage: Stage) -> Plane:
    stage.apps["hello"] = AppSettings(access=("group:staff",))
    plane = await stage.open(auth="password", session_size_bytes=1000)
    password = await stage.passwords.hash(PASSWORD)
    await plane.accounts.add(Account(name="ann", hash=password, full_name="Ann Oak", groups=("staff", "admin")))
    await plane.accounts.add(Account(name="bob", hash=password))
    return plane


@pytest.fixture
async def client(plane: Plane, folder: Path) -> AsyncIterator[OrchestratorClient]:  # noqa: F811
    async with served(Stage.gateway_app(plane), folder / "orch.sock"):
        client = OrchestratorClient(str(folder / "orch.sock"))
        yield client
        await client.close()


async def test_a_password_signs_in_and_every_gateway_hears_of_it(plane: Plane, client: OrchestratorClient) -> None:
    watch = await plane.gateway()
    welcome = await client.sign_in(" Ann ", PASSWORD, client="192.0.2.1")
    person = Person(id=ANN, name="Ann Oak", groups=("staff", "admin"))
    assert (welcome.sign_in.person, welcome.sign_in.method) == (person, "password")
    assert welcome.sign_in.id == sign_in_id(welcome.sid)
    assert welcome.sign_in.left_s == pytest.approx(12 * 3600)
    await eventually(lambda: [each.id for each in watch.sign_ins.values()] == [welcome.sign_in.id])
    late = await plane.gateway("gateway-2")
    assert isinstance(late.seen[0], Snapshot)
    assert late.seen[0].sign_ins[0].person == person
    await client.sign_out(welcome.sid)
    await client.sign_out(welcome.sid)
    await eventually(lambda: not watch.sign_ins)


async def test_a_sign_in_ends_the_one_before_in_the_same_browser(plane: Plane, client: OrchestratorClient) -> None:
    watch = await plane.gateway()
    first = await client.sign_in("ann", PASSWORD)
    second = await client.sign_in("bob", PASSWORD, sid=first.sid)
    await eventually(lambda: list(watch.sign_ins) == [second.sign_in.id])


async def test_unknown_and_wrong_are_answered_alike(client: OrchestratorClient) -> None:
    words = set()
    for name, password in (("ann", "wrong"), ("nobody", PASSWORD), ("", ""), ("ann", "x" * 100_000), ("\x00", "\x00")):
        with pytest.raises(SignInRefused) as refused:
            await client.sign_in(name, password)
        words.add(str(refused.value))
    assert len(words) == 1


async def test_a_sign_in_that_is_too_old_is_over_for_every_gateway(stage: Stage, plane: Plane) -> None:
    welcome = await plane.visitors.sign_in("ann", PASSWORD)
    watch = await plane.gateway()
    stage.clock.forward(12 * 3600 + 1)
    assert plane.sign_ins.person(ANN) is None
    await plane.sign_ins.expire()
    await eventually(lambda: not watch.sign_ins)
    assert plane.sign_ins.of_secret(welcome.sid) is None


async def test_one_who_is_disabled_while_he_signs_in_is_not_signed_in(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = plane.sign_ins.begin

    async def disabled_first(person: Person, method: str) -> Welcome:
        await plane.people.change("ann", AccountChange(disabled=True))
        return await begin(person, method)

    monkeypatch.setattr(plane.sign_ins, "begin", disabled_first)
    with pytest.raises(SignInRefused):
        await plane.visitors.sign_in("ann", PASSWORD)
    assert plane.sign_ins.all() == ()
    assert [entry["event"] for entry in await plane.audit.entries(who="ann")][-1] == "sign-in-refused"


async def test_a_hash_of_weaker_parameters_is_renewed(stage: Stage, plane: Plane) -> None:
    weaker = argon2.PasswordHasher(time_cost=1, memory_cost=16, parallelism=2)
    await plane.accounts.change("ann", hash=weaker.hash(PASSWORD))
    await plane.visitors.sign_in("ann", PASSWORD)
    account = await plane.accounts.get("ann")
    assert account is not None
    assert not stage.passwords.outdated(account.hash)
    await plane.visitors.sign_in("ann", PASSWORD)


async def test_an_unknown_name_costs_as_much_as_a_wrong_password(plane: Plane) -> None:
    """Time itself can't be compared on a busy machine; what takes it can be counted."""

    class Counting(argon2.PasswordHasher):
        verified = 0

        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            self.verified += 1
            return super().verify(hash, password)

    hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)
    passwords = Passwords(hasher)
    known = await passwords.hash(PASSWORD)
    counts = []
    for each, password in ((known, PASSWORD), (known, "wrong"), (None, PASSWORD), ("damaged", PASSWORD)):
        hasher.verified = 0
        assert await passwords.verify(each, password) is ((each, password) == (known, PASSWORD))
        counts.append(hasher.verified)
    passwords.close()
    assert counts == [1, 1, 1, 1]


async def test_guessing_is_bounded_per_name_and_goes_on_later(
    stage: Stage, plane: Plane, client: OrchestratorClient
) -> None:
    for name in ("ann", "nobody"):
        for _ in range(OF_NAME):
            with pytest.raises(SignInRefused):
                await client.sign_in(name, "wrong")
        with pytest.raises(SignInLimited) as limited:
            await client.sign_in(name, PASSWORD)
        assert 0 < int(limited.value.facts["retry_after_s"]) <= 600
    assert await client.sign_in("bob", PASSWORD)
    stage.clock.forward(601)
    assert await client.sign_in("ann", PASSWORD)


async def test_a_class_may_sign_in_from_one_address(client: OrchestratorClient) -> None:
    for _ in range(OF_NAME + 1):
        await client.sign_in("ann", PASSWORD, client="192.0.2.1")


async def test_only_who_may_open_an_app_gets_it_and_others_are_told_that_there_is_none(
    client: OrchestratorClient,
) -> None:
    with pytest.raises(AppNotFound) as unknown:
        await client.lease(UserId("anon-1"), HELLO)
    assert str(unknown.value) == "There is no app hello here."
    await client.sign_in("bob", PASSWORD)
    with pytest.raises(AppNotFound):
        await client.lease(UserId("bob"), HELLO)
    with pytest.raises(AppNotFound):  # nobody is signed in as ann yet
        await client.lease(ANN, HELLO)
    await client.sign_in("ann", PASSWORD)
    assert (await client.lease(ANN, HELLO, wait_s=5)).state is State.READY


async def test_a_sign_in_outlives_the_orchestrator_and_is_stored_as_a_hash(stage: Stage, plane: Plane) -> None:
    welcome = await plane.visitors.sign_in("ann", PASSWORD)
    assert welcome.operator_token
    for secret in (welcome.sid, welcome.operator_token, PASSWORD):
        assert secret not in repr(welcome)
        assert not any(secret.encode() in path.read_bytes() for path in (stage.root / "state").glob("*.sqlite*"))
    again = await stage.open(auth="password")
    assert again.sign_ins.of_secret(welcome.sid) is not None
    assert again.sign_ins.operator(welcome.operator_token) is not None
    stage.clock.forward(12 * 3600 + 1)
    assert again.sign_ins.of_secret(welcome.sid) is None
    assert again.sign_ins.operator(welcome.operator_token) is None
    assert again.sign_ins.person(ANN) is None


async def test_an_operators_call_is_answered_as_on_the_operators_socket(
    plane: Plane, client: OrchestratorClient
) -> None:
    welcome = await client.sign_in("ann", PASSWORD)
    route = await client.lease(ANN, CLOCK, wait_s=5)
    answer = await client.operate(welcome.operator_token, "GET", f"/v1/sandboxes/{route.sandbox[:6]}")
    assert (answer.status, answer.media_type) == (200, "application/json")
    assert b'"user":"ann"' in answer.body
    assert (await client.operate(welcome.operator_token, "GET", "/v1/sandboxes/ffff")).status == 404
    reap = json.dumps({"ids": [route.sandbox]}).encode()
    assert (
        await client.operate(welcome.operator_token, "POST", "/v1/reap", body=reap, client="192.0.2.1")
    ).status == 200
    (entry,) = await plane.audit.entries(event="operated")
    assert {**entry, "at": ""} == {
        "at": "", "event": "operated", "who": "ann", "call": "POST /v1/reap", "about": route.sandbox[:12],
        "status": 200, "client": "192.0.2.1",
    }  # fmt: skip
    bob = await client.sign_in("bob", PASSWORD)
    assert bob.operator_token == ""
    await client.sign_out(welcome.sid)
    for token in ("", "x", "x\r\ny", bob.sid, welcome.operator_token):
        with pytest.raises(NotAnOperator):
            await client.operate(token, "GET", "/v1/sandboxes")


async def test_a_route_of_the_gateway_and_an_app_share_one_record(stage: Stage, client: OrchestratorClient) -> None:
    alice = UserId("anon-alice")
    harness = stage.harness(await client.lease(alice, CLOCK, wait_s=5))
    await client.patch_session(alice, CLOCK, {"a": 1, "b": 2}, [])
    await client.patch_session(alice, CLOCK, {}, ["b"])
    await eventually(lambda: harness.session == {"a": 1})
    assert await harness.change({"c": 3}) is None
    assert await client.session(alice, CLOCK) == {"a": 1, "c": 3}
    with pytest.raises(SessionTooLarge):
        await client.patch_session(alice, CLOCK, {"d": "x" * 1000}, [])
    assert await client.session(alice, CLOCK) == {"a": 1, "c": 3}


async def test_only_the_configured_way_leads_in(stage: Stage, client: OrchestratorClient) -> None:
    eve = Person(id=UserId("eve"), groups=("admin",))
    with pytest.raises(SignInRefused):
        await client.admit(eve, "oidc")
    with pytest.raises(SignInRefused):
        await client.redeem("guess")
    plane = await stage.open(auth="oidc")
    assert (await plane.visitors.admit(eve, "oidc")).sign_in.person == eve
    with pytest.raises(SignInRefused):
        await plane.visitors.admit(eve, "header")
    with pytest.raises(SignInRefused):
        await plane.visitors.sign_in("ann", PASSWORD)
    for ident in ("", "anon-1", "x" * 300, "a\nb", "operator"):
        with pytest.raises(SignInRefused):
            await plane.visitors.admit(Person(id=UserId(ident)), "oidc")
    odd: dict[str, Any]
    for odd in ({"name": "x" * 300}, {"email": "a\x1b[2J"}, {"groups": ("g",) * 2000}, {"groups": ("g" * 300,)}):
        with pytest.raises(SignInRefused):
            await plane.visitors.admit(msgspec.structs.replace(eve, **odd), "oidc")
