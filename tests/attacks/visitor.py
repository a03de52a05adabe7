"""A visitor as a browser would behave, who can also be as rude as a program; and what he tells a console to do."""

from __future__ import annotations

import asyncio
import json
import secrets
import textwrap
from typing import Any, Protocol

import httpx

from htagweb_orchestrator.model import UserId
from tests.gateway.scripted import Response, Wire
from tests.harness.page1 import Page

PATIENCE_S = 30.0


class Server(Protocol):
    port: int

    async def connect(self) -> Wire: ...


class Visitor:
    """Knows no cookie at first. `host` is what he types as the server's name."""

    def __init__(self, server: Server, host: str = "") -> None:
        self.server = server
        self.host = host or f"localhost:{server.port}"
        self.cookies: dict[str, str] = {}

    @property
    def user(self) -> UserId:
        return UserId(self.cookies["htagweb"].rsplit(".", 2)[0])

    def head(self, method: str, target: str, headers: dict[str, str]) -> bytes:
        fields = {"Host": self.host, **headers}
        if self.cookies and "Cookie" not in headers:
            fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    async def send(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Wire:
        """One request on a connection of its own, which the caller reads and aborts."""
        fields = dict(headers or {})
        if body:
            fields["Content-Length"] = str(len(body))
        wire = await self.server.connect()
        await wire.send(self.head(method, target, fields) + body)
        return wire

    async def request(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        within_s: float = PATIENCE_S,
    ) -> Response:
        wire = await self.send(method, target, headers, body)
        try:
            response = await wire.response(within_s=within_s, head_only=method == "HEAD")
        finally:
            wire.abort()
        for cookie in response.all(b"set-cookie"):
            name, _, value = cookie.decode().partition(";")[0].partition("=")
            self.cookies[name] = value
        return response

    async def get(self, target: str, **headers: str) -> Response:
        """As a program asks: no page is wanted."""
        return await self.request("GET", target, {name.replace("_", "-"): value for name, value in headers.items()})

    async def enter(self, app: str = "console") -> None:
        """Get a cookie, and go no further."""
        await self.request("GET", f"/{app}/", {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"})
        assert self.cookies

    async def open(self, app: str, query: str = "") -> Response:
        """Open an app's page and wait for it, as a browser does; the last answer."""
        target = f"/{app}/{query}"
        async with asyncio.timeout(PATIENCE_S):
            while True:
                response = await self.request("GET", target, {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"})
                if response.status in (303, 307, 308):
                    target = (response.header(b"location") or b"").decode()
                elif response.status == 503 and response.header(b"retry-after") and await self._comes(app):
                    target = f"/{app}/{query}"
                else:
                    return response

    async def take_over(self, app: str = "console") -> None:
        """Get a sandbox, in which the console runs."""
        page = await self.open(app)
        assert page.body == b"console", page.body.decode()

    async def _comes(self, app: str) -> bool:
        """Wait while the app starts; False if nothing is on its way."""
        while (state := (await self.status(app))["state"]) == "starting":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return bool(state == "ready" or state == "ended")

    async def status(self, app: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((await self.get(f"/-/status?app={app}")).body)
        return answer

    async def post(self, target: str, body: bytes = b"", **headers: str) -> Response:
        fields = {"Origin": f"http://{self.host}", **{name.replace("_", "-"): text for name, text in headers.items()}}
        return await self.request("POST", target, fields, body)

    async def run(self, code: str, *, app: str = "console") -> Any:
        """Have his own console run this code; what it left in `answer`."""
        response = await self.post(f"/{app}/run", textwrap.dedent(code).encode())
        assert response.status == 200, response.body.decode()
        return json.loads(response.body)


class Browser:
    """A visitor of one app of htag 1, as far as Page needs one."""

    def __init__(self, port: int, app: str) -> None:
        origin = f"http://localhost:{port}"
        headers = {"Accept": "text/html", "Origin": origin}
        self.http = httpx.AsyncClient(base_url=f"{origin}/{app}", headers=headers, follow_redirects=True, timeout=30)

    @property
    def user(self) -> UserId:
        return UserId(self.http.cookies["htagweb"].rsplit(".", 2)[0])

    async def page(self, who: str) -> Page:
        async with asyncio.timeout(30):
            while "INSTANCE" not in (await self.http.get(f"/?{who}")).text:  # noqa: ASYNC110  the waiting page
                await asyncio.sleep(0.2)
        return await Page.open(self, f"?{who}", f"page-{secrets.token_hex(8)}")  # type: ignore[arg-type]
