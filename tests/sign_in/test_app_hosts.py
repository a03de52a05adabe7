"""`apps_domain`: an app at a host of its own, which learns from the portal who its visitor is."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.exceptions import InvalidStatus

from htagweb_gateway import app_hosts
from htagweb_gateway.sign_ins import SIGNED_OUT
from tests.gateway.scripted import Response as Answer
from tests.sign_in.stage import PAGE, Person, Stage, place
from tests.sign_in.test_password import _all_closed

PORTAL, HELLO, CLOCK, TODO = "portal.test", "hello.apps.test", "clock.apps.test", "todo.apps.test"


class Wanderer(Person):
    """A visitor with a browser's cookie jars: one for each host."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.server, PORTAL)
        self.jars: dict[str, dict[str, str]] = {}
        self.way: list[str] = []

    def at(self, host: str) -> Wanderer:
        self.jars[self.host] = self.cookies
        self.host, self.cookies = host, self.jars.setdefault(host, {})
        return self

    async def step(self, url: str) -> Answer:
        """One navigation, to an address or to a path of the present host."""
        parts = urlsplit(url)
        if parts.netloc:
            self.at(parts.netloc)
        self.way.append(f"{self.host}{parts.path}")
        return await self.page(parts.path + (f"?{parts.query}" if parts.query else ""))

    async def go(self, url: str) -> Answer:
        for _ in range(12):
            answer = await self.step(url)
            if answer.status not in (303, 307, 308):
                return answer
            url = place(answer)
        raise AssertionError(f"round and round: {self.way}")

    async def until(self, url: str, part: str) -> str:
        """Follow until it leads to an address with this part, and say which that is."""
        for _ in range(12):
            answer = await self.step(url)
            url = place(answer)
            if part in url:
                return url
        raise AssertionError(f"never came there: {self.way}")


@pytest.fixture
async def stage(closed_stage: Stage) -> Stage:
    await closed_stage.open(public_url=f"http://{PORTAL}", apps_domain="apps.test")
    return closed_stage


async def test_an_anonymous_visitor_is_one_and_the_same_at_every_host(stage: Stage) -> None:
    anybody = Wanderer(stage)
    page = await anybody.go(f"http://{HELLO}/deep?x=1")
    told = json.loads(page.body)
    assert told["path"] == "/deep"
    assert "x-forwarded-prefix" not in told["headers"]
    assert anybody.way[0] == anybody.way[-1] == f"{HELLO}/deep"
    assert len(anybody.way) <= 8
    (sandbox,) = stage.plane.sandboxes()
    assert sandbox.lease.user == anybody.at(PORTAL).user
    assert (await anybody.go(f"http://{PORTAL}/hello/")).status == 200
    assert len(stage.plane.sandboxes()) == 1


async def test_a_person_is_himself_there_and_his_cookie_of_one_host_is_nobodys_at_another(stage: Stage) -> None:
    ann = Wanderer(stage)
    await ann.sign_in()
    for host in (CLOCK, TODO):
        assert (await ann.go(f"http://{host}/")).status == 200
    cookies = {host: jar["htagweb"] for host, jar in ann.jars.items()}
    assert len(set(cookies.values())) == 3
    for host, other in ((CLOCK, TODO), (TODO, CLOCK), (CLOCK, PORTAL), (PORTAL, CLOCK)):
        stranger = Wanderer(stage).at(host)
        stranger.cookies["htagweb"] = cookies[other]
        if host == PORTAL:
            assert b"Ann" not in (await stranger.page("/")).body
        else:
            assert (await stranger.get("/")).status == 404, (host, other)


async def test_signing_out_at_the_portal_closes_what_is_open_at_the_apps(stage: Stage) -> None:
    ann = Wanderer(stage)
    await ann.sign_in()
    await ann.go(f"http://{CLOCK}/")
    socket = await ann.socket("/ws")
    await socket.send("hello")
    assert await socket.recv() == "hello"
    stream = await ann.send("GET", "/events", {"Accept": "text/event-stream"})
    await stream.reader.readuntil(b"first")
    await ann.at(PORTAL).form("/-/logout")
    await _all_closed(socket, stream)
    assert SIGNED_OUT == 4401
    assert (await ann.at(CLOCK).get("/")).status == 404
    assert place(await ann.step("/-/login?next=/x")) == f"http://{PORTAL}/-/login?next=%2Fclock%2Fx"


async def test_a_private_app_and_none_at_all_look_alike(stage: Stage) -> None:
    bob = Wanderer(stage)
    await bob.sign_in("bob")
    for who in (Wanderer(stage), bob):
        seen = []
        for app in ("todo", "zzzz"):
            page = await who.go(f"http://{app}.apps.test/deep")
            program = await who.at(f"{app}.apps.test").get("/deep")
            with pytest.raises(InvalidStatus) as refused:
                await who.socket("/ws")
            seen.append(
                [
                    (page.status, page.body.replace(app.encode(), b"?")),
                    (program.status, refused.value.response.status_code),
                ]
            )
        assert seen[0] == seen[1]
        assert seen[0][1] == (404, 404)
    assert stage.plane.sandboxes() == []


