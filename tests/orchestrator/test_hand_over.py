"""An anonymous visitor signs in: what he had follows him, or is left behind."""

from __future__ import annotations

import pytest

from htagweb_orchestrator.accounts import Account
from htagweb_orchestrator.model import Ending, RouteChanged, RouteGone, SignedIn, State, UserId
from htagweb_orchestrator.settings import AppSettings
from tests.orchestrator.stage import CLOCK, HELLO, Plane, Stage, eventually

ANN, VISITOR, OTHER = UserId("ann"), UserId("anon-1"), UserId("anon-2")
PASSWORD = "correct horse"
PROFILE = {"id": "ann", "name": "Ann Oak", "email": "", "groups": ["staff"]}


async def opened(stage: Stage, **values: object) -> Plane:
    stage.apps["todo"] = AppSettings(access=("signed-in",))
    plane = await stage.open(auth="password", **values)
    password = await stage.passwords.hash(PASSWORD)
    await plane.accounts.add(Account(name="ann", hash=password, full_name="Ann Oak", groups=("staff",)))
    return plane


@pytest.mark.parametrize("warm", [0, 4])
async def test_an_app_is_told_who_uses_it_warm_or_cold(stage: Stage, warm: int) -> None:
    plane = await opened(stage, warm_max=warm, warm_min=1 if warm else 0)
    if warm:
        await eventually(lambda: any(each.state is State.WARM and each.link for each in plane.sandboxes()))
    await plane.visitors.sign_in("ann", PASSWORD)
    assert stage.harness(await plane.until_ready(ANN, HELLO)).profile == PROFILE
    assert stage.harness(await plane.until_ready(VISITOR, CLOCK)).profile is None


async def test_session_and_sandbox_follow_who_signs_in(stage: Stage) -> None:
    plane = await opened(stage)
    watch = await plane.gateway()
    route = await plane.until_ready(VISITOR, HELLO)
    stranger = await plane.until_ready(OTHER, HELLO)
    harness = stage.harness(route)
    assert await harness.change({"cart": [1]}) is None
    await plane.visitors.sign_in("ann", PASSWORD, visitor=VISITOR)
    found = await plane.find(ANN, HELLO)
    assert found is not None
    assert (found.sandbox, found.state) == (route.sandbox, State.READY)
    assert await plane.find(VISITOR, HELLO) is None
    assert await plane.belongings.session(ANN, HELLO) == {"cart": [1]}
    assert await plane.belongings.session(VISITOR, HELLO) == {}
    await eventually(lambda: harness.profile == PROFILE)
    assert await harness.change({"more": 1}) is None
    assert await plane.belongings.session(ANN, HELLO) == {"cart": [1], "more": 1}
    # Gateways close what the anonymous visitor, or whoever has his old cookie, has open, before it is the person's.
    told = [change for change in watch.seen if isinstance(change, SignedIn | RouteGone | RouteChanged)][-3:]
    assert isinstance(told[0], SignedIn)
    assert told[1] == RouteGone(user=VISITOR, app=HELLO)
    assert isinstance(told[2], RouteChanged)
    assert told[2].route.user == ANN
    assert (await plane.find(OTHER, HELLO)) is not None
    assert stage.harness(stranger).profile is None


async def test_what_follows_is_found_again_by_the_next_orchestrator(stage: Stage) -> None:
    plane = await opened(stage)
    route = await plane.until_ready(VISITOR, HELLO)
    await plane.visitors.sign_in("ann", PASSWORD, visitor=VISITOR)
    await stage.close_plane(plane)
    again = await stage.open(auth="password")
    found = await again.find(ANN, HELLO)
    assert found is not None
    assert found.sandbox == route.sandbox


