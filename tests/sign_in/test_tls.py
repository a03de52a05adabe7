"""https in front of the gateway: the Caddyfile that compose uses, under a real Caddy with a CA of its own on loopback;
and proxies that nobody declared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from htagweb_orchestrator.model import Person, UserId
from htagweb_orchestrator.settings import Settings
from tests.orchestrator.stage import eventually
from tests.sign_in.stage import PAGE, PASSWORD, Stage, free_port

ROOT = Path(__file__).parents[2]
CLAIM = {"Remote-User": "root", "Remote-Groups": "admin", "Remote-Name": "Root", "Remote-Email": "root@example.org"}
# An operator's own site in front of the gateway, and what it asks who somebody is.
ASKING_WHO = """
https://localhost:{port} {{
	forward_auth 127.0.0.1:{knows} {{
		uri /
		copy_headers Remote-User Remote-Groups
	}}
	import gateway
}}
http://:{knows} {{
	bind 127.0.0.1
	header Remote-User ann
	header Remote-Groups staff
	respond 200
}}
"""


class Caddy:
    def __init__(self, folder: Path, gateway: int) -> None:
        self.folder = folder
        self.gateway = gateway
        self.port, self.plain_port = free_port(), free_port()
        self.url = f"https://localhost:{self.port}"
        asking_who = free_port()
        self.asking_who_url = f"https://localhost:{asking_who}"
        (folder / "who.caddy").write_text(ASKING_WHO.format(port=asking_who, knows=free_port()))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "GATEWAY": f"127.0.0.1:{self.gateway}",
            "HTTP_PORT": str(self.plain_port),
            "HTTPS_PORT": str(self.port),
            "MORE": str(self.folder),
        }
        command = ["caddy", "run", "--config", str(ROOT / "gateway/tls/Caddyfile"), "--adapter", "caddyfile"]
        quiet = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, env=environment, stderr=quiet)
        try:
            await eventually(lambda: self.root.exists() and self._listens(), within_s=30)
            yield
        finally:
            process.kill()
            await process.wait()

    @property
    def root(self) -> Path:
        return self.folder / "data/caddy/pki/authorities/local/root.crt"

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.root))

    def browser(self, url: str = "") -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url or self.url, verify=self.trusting(), trust_env=False, headers=PAGE)


@pytest.fixture
async def caddy(closed_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caddy]:
    """In front of a gateway that isn't open yet, whose port it knows already."""
    if shutil.which("caddy") is None:
        pytest.skip("no caddy here")
    closed_stage.port = free_port()
    caddy = Caddy(tmp_path_factory.mktemp("caddy"), closed_stage.port)
    async with caddy.running():
        yield caddy


async def sign_in(browser: httpx.AsyncClient, name: str = "ann") -> httpx.Response:
    return await browser.post(
        "/-/login",
        data={"name": name, "password": PASSWORD, "next": "/clock/"},
        headers={"Origin": str(browser.base_url).rstrip("/")},
    )


async def test_behind_caddy_people_sign_in_and_their_cookie_is_for_https_alone(
    closed_stage: Stage, caddy: Caddy
) -> None:
    await closed_stage.open(public_url=caddy.url, trusted_proxies=("127.0.0.1",))
    async with caddy.browser() as ann:
        answer = await sign_in(ann)
        assert answer.status_code == 303
        assert {"__Host-htagweb"} == {cookie.name for cookie in ann.cookies.jar if cookie.value}
        page = await ann.get("/clock/", follow_redirects=True)
        assert page.status_code == 200
        told = page.json()["headers"]
        assert told["x-forwarded-proto"] == "https"
        assert told["x-forwarded-for"] == "127.0.0.1"
        assert page.headers["strict-transport-security"] == "max-age=31536000"
        cookie = f"__Host-htagweb={ann.cookies['__Host-htagweb']}"
        async with connect(
            f"wss://localhost:{caddy.port}/clock/ws",
            ssl=caddy.trusting(),
            origin=caddy.url,  # type: ignore[arg-type]
            additional_headers={"Cookie": cookie},
            proxy=None,
        ) as talk:
            await talk.send("hello")
            assert await talk.recv() == "hello"
        async with ann.stream("GET", "/clock/events", headers={"Accept": "text/event-stream"}) as events:
            async with asyncio.timeout(15):  # not held back
                assert await anext(events.aiter_lines()) == "data: first"
    async with httpx.AsyncClient(trust_env=False) as plain:
        moved = await plain.get(f"http://localhost:{caddy.plain_port}/clock/")
        assert moved.status_code in (301, 302, 307, 308)
        assert moved.headers["location"].startswith("https://localhost")


