"""Sign-in at an OpenID provider. authlib speaks the protocol; here is what of its answers counts, and for whom.

Imported by gateways that need it only: authlib and what it brings take a while.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx2
from authlib.integrations.starlette_client import OAuthError, StarletteIntegration, StarletteOAuth2App
from joserfc.errors import JoseError
from starlette.requests import Request

from htagweb_orchestrator.model import Oidc, Person, UserId

from .oidc_errors import ProviderFailed, SignInFailed

PATIENCE_S = 10.0  # for each answer of the provider
SKEW_S = 120  # that its clock and ours may differ by
FRESH_S = 3600.0  # how long its description is good for
# "none" signs nothing, and what the client's secret signs, everybody who knows it could have made.
SIGNATURES = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")

Memory = dict[str, Any]
"""What a browser brings back from the provider unseen: state, nonce, the verifier of PKCE. JSON."""


class Known(NamedTuple):
    person: Person
    id_token: str


class Provider:
    def __init__(self, settings: Oidc) -> None:
        self._settings = settings
        # authlib makes a client for each of its steps, and reading the machine's certificates takes a while.
        self._trusted = httpx2.create_ssl_context()
        self._app = self._new_app()

    def _new_app(self) -> StarletteOAuth2App:
        settings = self._settings
        return StarletteOAuth2App(
            StarletteIntegration("htagweb"),
            name="htagweb",
            client_id=settings.client_id,
            client_secret=settings.client_secret or None,
            server_metadata_url=f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": settings.scopes,
                "code_challenge_method": "S256",
                "timeout": PATIENCE_S,
                "verify": self._trusted,
                **({} if settings.client_secret else {"token_endpoint_auth_method": "none"}),
            },
        )

    async def begin(self, request: Request, callback: str, memory: Memory) -> str:
        """Where the browser signs in. Fills `memory`, which it must bring to `callback`. Raises ProviderFailed."""
        await self._described()
        answer = await self._app.authorize_redirect(_remembering(request, memory), callback)
        return str(answer.headers["location"])

    async def finish(self, request: Request, memory: Memory) -> Known:
        """Who came back from there. Takes out of `memory` what was used. Raises ProviderFailed or SignInFailed."""
        settings = self._settings
        described = await self._described()
        try:
            token = await self._app.authorize_access_token(
                _remembering(request, memory),
                claims_options={
                    "iss": {"essential": True, "value": described["issuer"]},
                    "aud": {"essential": True, "value": settings.client_id},
                },
                leeway=SKEW_S,
            )
            claims: dict[str, Any] = dict(token.get("userinfo") or {})
            if claims and settings.groups_claim not in claims and described.get("userinfo_endpoint"):
                claims = await self._asked_more(token, claims)
        except httpx2.HTTPError as error:
            raise ProviderFailed(f"it did not answer: {error!r}") from error
        except (OAuthError, JoseError) as error:
            raise SignInFailed(f"what came back does not hold: {error!r}") from error
        except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise ProviderFailed(f"its answer makes no sense: {error!r}") from error
        return Known(self._person(claims), str(token.get("id_token", "")))

    async def _asked_more(self, token: Mapping[str, Any], claims: dict[str, Any]) -> dict[str, Any]:
        """Some providers keep names and groups out of the ID token."""
        more = dict(await self._app.userinfo(token=token))
        if more.get("sub") != claims.get("sub"):
            raise SignInFailed("the provider's userinfo is about somebody else")
        return more | claims

    def _person(self, claims: Mapping[str, Any]) -> Person:
        settings = self._settings
        ident = claims.get(settings.user_claim)
        if not isinstance(ident, str) or not ident:
            raise SignInFailed(f"the ID token has no {settings.user_claim!r}")
        if settings.user_claim == "email" and claims.get("email_verified") is False:
            raise SignInFailed("the provider did not verify this address, and oidc_user_claim is email")
        groups = claims.get(settings.groups_claim, ())
        groups = (groups,) if isinstance(groups, str) else groups if isinstance(groups, (list, tuple)) else ()
        return Person(
            id=UserId(ident),
            name=_text(claims.get("name")) or _text(claims.get("preferred_username")),
            email=_text(claims.get("email")),
            groups=tuple(dict.fromkeys(group for group in groups if isinstance(group, str))),
        )

    async def logout_url(self, id_token: str, back: str) -> str | None:
        """Where the browser signs out of the provider too; None for one that has no such place. Raises ProviderFailed.

        (OpenID Connect RP-Initiated Logout 1.0.) The ID token says who, so that the provider need not ask.
        """
        described = await self._described()
        if not described.get("end_session_endpoint"):
            return None
        asked = await self._app.create_logout_url(
            post_logout_redirect_uri=back, id_token_hint=id_token or None, client_id=self._settings.client_id
        )
        return str(asked["url"])

    async def _described(self) -> dict[str, Any]:
        """The provider's discovery document."""
        if time.time() - self._app.server_metadata.get("_loaded_at", 0.0) > FRESH_S:
            app = self._new_app()
            try:
                found = await app.load_server_metadata()
                if str(found["issuer"]).rstrip("/") != self._settings.issuer.rstrip("/"):
                    raise ProviderFailed(f"it calls itself {found['issuer']!r}, which is not oidc_issuer")
            except httpx2.HTTPError as error:
                raise ProviderFailed(f"it did not answer: {error!r}") from error
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ProviderFailed(f"its description makes no sense: {error!r}") from error
            offered = found.get("id_token_signing_alg_values_supported") or ["RS256"]
            found["id_token_signing_alg_values_supported"] = [name for name in SIGNATURES if name in offered]
            self._app = app
        described: dict[str, Any] = self._app.server_metadata
        return described


def _remembering(request: Request, memory: Memory) -> Request:
    """The request as authlib wants it: with a session."""
    return Request({**request.scope, "session": memory}, request.receive)


def _text(claim: object) -> str:
    return claim if isinstance(claim, str) and claim.isprintable() else ""
