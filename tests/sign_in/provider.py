"""An OpenID provider on loopback: discovery, codes bound by PKCE, signed ID tokens, keys that rotate, sign-out.

It signs in `person` without asking. What it does wrong, a test tells it to.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.gateway.scripted import gateway

CLIENT, SECRET = "htagweb", "the client's secret"
Claims = dict[str, Any]


def new_key() -> ECKey:
    return ECKey.generate_key("P-256", {"kid": secrets.token_hex(4), "use": "sig", "alg": "ES256"})


class Provider:
    def __init__(self) -> None:
        self.issuer = ""
        self.person: Claims = {"sub": "ann", "name": "Ann", "email": "ann@example.org", "groups": ["staff"]}
        self.change: Callable[[Claims], Claims] = lambda claims: claims  # of the ID token, before it is signed
        self.sign: Callable[[Claims], str] = self.signed
        self.describe: Callable[[Claims], object] = lambda described: described
        self.more: Claims = {}  # what its userinfo says, if it has one
        self.down = False
        self.asked: list[str] = []  # paths
        self.logouts: list[dict[str, str]] = []
        self._key = new_key()
        self._codes: dict[str, dict[str, str]] = {}
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
                Route("/userinfo", self._userinfo),
                Route("/logout", self._logout),
            ]
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        if self.down:
            await PlainTextResponse("the provider is on holiday", 503)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def rotate(self) -> None:
        """From now on another key signs, and the old one isn't published any more."""
        self._key = new_key()

    def signed(self, claims: Claims, key: ECKey | None = None) -> str:
        key = key or self._key
        return jwt.encode({"alg": "ES256", "kid": self._key.kid}, claims, key)

    async def _discovery(self, request: Request) -> Response:
        described = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "end_session_endpoint": f"{self.issuer}/logout",
            "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
            "code_challenge_methods_supported": ["S256"],
            "userinfo_endpoint": f"{self.issuer}/userinfo",
        }
        return JSONResponse(self.describe(described))

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        if asked.get("client_id") != CLIENT or asked.get("code_challenge_method") != "S256":
            return PlainTextResponse("who are you?", 400)
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        answer = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{answer}", 303)

    async def _token(self, request: Request) -> Response:
        form = {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        asked = self._codes.pop(form.get("code", ""), None)
        verifier = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if request.headers.get("authorization") != f"Basic {basic}":
            return JSONResponse({"error": "invalid_client"}, 401)
        if asked is None or asked["code_challenge"] != verifier.decode().rstrip("="):
            return JSONResponse({"error": "invalid_grant"}, 400)
        if asked["redirect_uri"] != form.get("redirect_uri"):
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        token = self.sign(self.change(claims | self.person))
        return JSONResponse({"access_token": "opaque", "token_type": "Bearer", "expires_in": 300, "id_token": token})

    async def _keys(self, request: Request) -> Response:
        return JSONResponse(KeySet([self._key]).as_dict(private=False))

    async def _userinfo(self, request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer opaque":
            return PlainTextResponse("whose?", 401)
        return JSONResponse(self.more or self.person)

    async def _logout(self, request: Request) -> Response:
        asked = dict(request.query_params)
        self.logouts.append(asked)
        return RedirectResponse(asked["post_logout_redirect_uri"], 303)


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    found = Provider()
    async with gateway(found, HttpToolsProtocol) as server:  # type: ignore[arg-type]
        found.issuer = f"http://127.0.0.1:{server.port}"
        yield found