async def test_what_the_person_has_of_his_own_stays(stage: Stage) -> None:
    plane = await opened(stage)
    await plane.visitors.sign_in("ann", PASSWORD)
    own = await plane.until_ready(ANN, HELLO)
    assert await stage.harness(own).change({"own": 1}) is None
    follows = await plane.until_ready(VISITOR, CLOCK)
    await plane.until_ready(VISITOR, HELLO)
    assert await stage.harness(follows).change({"cart": 1}) is None
    await plane.visitors.sign_in("ann", PASSWORD, visitor=VISITOR)
    assert await plane.belongings.session(ANN, HELLO) == {"own": 1}
    found = await plane.find(ANN, HELLO)
    assert found is not None
    assert found.sandbox == own.sandbox
    assert (await plane.until_ended(VISITOR, HELLO)).ending is Ending.VISITOR
    await eventually(lambda: stage.harness(follows).session == {"own": 1})  # the one that followed is the person's now


async def test_nothing_follows_where_it_is_to_be_left(stage: Stage) -> None:
    plane = await opened(stage, on_sign_in="leave")
    route = await plane.until_ready(VISITOR, HELLO)
    assert await stage.harness(route).change({"cart": 1}) is None
    await plane.visitors.sign_in("ann", PASSWORD, visitor=VISITOR)
    assert await plane.find(ANN, HELLO) is None
    assert await plane.belongings.session(ANN, HELLO) == {}
    assert (await plane.until_ready(VISITOR, HELLO)).sandbox == route.sandbox


async def test_a_person_is_nobodys_visitor(stage: Stage) -> None:
    """A gateway that names a person in place of an anonymous visitor moves nothing."""
    plane = await opened(stage)
    await plane.accounts.add(Account(name="bob", hash=await stage.passwords.hash(PASSWORD)))
    await plane.visitors.sign_in("ann", PASSWORD)
    await plane.until_ready(ANN, HELLO)
    await plane.visitors.sign_in("bob", PASSWORD, visitor=ANN)
    assert await plane.find(UserId("bob"), HELLO) is None


async def test_a_sandbox_can_not_store_who_its_user_is(stage: Stage) -> None:
    plane = await opened(stage)
    harness = stage.harness(await plane.until_ready(VISITOR, HELLO))
    for change in ({"htagweb.user": {"id": "ann"}}, {"htagweb.other": 1, "fine": 1}):
        error = await harness.change(change)
        assert error is not None
        assert "are the platform's" in error
    assert await plane.belongings.session(VISITOR, HELLO) == {}


def keeps(stage: Stage) -> None:
    """The app hello keeps a folder for each of its visitors."""
    stage.limit(HELLO, data_bytes=10 * 1024**2)


def kept(stage: Stage) -> set[tuple[str, str]]:
    return {(about.user, about.app) for about in stage.data.all().values()}


async def test_what_an_app_keeps_follows_with_the_sandbox_that_has_it(stage: Stage) -> None:
    keeps(stage)
    plane = await opened(stage)
    route = await plane.until_ready(VISITOR, HELLO)
    assert kept(stage) == {(VISITOR, HELLO)}
    await plane.visitors.sign_in("ann", PASSWORD, visitor=VISITOR)
    found = await plane.find(ANN, HELLO)
    assert found is not None
    assert found.sandbox == route.sandbox
    assert kept(stage) == {(ANN, HELLO)}


async def test_a_sandbox_with_a_visitors_folder_is_not_a_persons_who_has_one(stage: Stage) -> None:
    """What the person did there would be kept where he never sees it again."""
    keeps(stage)
    plane = await opened(stage)
    await plane.visitors.sign_in("ann", PASSWORD)
    await plane.until_ready(ANN, HELLO)
    await plane.release(ANN, HELLO, Ending.VISITOR)
    await plane.until_ready(VISITOR, HELLO)
    await plane.visitors.sign_in("ann", PASSWORD, visitor=VISITOR)
    assert (await plane.until_ended(VISITOR, HELLO)).ending is Ending.VISITOR
    assert kept(stage) == {(ANN, HELLO), (VISITOR, HELLO)}


async def test_what_can_not_be_handed_over_keeps_nobody_from_signing_in(stage: Stage) -> None:
    keeps(stage)
    plane = await opened(stage)
    await plane.until_ready(VISITOR, HELLO)
    with stage.broken_store():
        welcome = await plane.visitors.sign_in("ann", PASSWORD, visitor=VISITOR)
    assert welcome.sign_in.person.id == ANN
    assert kept(stage) == {(ANN, HELLO)}
