"""An app finds who uses it, in both generations; it can't change that, and it isn't stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.conftest import Boot
from tests.harness.driver import Harness
from tests.harness.page1 import Page

ANN = {"id": "ann", "name": "Ann Oak", "email": "ann@example.org", "groups": ["staff"]}

SHOWS1 = """
import htagweb
from htag import Tag

class App(Tag.div):
    def init(self):
        self += Tag.p(f"{htagweb.user()} / {self.session['htagweb.user']} / {self.session.get('htagweb.user')}")
"""

SHOWS2 = """
import htagweb
from htag import Tag

class App(Tag.App):
    def init(self):
        session = self.request.session
        self += Tag.p(f"{htagweb.user()} / {session['htagweb.user']} / {session.get('htagweb.user')}")
"""

SHOWS0 = """
import htagweb

async def app(scope, receive, send):
    if scope["type"] == "http":
        person = htagweb.user()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": f"{person} / {person} / {person}".encode()})
"""

CHANGES = """
import htagweb
from htag import Tag

class App(Tag.div):
    def init(self):
        for name in ("put", "drop", "update", "empty", "inside", "show"):
            self += Tag.button(name, _onclick=getattr(self.bind, name)())

    def put(self):
        try:
            self.session["htagweb.user"] = {"id": "eve"}
        except TypeError as error:
            print(error)

    def drop(self):
        try:
            del self.session["htagweb.user"]
        except TypeError as error:
            print(error)

    def update(self):
        self.session.update({"htagweb.user": {"id": "eve"}, "n": 1})

    def empty(self):
        self.session.clear()

    def inside(self):
        self.session["htagweb.user"]["groups"].append("admin")
        htagweb.user()["groups"].append("admin")

    def show(self):
        print("it is", self.session["htagweb.user"], htagweb.user())
"""


def escaped(value: object) -> str:
    return str(value).replace("'", "&#x27;")


@pytest.mark.parametrize(("generation", "source"), [(1, SHOWS1), (2, SHOWS2), (0, SHOWS0)])
@pytest.mark.parametrize("profile", [ANN, None])
async def test_an_app_knows_whom_it_serves(
    boot: Boot, generation: int, source: str, profile: dict[str, object] | None
) -> None:
    harness = await boot(generation)
    await harness.load(source, "app:App" if generation else "app:app")
    await harness.claim(profile=profile)
    page = (await harness.http.get("/", headers={"Accept": "text/html"})).text
    line = f"{profile} / {profile} / {profile}"
    assert line in page or escaped(line) in page


@pytest.mark.parametrize("profile", [ANN, ANN | {"name": ""}, None])
async def test_the_example_says_who_is_signed_in(boot: Boot, profile: dict[str, object] | None) -> None:
    harness = await boot(2)
    await harness.load((Path(__file__).parents[2] / "apps/session.py").read_text(), "app:App")
    await harness.claim(profile=profile)
    page = (await harness.http.get("/", headers={"Accept": "text/html"})).text
    if profile is None:
        assert "signed in" not in page
    else:
        assert f"You are signed in as {profile['name'] or 'ann'}." in page


@pytest.mark.parametrize("deed", ["put", "drop", "update", "empty", "inside"])
async def test_it_can_not_be_changed_and_is_not_stored(first: Harness, deed: str) -> None:
    await first.load(CHANGES)
    await first.claim(session={"kept": True}, profile=ANN)
    page = await Page.open(first)
    await page.click(deed)
    await page.click("show")
    await first.link.said(f"it is {ANN} {ANN}")
    sent = {key for frame in first.link.heard if frame["type"] == "session" for key in (*frame["set"], *frame["del"])}
    assert sent == {"update": {"n"}, "empty": {"kept"}}.get(deed, set())


async def test_an_anonymous_visitor_stays_one_whatever_the_app_says(first: Harness) -> None:
    await first.load(CHANGES)
    await first.claim()
    page = await Page.open(first)
    await page.click("update")
    await page.click("show")
    await first.link.said("it is None None")


async def test_a_visitor_who_signs_in_is_introduced_to_the_app_that_runs(first: Harness) -> None:
    await first.load(CHANGES)
    await first.claim()
    page = await Page.open(first)
    first.link.send({"type": "profile", "profile": ANN})
    first.link.send({"type": "session", "set": {"htagweb.user": {"id": "eve"}}, "del": []})
    await first.link.ping()
    await page.click("show")
    await first.link.said(f"it is {ANN} {ANN}")
