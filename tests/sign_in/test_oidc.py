"""Signing in at an OpenID provider: a real server on loopback, which a test may make lie."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from tests.gateway.scripted import Response as Answer
from tests.sign_in.provider import CLIENT, SECRET, Claims, Provider, new_key, provider
from tests.sign_in.stage import Person, Stage, place


@pytest.fixture
async def elsewhere() -> AsyncIterator[Provider]:
    async with provider() as found:
        yield found


@pytest.fixture
async def stage(closed_stage: Stage, elsewhere: Provider) -> Stage:
    await closed_stage.open(
        auth="oidc", oidc_issuer=elsewhere.issuer, oidc_client_id=CLIENT, oidc_client_secret=SECRET, dev=True
    )
    return closed_stage


async def consent(url: str) -> str:
    """What a browser does at the provider: be sent back. The target of the request that it then makes of us."""
    async with httpx.AsyncClient(trust_env=False) as client:
        back = urlsplit((await client.get(url)).headers["location"])
    return f"{back.path}?{back.query}"


async def sign_in(person: Person, target: str = "/") -> Answer:
    """All the way there and back; the answer to coming back."""
    there = await person.page(f"/-/login?next={target}")
    assert there.status == 303, there.body
    return await person.page(await consent(place(there)))


async def test_somebody_signs_in_there_and_opens_what_is_for_his_group(stage: Stage) -> None:
    ann = stage.visitor()
    answer = await sign_in(ann, "/todo/")
    assert (answer.status, place(answer)) == (303, "/-/enter?next=%2Ftodo%2F")
    assert (await ann.follow("/todo/")).status == 200
    assert b"<span>Ann</span>" in (await ann.page("/")).body
    (known,) = stage.plane.sign_ins.all()
    person = known.person
    assert (person.id, person.name, person.email, person.groups) == ("ann", "Ann", "ann@example.org", ("staff",))


async def test_it_is_asked_with_state_nonce_and_a_proof_of_possession(stage: Stage, elsewhere: Provider) -> None:
    there = urlsplit(place(await stage.visitor().page("/-/login")))
    asked = {name: values[0] for name, values in parse_qs(there.query).items()}
    assert f"{there.scheme}://{there.netloc}{there.path}" == f"{elsewhere.issuer}/authorize"
    assert asked["redirect_uri"] == f"http://localhost:{stage.server.port}/-/login/callback"
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert len(asked["state"]) >= 20
    assert len(asked["nonce"]) >= 20
    assert SECRET not in there.query


async def refused(person: Person, why: object) -> None:
    answer = await sign_in(person)
    assert answer.status == 403, why
    assert b"You are not signed in" in answer.body
    assert (await person.get("/clock/")).status == 404


async def test_a_token_that_says_something_wrong_signs_nobody_in(stage: Stage, elsewhere: Provider) -> None:
    for change in (
        {"exp": int(time.time()) - 3600},
        {"iat": int(time.time()) + 3600, "exp": int(time.time()) + 7200},
        {"nbf": int(time.time()) + 3600},
        {"iss": "http://127.0.0.1:1"},
        {"aud": "another client"},
        {"aud": "another client", "azp": CLIENT},
        {"aud": ["another client", "a third"]},
        {"aud": [CLIENT, "another client"], "azp": "another client"},
        {"nonce": "of another sign-in"},
        {"sub": ""},
        {"sub": 7},
        {"sub": "anon-somebody"},
    ):
        elsewhere.change = lambda claims, change=change: claims | change  # type: ignore[misc]
        await refused(stage.visitor(), change)


async def test_a_token_that_says_too_little_signs_nobody_in(stage: Stage, elsewhere: Provider) -> None:
    for claim in ("exp", "iat", "iss", "aud", "sub", "nonce"):
        elsewhere.change = lambda claims, claim=claim: {  # type: ignore[misc]
            name: value for name, value in claims.items() if name != claim
        }
        await refused(stage.visitor(), claim)


def by_another_key(claims: Claims, found: Provider) -> str:
    return found.signed(claims, new_key())


def by_the_secret(claims: Claims, found: Provider) -> str:
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))


def by_nobody(claims: Claims, found: Provider) -> str:
    parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


def then_changed(claims: Claims, found: Provider) -> str:
    head, _, signature = found.signed(claims).split(".")
    return ".".join([head, found.signed(claims | {"sub": "root", "groups": ["admin"]}).split(".")[1], signature])


async def test_a_forged_token_signs_nobody_in(stage: Stage, elsewhere: Provider) -> None:
    for forge in (by_another_key, by_the_secret, by_nobody, then_changed):
        elsewhere.sign = lambda claims, forge=forge: forge(claims, elsewhere)  # type: ignore[misc]
        await refused(stage.visitor(), forge)


async def test_clocks_may_differ_by_a_minute(stage: Stage, elsewhere: Provider) -> None:
    now = int(time.time())
    elsewhere.change = lambda claims: claims | {"iat": now + 60, "nbf": now + 60, "exp": now + 300}
    assert (await sign_in(stage.visitor())).status == 303
    elsewhere.change = lambda claims: claims | {"iat": now - 400, "exp": now - 60}
    assert (await sign_in(stage.visitor())).status == 303


async def test_keys_rotate_while_people_sign_in(stage: Stage, elsewhere: Provider) -> None:
    for _ in range(3):
        assert (await sign_in(stage.visitor())).status == 303
        elsewhere.rotate()
    assert elsewhere.asked.count("/keys") == 3
    assert elsewhere.asked.count("/.well-known/openid-configuration") == 1


async def test_an_answer_that_came_once_does_not_count_twice(stage: Stage) -> None:
    ann = stage.visitor()
    there = await ann.page("/-/login")
    before = ann.cookie
    back = await consent(place(there))
    assert (await ann.page(back)).status == 303
    again = await stage.visitor().page(back, Cookie=before)
    assert again.status == 400
    assert not any(b"htagweb=in-" in cookie for cookie in again.all(b"set-cookie"))


async def test_an_answer_that_one_worker_took_does_not_count_at_another(stage: Stage, elsewhere: Provider) -> None:
    ann = stage.visitor()
    there = await ann.page("/-/login")
    before = ann.cookie
    back = await consent(place(there))
    assert (await ann.page(back)).status == 303
    asked = elsewhere.asked.count("/token")
    _, server = await stage.worker()
    again = await stage.visitor(server=server).page(back, Cookie=before)
    assert again.status == 400
    assert elsewhere.asked.count("/token") == asked  # and the provider isn't asked


async def test_an_answer_counts_in_the_browser_that_asked_for_it(stage: Stage) -> None:
    attacker, victim = stage.visitor(), stage.visitor()
    back = await consent(place(await attacker.page("/-/login")))
    assert (await victim.page(back)).status == 400
    await victim.page("/-/login")  # is on his way there himself
    assert (await victim.page(back)).status == 403
    assert (await victim.page("/-/login/callback")).status == 400
    assert (await victim.page("/-/login/callback?state=x&code=y")).status == 403
    assert stage.plane.sign_ins.all() == ()


async def test_whoever_changes_his_mind_there_is_told_so(stage: Stage) -> None:
    ann = stage.visitor()
    state = parse_qs(urlsplit(place(await ann.page("/-/login"))).query)["state"][0]
    answer = await ann.page(f"/-/login/callback?error=access_denied&error_description=%3Cb%3E&state={state}")
    assert answer.status == 403
    assert b"<b>" not in answer.body


async def test_signing_out_leads_to_the_provider_which_is_told_who(stage: Stage, elsewhere: Provider) -> None:
    ann = stage.visitor()
    await sign_in(ann)
    assert (await ann.follow("/clock/")).status == 200
    page = await ann.form("/-/logout")
    assert page.status == 200
    assert not ann.cookie
    assert (await ann.get("/clock/")).status == 404
    body = page.body.decode()
    url = body.partition('content="0;url=')[2].partition('"')[0].replace("&amp;", "&")
    assert await consent(url) == "/?"
    (logout,) = elsewhere.logouts
    assert logout["post_logout_redirect_uri"] == f"http://localhost:{stage.server.port}/"
    assert logout["client_id"] == CLIENT
    assert logout["id_token_hint"].count(".") == 2


async def test_a_provider_that_is_down_stops_nothing_that_runs(stage: Stage, elsewhere: Provider) -> None:
    ann = stage.visitor()
    await sign_in(ann)
    assert (await ann.follow("/clock/")).status == 200
    bob = stage.visitor()
    there = place(await bob.page("/-/login"))
    back = await consent(there)
    elsewhere.down = True
    assert (await ann.get("/clock/")).status == 200
    answer = await bob.page(back)
    assert (answer.status, answer.header(b"retry-after")) == (503, b"10")
    assert b"What you have open goes on." in answer.body
    page = await ann.form("/-/logout")
    assert page.status == 200  # what it said of itself is still known
    elsewhere.down = False
    assert (await sign_in(bob)).status == 303


@pytest.mark.parametrize("broken", ["down", "another issuer", "nonsense"])
async def test_a_provider_that_can_not_be_used_is_said_to_be(
    closed_stage: Stage, elsewhere: Provider, broken: str
) -> None:
    issuer = elsewhere.issuer
    match broken:
        case "down":
            elsewhere.down = True
        case "another issuer":
            elsewhere.issuer = "https://evil.example"
        case _:
            elsewhere.describe = lambda described: []
    await closed_stage.open(auth="oidc", oidc_issuer=issuer, oidc_client_id=CLIENT, dev=True)
    answer = await closed_stage.visitor().page("/-/login")
    assert answer.status == 503
    assert b'href="/-/login?next=%2F"' in answer.body


async def test_without_an_address_of_its_own_it_names_the_key(closed_stage: Stage, elsewhere: Provider) -> None:
    await closed_stage.open(auth="oidc", oidc_issuer=elsewhere.issuer, oidc_client_id=CLIENT)
    answer = await closed_stage.visitor("a-name-on-the-lan").page("/-/login")
    assert answer.status == 500
    assert b"<code>public_url</code>" in answer.body


async def test_groups_may_come_from_the_userinfo_alone(stage: Stage, elsewhere: Provider) -> None:
    elsewhere.more = {"sub": "ann", "groups": ["staff"]}
    elsewhere.person = {"sub": "ann"}
    ann = stage.visitor()
    assert (await sign_in(ann)).status == 303
    assert (await ann.follow("/todo/")).status == 200
    elsewhere.more = {"sub": "somebody else", "groups": ["admin"]}
    await refused(stage.visitor(), "the userinfo is about another")


async def test_who_was_refused_at_coming_back_is_in_the_audit_log(stage: Stage, elsewhere: Provider) -> None:
    elsewhere.change = lambda claims: claims | {"aud": "another client"}
    await refused(stage.visitor(), "unconfirmed")
    elsewhere.change = lambda claims: claims | {"sub": "operator"}
    await refused(stage.visitor(), "operator")
    assert (await stage.visitor().page("/-/login/callback?state=made-up&code=x")).status == 400
    await stage.gateway.flush()
    entries = await stage.plane.audit.entries(event="sign-in-refused")
    assert sorted((entry["why"], entry.get("name", ""), entry["who"]) for entry in entries) == [
        ("name", "operator", ""), ("stale", "", ""), ("unconfirmed", "", ""),
    ]  # fmt: skip
