"""`auth = "header"`: a trusted proxy says who is asking, and nobody else can."""

from __future__ import annotations

import json

import pytest
from websockets.exceptions import InvalidStatus

from tests.sign_in.stage import Person, Stage

ANN = {"Remote-User": "ann", "Remote-Name": "Ann Oak", "Remote-Email": "ann@example.org", "Remote-Groups": "staff, x"}
BOB = {"Remote-User": "bob"}


@pytest.fixture
async def stage(closed_stage: Stage) -> Stage:
    await closed_stage.open(auth="header", trusted_proxies=("127.0.0.1",))
    return closed_stage


class Proxied(Person):
    """A visitor behind a proxy that adds these fields to whatever he sends."""

    said: dict[str, str] = {}  # noqa: RUF012

    def head(self, method: str, target: str, headers: dict[str, str]) -> bytes:
        return super().head(method, target, {**headers, **self.said})


def proxied(stage: Stage, **said: str) -> Proxied:
    person = Proxied(stage.server)
    person.said = said
    return person


async def test_whom_the_proxy_names_is_signed_in_when_he_opens_a_page(stage: Stage) -> None:
    ann = proxied(stage, **ANN)
    assert (await ann.get("/todo/")).status == 404  # a program's request signs nobody in
    assert (await ann.follow("/todo/")).status == 200
    page = await ann.page("/")
    assert b"<span>Ann Oak</span>" in page.body
    assert b"/-/logout" not in page.body  # that is the proxy's to do
    (known,) = stage.plane.sign_ins.all()
    assert (known.person.id, known.person.groups, known.method) == ("ann", ("staff", "x"), "header")


async def test_the_fields_reach_no_app(stage: Stage) -> None:
    ann = proxied(stage, **ANN)
    await ann.follow("/clock/")
    answer = await ann.request("GET", "/clock/x", {"remote_user": "root", "Remote_Groups": "admin"})
    assert answer.status == 200
    assert not [name for name in json.loads(answer.body)["headers"] if name.startswith("remote")]


async def test_who_is_no_trusted_proxy_names_nobody(closed_stage: Stage) -> None:
    await closed_stage.open(auth="header", trusted_proxies=("192.0.2.7",))
    ann = proxied(closed_stage, **ANN)
    assert (await ann.follow("/todo/")).status == 404
    assert (await ann.follow("/hello/")).status == 200
    assert closed_stage.plane.sign_ins.all() == ()


async def test_a_cookie_counts_only_with_the_name_that_it_was_made_for(stage: Stage) -> None:
    ann = proxied(stage, **ANN)
    await ann.follow("/clock/")
    bob = proxied(stage, **BOB)
    bob.cookies = dict(ann.cookies)
    assert (await bob.get("/clock/")).status == 404
    with pytest.raises(InvalidStatus):
        await bob.socket("/clock/ws", **BOB)
    assert (await bob.follow("/clock/")).status == 200  # as himself
    assert {sandbox.lease.user for sandbox in stage.plane.sandboxes()} == {"ann", "bob"}
    nobody = proxied(stage)
    nobody.cookies = dict(ann.cookies)
    assert (await nobody.get("/clock/")).status == 404


async def test_an_operator_is_one_as_long_as_the_proxy_says_so(stage: Stage) -> None:
    root = proxied(stage, **{"Remote-User": "root", "Remote-Groups": "admin"})
    assert (await root.follow("/-/admin")).status == 200
    nobody: dict[str, str] = {}
    for said in (nobody, {"Remote-User": "root", "Remote-Groups": "staff"}, BOB):
        other = proxied(stage, **said)
        other.cookies = dict(root.cookies)
        assert (await other.form("/-/admin", sign_out="root")).status == 404
        assert "root" in {each.person.id for each in stage.plane.sign_ins.all()}
        assert (await other.follow("/-/admin")).status == 404
        bearer = {"Authorization": f"Bearer {root.cookies['htagweb-operator']}"}
        assert (await other.request("GET", "/-/api/v1/sandboxes", bearer)).status == 401
        root = proxied(stage, **{"Remote-User": "root", "Remote-Groups": "admin"})
        assert (await root.follow("/-/admin")).status == 200


async def test_a_name_that_comes_twice_is_none(stage: Stage) -> None:
    ann = proxied(stage, **ANN)
    assert (await ann.request("GET", "/todo/", {"Accept": "text/html", "remote-user": "root"})).status == 404


async def test_other_groups_make_another_sign_in(stage: Stage) -> None:
    ann = proxied(stage, **ANN)
    assert (await ann.follow("/todo/")).status == 200
    ann.said = ANN | {"Remote-Groups": ""}
    assert (await ann.follow("/todo/")).status == 404
    assert (await ann.follow("/clock/")).status == 200
