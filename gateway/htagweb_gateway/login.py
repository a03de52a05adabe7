"""Signing in and out: /-/login, /-/login/callback and /-/logout."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from htagweb_orchestrator.api import SessionVerbs
from htagweb_orchestrator.errors import OrchestratorError, SignInLimited, SignInRefused
from htagweb_orchestrator.model import Oidc, Person, Refusal, Refused, Welcome, sign_in_id

from .edge import Edge
from .forms import FormRefused, read_form
from .front import is_localhost, raw_path
from .identity import HINT, NAMES, OPERATOR, PROVIDER, find_cookie, set_cookie
from .oidc_errors import ProviderFailed, SignInFailed
from .problems import local, login_url, problem

if TYPE_CHECKING:
    from .app import Gateway
    from .oidc import Provider

log = logging.getLogger(__name__)

PATHS = ("/-/login", "/-/login/callback", "/-/logout")
AWAY_S = 600  # how long somebody may take at the provider
HINT_BYTES = 3500  # of an ID token that fits into a cookie
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Login:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._provider: tuple[Oidc, Provider] | None = None

    async def answer(self, request: Request, edge: Edge, path: str) -> Response:
        pages, visitors = self._gateway.pages, self._gateway.visitors
        if visitors is None:
            return pages.not_found(path)
        if not self._gateway.routes.filled:
            return pages.almost()
        match path, request.method:
            case "/-/login", "GET" | "HEAD":
                return await self._offer(request, edge)
            case "/-/logout", "GET" | "HEAD":
                visitor = self._gateway.identify(dict(request.scope), edge)
                if visitor is None or visitor.sign_in is None or visitor.sign_in.method == "header":
                    return RedirectResponse("/", 303, headers=_NO_STORE)
                return pages.logout(visitor.sign_in.person)
            case "/-/login/callback", "GET":
                return await self._returned(request, edge, visitors)
            case "/-/login" | "/-/logout", "POST":
                if (foreign := self._gateway.foreign(dict(request.scope), edge)) is not None:
                    return pages.forbidden(foreign.message, "public_url")
                try:
                    form = await read_form(request)
                except FormRefused as refused:
                    return refused.answer
                return await (self._sign_in if path == "/-/login" else self._sign_out)(request, edge, form, visitors)
        return problem(405, "method", f"{request.method} is not possible here.")

    # -- in ------------------------------------------------------------------------------------------------------

    async def _offer(self, request: Request, edge: Edge) -> Response:
        gateway = self._gateway
        target = local(request.query_params.get("next", "/"))
        token = request.query_params.get("token")
        if token:  # opened by a click and not by this request: whatever previews links would use it up
            return gateway.pages.link(token, target)
        visitor = gateway.identify(dict(request.scope), edge)
        if visitor is not None and visitor.sign_in is not None:
            return RedirectResponse(target, 303, headers=_NO_STORE)
        match gateway.routes.platform.auth:
            case "password":
                return gateway.pages.login(target, insecure=_in_the_clear(edge))
            case "oidc":
                return await self._send_away(request, edge, target)
            case "header":  # the proxy signs in whoever it lets through to here
                return RedirectResponse(target, 303, headers=_NO_STORE)
        return gateway.pages.not_found("/-/login")

    async def _sign_in(self, request: Request, edge: Edge, form: dict[str, str], visitors: SessionVerbs) -> Response:
        target, name = local(form.get("next", "/")), form.get("name", "")
        asking = self._asking(request, edge)
        try:
            if token := form.get("token"):
                welcome = await visitors.redeem(token, **asking)
            else:
                welcome = await visitors.sign_in(name, form.get("password", ""), **asking)
        except SignInLimited as error:
            retry_s = error.facts.get("retry_after_s", "60")
            return self._gateway.pages.login(
                target, name=name, error=str(error), status=429, retry_s=retry_s, insecure=_in_the_clear(edge)
            )
        except SignInRefused as error:
            if form.get("token"):
                return self._gateway.pages.sign_in_failed(str(error), target="/", status=403)
            return self._gateway.pages.login(
                target, name=name, error=str(error), status=403, insecure=_in_the_clear(edge)
            )
        except OrchestratorError as error:
            return self._gateway.pages.refused(error, target=login_url(target))
        return self._welcomed(request, edge, welcome, target)

    async def admit(self, request: Request, edge: Edge, person: Person) -> Response:
        """Sign in somebody whom a trusted proxy names, and let him open again what he was about to."""
        pages, visitors = self._gateway.pages, self._gateway.visitors
        query = request.scope["query_string"].decode("latin-1")
        target = local(raw_path(dict(request.scope)).decode("latin-1") + (f"?{query}" if query else ""))
        if visitors is None:
            return pages.not_found(target)
        try:
            welcome = await visitors.admit(person, "header", **self._asking(request, edge))
        except SignInRefused as error:
            return pages.sign_in_failed(str(error), target=target, status=403)
        except OrchestratorError as error:
            return pages.refused(error, target=target)
        return self._welcomed(request, edge, welcome, target)

    def _asking(self, request: Request, edge: Edge) -> dict[str, Any]:
        """Who asks to be signed in, for the orchestrator: what he is now is dead afterwards."""
        headers = request.scope["headers"]
        visitor = self._gateway.identity.visitor(headers, edge.scheme)
        anonymous = visitor.user if visitor is not None and visitor.sign_in is None else None
        secret = self._gateway.identity.secret(headers, edge.scheme)
        return {"client": edge.own_client, "sid": secret, "visitor": anonymous}

    def _welcomed(self, request: Request, edge: Edge, welcome: Welcome, target: str) -> Response:
        """A new cookie, and on. By way of /-/enter, which waits where another worker hasn't heard of him yet."""
        gateway = self._gateway
        before = gateway.identity.visitor(request.scope["headers"], edge.scheme)
        if before is not None and before.sign_in is None:
            gateway.identity.sign_ins.became_a_person(before.user)
        gateway.identity.sign_ins.learn(welcome.sign_in)
        answer = RedirectResponse(f"/-/enter?next={quote(target, safe='')}", 303, headers=_NO_STORE)
        life_s = int(welcome.sign_in.left_s)
        cookies = [gateway.identity.issue_to(edge.scheme, welcome.sid, life_s=life_s)]
        operator_s = life_s if welcome.operator_token else 0
        cookies.append(set_cookie(OPERATOR, edge.scheme, welcome.operator_token, life_s=operator_s, same_site="Strict"))
        for cookie in cookies:
            answer.headers.append("Set-Cookie", cookie)
        return answer

    # -- by way of a provider ------------------------------------------------------------------------------------

    async def _provider_now(self) -> Provider:
        settings = self._gateway.routes.platform.oidc
        if self._provider is None or self._provider[0] != settings:
            self._provider = settings, await asyncio.to_thread(_provider, settings)
        return self._provider[1]

    async def _send_away(self, request: Request, edge: Edge, target: str) -> Response:
        callback = self._address(edge, "/-/login/callback")
        if not callback:
            text = "Signing in leads to another server and back, so this one must know its own address."
            return self._gateway.pages.forbidden(text, "public_url", status=500)
        memory: dict[str, Any] = {}
        try:
            place = await (await self._provider_now()).begin(request, callback, memory)
        except ProviderFailed as error:
            return self._provider_failed(error, target)
        answer = RedirectResponse(place, 303, headers=_NO_STORE)
        sealed = self._gateway.identity.seal("provider", {"memory": memory, "next": target})
        answer.headers.append("Set-Cookie", set_cookie(PROVIDER, edge.scheme, sealed, life_s=AWAY_S))
        return answer

    async def _returned(self, request: Request, edge: Edge, visitors: SessionVerbs) -> Response:
        """Back from the provider. The cookie proves that this browser is the one that was sent there."""
        gateway = self._gateway
        cookie = find_cookie(request.scope["headers"], PROVIDER[edge.scheme])
        found = gateway.identity.unseal("provider", cookie, max_age_s=AWAY_S)
        state = request.query_params.get("state", "")
        if gateway.routes.platform.auth != "oidc" or found is None or not state:
            return self._stale(edge)
        target = local(str(found["next"]))
        try:
            if not await visitors.spend(f"state {state}", AWAY_S):
                return self._stale(edge)
            known = await (await self._provider_now()).finish(request, found["memory"])
            welcome = await visitors.admit(known.person, "oidc", **self._asking(request, edge))
        except ProviderFailed as error:
            return self._provider_failed(error, target)
        except SignInFailed as error:
            log.warning("sign-in failed: %s", error)
            gateway.refusals.add(Refusal(why=Refused.UNCONFIRMED, client=edge.own_client))
            text = "The other server did not confirm who you are."
            return gateway.pages.sign_in_failed(text, target=login_url(target), status=403)
        except SignInRefused as error:
            return gateway.pages.sign_in_failed(str(error), target=login_url(target), status=403)
        except OrchestratorError as error:
            return gateway.pages.refused(error, target=login_url(target))
        answer = self._welcomed(request, edge, welcome, target)
        answer.headers.append("Set-Cookie", set_cookie(PROVIDER, edge.scheme, "", life_s=0))
        if len(known.id_token) <= HINT_BYTES:
            life_s = int(welcome.sign_in.left_s)
            hint = set_cookie(HINT, edge.scheme, known.id_token, life_s=life_s, same_site="Strict", path="/-/logout")
            answer.headers.append("Set-Cookie", hint)
        return answer

    def _stale(self, edge: Edge) -> Response:
        self._gateway.refusals.add(Refusal(why=Refused.STALE, client=edge.own_client))
        again = "This sign-in is over, or was begun in another browser. Begin anew."
        return self._gateway.pages.sign_in_failed(again, target="/-/login", status=400)

    def _provider_failed(self, error: Exception, target: str) -> Response:
        log.warning(
            "the sign-in's provider failed: %s", error, extra={"issuer": self._gateway.routes.platform.oidc.issuer}
        )
        text = "The server that knows who you are does not answer as it should. What you have open goes on."
        return self._gateway.pages.sign_in_failed(text, target=login_url(target), status=503)

    def _address(self, edge: Edge, path: str) -> str:
        """Our own, for a link that leads here from elsewhere. A Host is believed in development only: then it is
        localhost."""
        platform = self._gateway.routes.platform
        if platform.public_url:
            return platform.public_url + path
        return f"{edge.scheme}://{edge.host.decode('latin-1')}{path}" if platform.dev else ""

    # -- out -----------------------------------------------------------------------------------------------------

    async def _sign_out(self, request: Request, edge: Edge, form: dict[str, str], visitors: SessionVerbs) -> Response:
        gateway, headers = self._gateway, request.scope["headers"]
        visitor = gateway.identity.visitor(headers, edge.scheme)
        secret = gateway.identity.secret(headers, edge.scheme)
        answer: Response = RedirectResponse("/", 303, headers=_NO_STORE)
        if secret:
            try:
                await visitors.sign_out(secret, everywhere="everywhere" in form)
            except OrchestratorError:
                # Here it ends in any case. Whoever copied the cookie could still use it: the text is about that.
                answer = gateway.pages.signed_out(told=False)
            gateway.identity.sign_ins.end((sign_in_id(secret),))
        if visitor is not None and visitor.sign_in is not None and visitor.sign_in.method == "oidc":
            answer = await self._sign_out_there(headers, edge) or answer
        for names, path in ((NAMES, "/"), (OPERATOR, "/"), (PROVIDER, "/"), (HINT, "/-/logout")):
            answer.headers.append("Set-Cookie", set_cookie(names, edge.scheme, "", life_s=0, path=path))
        return answer

    async def _sign_out_there(self, headers: Any, edge: Edge) -> Response | None:
        """A page that leads on to the provider. A redirect would be one of a form, which our policy keeps here."""
        hint = find_cookie(headers, HINT[edge.scheme])
        try:
            place = await (await self._provider_now()).logout_url(hint, self._address(edge, "/"))
        except ProviderFailed as error:
            log.warning("signed out here, and not at the provider: %s", error)
            return self._gateway.pages.signed_out(told=True, elsewhere="?")
        return self._gateway.pages.signed_out(told=True, elsewhere=place) if place else None


def _in_the_clear(edge: Edge) -> bool:
    """Whether a password would cross a network unencrypted. (A proxy that isn't trusted to say so may encrypt it.)"""
    return edge.scheme == "http" and not edge.proxied and not is_localhost(edge.host)


def _provider(settings: Oidc) -> Provider:
    """In a thread, and only where it is needed: authlib and the machine's certificates take a while to load."""
    from .oidc import Provider

    return Provider(settings)