async def test_behind_a_proxy_that_nobody_declared_people_sign_in_too(closed_stage: Stage, caddy: Caddy) -> None:
    await closed_stage.open()
    async with caddy.browser() as ann:
        assert (await sign_in(ann)).status_code == 303
        assert (await ann.get("/clock/", follow_redirects=True)).status_code == 200
        forged = await ann.get("/clock/x", headers={"X-Forwarded-For": "192.0.2.66"})
        assert "192.0.2.66" not in forged.json()["headers"].values()


@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
async def test_a_visitor_cannot_say_through_caddy_who_he_is(
    closed_stage: Stage, caddy: Caddy, spell: Callable[[str], str]
) -> None:
    await closed_stage.open(auth="header", public_url=caddy.url, trusted_proxies=("127.0.0.1",))
    claim = {spell(name): value for name, value in CLAIM.items()}
    async with caddy.browser() as eve:
        for path in ("/-/admin", "/clock/", "/"):
            answer = await eve.get(path, headers=claim, follow_redirects=True)
            assert answer.status_code == (200 if path == "/" else 404), path
    assert closed_stage.plane.sign_ins.all() == ()


async def test_who_somebody_is_is_what_the_operators_forward_auth_says(closed_stage: Stage, caddy: Caddy) -> None:
    url = caddy.asking_who_url
    await closed_stage.open(auth="header", public_url=url, trusted_proxies=("127.0.0.1",))
    async with caddy.browser(url) as ann:
        assert (await ann.get("/-/admin", headers=CLAIM, follow_redirects=True)).status_code == 404
        assert (await ann.get("/todo/", headers=CLAIM, follow_redirects=True)).status_code == 200
    (sign_in,) = closed_stage.plane.sign_ins.all()
    assert sign_in.person == Person(id=UserId("ann"), groups=("staff",))


async def test_behind_a_proxy_that_rewrites_the_host_the_key_is_named(stage: Stage) -> None:
    ann = stage.visitor("gateway:8000")  # what such a proxy makes of it; the page's address stays what it is
    answer = await ann.request(
        "POST",
        "/-/login",
        {
            "Origin": "https://apps.example.org",
            "Accept": "text/html",
            "Content-Type": "application/x-www-form-urlencoded",
        },
        f"name=ann&password={PASSWORD}".encode(),
    )
    assert answer.status == 403
    assert b"set public_url or trusted_proxies" in answer.body


async def test_on_a_name_of_the_lan_people_sign_in_and_are_warned(stage: Stage) -> None:
    ann = stage.visitor("apps-server:8000")
    page = await ann.page("/-/login")
    assert b"This connection is not encrypted" in page.body
    assert (await ann.sign_in(next="/clock/")).status == 303
    assert (await ann.follow("/clock/")).status == 200
    assert b"not encrypted" not in (await stage.visitor().page("/-/login")).body  # localhost


@pytest.mark.parametrize("domain", ["", "apps.example.org"])
def test_one_name_sets_all_that_the_profile_needs(domain: str) -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command here")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HTAGWEB_", "COMPOSE_"))}
    said = subprocess.run(
        ["docker", "compose", "--env-file", os.devnull, "--profile", "tls", "config", "--format", "json"],
        cwd=ROOT,
        env={**environment, "HTAGWEB_DOMAIN": domain},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    services = json.loads(said.stdout)["services"]
    passed = services["orchestrator"]["environment"]
    assert passed["HTAGWEB_PUBLIC_URL"] == (f"https://{domain}" if domain else "")
    assert passed["HTAGWEB_TRUSTED_PROXIES"] == ("172.16.0.0/12 192.168.0.0/16" if domain else "")
    assert services["tls"]["environment"]["DOMAIN"] == (domain or "localhost")
    values = {name: value for name, value in passed.items() if value and name.startswith("HTAGWEB_")}
    settings = Settings.load({**values, "HTAGWEB_CONFIG": str(ROOT / "htagweb.toml")})
    assert settings.dev is not bool(domain)
    assert "warn" not in said.stderr.lower(), said.stderr