async def test_at_the_portal_no_app_is_served(stage: Stage) -> None:
    ann = Wanderer(stage)
    await ann.sign_in()
    await ann.go(f"http://{CLOCK}/")
    ann.at(PORTAL)
    for method in ("GET", "POST", "PUT"):
        answer = await ann.request(method, "/clock/x", {"Origin": f"http://{PORTAL}"})
        assert (answer.status, answer.header(b"x-htagweb")) == (421, b"host")
    with pytest.raises(InvalidStatus) as refused:
        await ann.socket("/clock/ws")
    assert refused.value.response.status_code == 421


async def test_at_an_apps_host_nothing_of_the_platforms_is_served(stage: Stage) -> None:
    root = Wanderer(stage)
    await root.sign_in("root")
    await root.go(f"http://{CLOCK}/")
    await root.go(f"http://{HELLO}/")
    token, (program, _) = root.jars[PORTAL]["htagweb-operator"], await stage.plane.tokens.create("it", life_s=None)
    root.at(CLOCK)
    for path in ("/-/admin", "/-/api/v1/sandboxes", "/-/logout", "/-/login/callback"):
        assert (await root.page(path)).status == 404
        for secret in (token, program):
            assert (await root.request("GET", path, {"Authorization": f"Bearer {secret}"})).status == 404
    assert (await root.form("/-/login", name="root", password="x")).status == 404
    assert (await root.form("/-/stop", app="hello")).status == 404
    await root.form("/-/stay", app="hello")
    assert json.loads((await root.get("/-/status?app=hello")).body)["state"] == "none"
    assert (await root.page("/-/start?app=hello")).status == 404
    assert len(stage.plane.sandboxes()) == 2
    assert json.loads((await root.get("/-/status?app=clock")).body)["state"] == "ready"
    assert (await root.form("/-/stop", app="clock")).status == 303
    assert len(stage.plane.sandboxes()) == 1


async def test_56_one_apps_page_can_not_act_in_another_or_at_the_portal(stage: Stage) -> None:
    root = Wanderer(stage)
    await root.sign_in("root")
    await root.go(f"http://{CLOCK}/")
    for host, path in (
        (PORTAL, "/-/logout"),
        (PORTAL, "/-/admin"),
        (PORTAL, "/-/stop"),
        (CLOCK, "/x"),
        (CLOCK, "/-/stop"),
    ):
        root.at(host)
        for headers in ({"Origin": f"http://{HELLO}"}, {"Origin": f"http://{HELLO}", "Sec-Fetch-Site": "same-site"}):
            assert (await root.request("POST", path, headers, b"app=clock")).status == 403
    with pytest.raises(InvalidStatus) as refused:
        await root.socket("/ws", Origin=f"http://{HELLO}")
    assert refused.value.response.status_code == 403


async def code_for(person: Wanderer, host: str) -> str:
    return await person.until(f"http://{host}/", "code=")


async def test_55_a_code_is_good_once_and_only_where_it_belongs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, thief = Wanderer(stage), Wanderer(stage)
    await ann.sign_in()
    url = await code_for(ann, CLOCK)
    code = parse_qs(urlsplit(url).query)["code"][0]
    entry = dict(ann.at(CLOCK).cookies)

    async def refused(person: Wanderer, target: str) -> None:
        answer = await person.step(target)
        assert answer.status == 403
        assert not any(cookie.startswith(b"htagweb=") for cookie in answer.all(b"set-cookie"))

    await refused(thief, url)  # another browser
    await thief.step(f"http://{CLOCK}/")  # which was on its way there itself
    await refused(thief, url)
    await refused(ann, url.replace(CLOCK, TODO))  # another host
    thief.at(TODO).cookies = dict(entry)
    await refused(thief, url.replace(CLOCK, TODO))  # whatever cookies it has
    for bad in (code[:-1], code + "x", "", "a.b.c"):
        await refused(ann, f"http://{CLOCK}/-/enter?code={bad}")
    assert (await ann.step(url)).status == 303
    ann.cookies = entry
    await refused(ann, url)  # a second time
    late = await code_for(ann, TODO)
    monkeypatch.setattr(app_hosts, "CODE_S", -1)
    await refused(ann, late)


async def test_55_a_code_that_one_worker_took_is_no_good_at_another(stage: Stage) -> None:
    ann = Wanderer(stage)
    await ann.sign_in()
    url = await code_for(ann, CLOCK)
    entry = dict(ann.at(CLOCK).cookies)
    assert (await ann.step(url)).status == 303
    _, server = await stage.worker()
    again = stage.visitor(CLOCK, server)
    again.cookies = entry
    answer = await again.page(url.partition(CLOCK)[2])
    assert answer.status == 403
    assert not any(cookie.startswith(b"htagweb=") for cookie in answer.all(b"set-cookie"))


async def test_without_an_orchestrator_no_code_is_good(stage: Stage) -> None:
    ann = Wanderer(stage)
    await ann.sign_in()
    url = await code_for(ann, CLOCK)
    await stage.orchestrator_goes()
    assert (await ann.step(url)).status == 503
    await stage.orchestrator_comes()
    assert (await ann.step(url)).status == 303


