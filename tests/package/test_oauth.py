"""The original's example of signing in by OAuth: routes of a program, which use authlib by themselves, and its app have
one session. The provider is a real server on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from htagweb.server import WebServer
from tests.sign_in.provider import CLIENT, SECRET, Provider, provider

from .conftest import Write
from .tab import User

EXAMPLE = """
from authlib.integrations.starlette_client import OAuth
from htag import Tag
from htagweb import WebServer
from starlette.responses import RedirectResponse

oauth = OAuth()
oauth.register(
    name="provider",
    server_metadata_url="{issuer}/.well-known/openid-configuration",
    client_id="{client}",
    client_secret="{secret}",
    client_kwargs={{"scope": "openid email profile", "code_challenge_method": "S256"}},
)


async def oauth_action(request):
    match request.path_params["action"]:
        case "login":
            return await oauth.provider.authorize_redirect(request, request.url_for("oauth", action="auth"))
        case "auth":
            token = await oauth.provider.authorize_access_token(request)
            request.session["User"] = dict(token["userinfo"])
        case "logout":
            request.session.pop("User", None)
    return RedirectResponse("/")


class App(Tag.div):
    def init(self):
        self.said = Tag.p()
        self += self.said
        self += Tag.button("look", _onclick=self.bind.look())
        self.look()

    def look(self):
        user = self.session.get("User")
        self.said.set(f"signed in as {{user['name']}}" if user else "nobody")


app = WebServer(App)
app.add_route("/oauth_{{action}}", oauth_action, name="oauth")
"""


@pytest.fixture
def elsewhere() -> Iterator[Provider]:
    """In a thread: the program's own loop is the test client's."""
    begun, over, found = threading.Event(), asyncio.Event(), []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with provider() as running:
            found.append(running)
            begun.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert begun.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(over.set)
    thread.join(10)
    loop.close()


def test_whoever_signed_in_by_a_route_is_known_to_the_app(
    write: Write, user: Callable[[WebServer], User], elsewhere: Provider
) -> None:
    file = write("oauth_example.py", EXAMPLE.format(issuer=elsewhere.issuer, client=CLIENT, secret=SECRET))
    assert Path(file).exists()
    ann = user(import_module("oauth_example").app)
    tab = ann.open("/")
    assert "nobody" in tab.text
    there = ann.get("/oauth_login", follow_redirects=False)
    assert there.headers["location"].startswith(f"{elsewhere.issuer}/authorize?")
    back = urlsplit(httpx.get(there.headers["location"], trust_env=False).headers["location"])
    answer = ann.get(f"{back.path}?{back.query}", follow_redirects=False)
    assert answer.status_code in (302, 307), answer.text
    assert "signed in as Ann" in str(tab.click("look"))
    ann.get("/oauth_logout", follow_redirects=False)
    assert "nobody" in str(tab.click("look"))