async def test_two_tabs_that_open_at_once_both_get_there(stage: Stage) -> None:
    ann = Wanderer(stage)
    await ann.sign_in()
    first, second = await code_for(ann, CLOCK), await code_for(ann, CLOCK)
    assert (await ann.go(second)).status == 200
    assert (await ann.go(first)).status == 200


async def test_55_a_code_of_a_sign_in_that_is_over_opens_nothing(stage: Stage) -> None:
    ann = Wanderer(stage)
    await ann.sign_in()
    url = await code_for(ann, CLOCK)
    await ann.at(PORTAL).form("/-/logout")
    assert (await ann.step(url)).status == 403


async def test_52_next_leads_nowhere_else(stage: Stage) -> None:
    ann = Wanderer(stage)
    await ann.sign_in()
    for target in ("//evil", "/%5cevil", "https:evil", "%09//evil", "@evil", "javascript:alert(1)"):
        page = await ann.go(f"http://{CLOCK}/-/enter?renew=1&next={target}")
        assert page.status == 200
        assert ann.host == CLOCK
    assert all(urlsplit(f"//{each}").netloc in (PORTAL, CLOCK) for each in ann.way)


async def test_other_names_are_refused(stage: Stage) -> None:
    for host in (
        "evil.test",
        "apps.test",
        "x.hello.apps.test",
        "hello_.apps.test",
        "hello.apps.test:8443",
    ):
        anybody = Wanderer(stage).at(host)
        assert (await anybody.page("/")).status == 421, host


async def test_after_signing_in_he_is_where_he_wanted_to_go(stage: Stage) -> None:
    ann = Wanderer(stage)
    page = await ann.go(f"http://{TODO}/deep?x=1")
    assert b'href="/-/login?next=%2Ftodo%2Fdeep%3Fx%3D1"' in page.body
    answer = await ann.sign_in(next="/todo/deep?x=1")
    policy = (page.header(b"content-security-policy") or b"").decode()
    assert "form-action 'self' http://*.apps.test;" in policy  # else the browser would not follow the form there
    page = await ann.go(place(answer))
    assert (page.status, json.loads(page.body)["path"], ann.host) == (200, "/deep", TODO)


async def test_57_an_apps_page_is_framed_by_itself_and_whom_the_operator_names(closed_stage: Stage) -> None:
    await closed_stage.open(
        public_url=f"http://{PORTAL}", apps_domain="apps.test", frame_ancestors=("https://intranet.example",)
    )
    ann = Wanderer(closed_stage)
    await ann.sign_in()
    for who, path in ((ann, "/"), (Wanderer(closed_stage), "/-/login")):
        policy = (await who.page(path)).header(b"content-security-policy") or b""
        assert b"frame-ancestors 'none'" in policy
    await ann.go(f"http://{CLOCK}/")
    page = await ann.request("GET", "/", PAGE | {"Sec-Fetch-Site": "none"})
    assert page.all(b"content-security-policy") == [b"frame-ancestors 'self' https://intranet.example"]


async def test_who_signs_in_at_the_portal_is_himself_at_an_app_that_he_had_open_before(stage: Stage) -> None:
    ann = Wanderer(stage)
    await ann.go(f"http://{HELLO}/")
    (before,) = stage.plane.sandboxes()
    await ann.at(PORTAL).sign_in()
    assert (await ann.go(f"http://{HELLO}/")).status == 200
    (after,) = stage.plane.sandboxes()
    assert (after.id, after.lease.user) == (before.id, "ann")


async def test_whom_a_proxy_names_is_named_at_every_host(closed_stage: Stage) -> None:
    await closed_stage.open(
        public_url=f"http://{PORTAL}", apps_domain="apps.test", auth="header", trusted_proxies=("127.0.0.1",)
    )
    ann = Proxied(closed_stage)
    assert (await ann.go(f"http://{CLOCK}/x")).status == 200
    assert (await ann.go(f"http://{HELLO}/")).status == 200
    assert {sandbox.lease.user for sandbox in closed_stage.plane.sandboxes()} == {"ann"}


class Proxied(Wanderer):
    """Behind a proxy that says who he is."""

    def head(self, method: str, target: str, headers: dict[str, str]) -> bytes:
        return super().head(method, target, {**headers, "Remote-User": "ann"})


async def test_a_portal_below_the_apps_domain_is_no_apps_host(closed_stage: Stage) -> None:
    await closed_stage.open(public_url="http://www.apps.test", apps_domain="apps.test")
    visitor = Wanderer(closed_stage)
    catalogue = await visitor.go("http://www.apps.test/")
    assert (catalogue.status, visitor.way[-1]) == (200, "www.apps.test/")
    assert b"<h1>Apps</h1>" in catalogue.body


async def test_a_code_for_a_state_that_nobody_could_have_made_is_refused(stage: Stage) -> None:
    anybody = Wanderer(stage)
    url = await anybody.until(f"http://{PORTAL}/-/enter?app=hello&state=%C3%A9&next=%2F", "code=")
    await anybody.step(f"http://{HELLO}/-/enter?renew=1")
    assert (await anybody.step(url)).status == 403
