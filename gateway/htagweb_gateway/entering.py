"""How a visitor gets his cookie, and brings it back, before anything is started for him: /-/enter.

With `apps_domain` an app's own host sends him to the portal, which knows who he is, and gets him back with a code.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from htagweb_orchestrator.errors import OrchestratorError
from htagweb_orchestrator.model import AppName

from .app_hosts import AppHosts, Codes
from .edge import Edge
from .identity import ENTRY, Visitor, find_cookie, set_cookie
from .navigation import navigation
from .problems import local, problem

if TYPE_CHECKING:
    from .app import Gateway

ENTRY_S = 120  # how long an app's own host waits for its visitor to come back from the portal
HEARSAY_S = 1.0  # how long after a sign-in another worker may take to hear of it
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Entrance:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._codes = Codes(gateway.identity)

    def enter(self, edge: Edge, target: str) -> Response:
        """Give a visitor without a cookie one, and have him bring it back before anything is started for him."""
        if edge.app:
            return self._ask_portal(edge, target)
        answer = RedirectResponse(f"/-/enter?next={quote(target, safe='')}", 303, headers=_NO_STORE)
        answer.headers.append("Set-Cookie", self._gateway.identity.issue(edge.scheme))
        return answer

    async def returned(self, request: Request, edge: Edge) -> Response:
        asked = request.query_params
        target = local(asked.get("next", "/"))
        if edge.app and "renew" in asked:
            return self._ask_portal(edge, target)
        if edge.app and "code" in asked:
            return await self._redeem(request, edge, asked["code"], target)
        if "app" in asked and self._gateway.edges.app_hosts is not None:
            return self._send_back(request, edge, self._gateway.edges.app_hosts, target)
        if self._visitor(request, edge) is None:
            if not await self._heard_of(request, edge):
                return self._gateway.pages.enter(target)
        return RedirectResponse(target, 303, headers=_NO_STORE)

    def _ask_portal(self, edge: Edge, target: str) -> Response:
        """An app's own host has its visitor ask the portal who he is."""
        hosts = self._gateway.edges.app_hosts
        assert hosts is not None
        secret = Codes.secret()
        place = hosts.portal_url(edge.app, Codes.state(secret), target)
        answer = RedirectResponse(place, 303, headers=_NO_STORE)
        answer.headers.append("Set-Cookie", set_cookie(ENTRY, edge.scheme, secret, life_s=ENTRY_S))
        return answer

    def _send_back(self, request: Request, edge: Edge, hosts: AppHosts, target: str) -> Response:
        """The portal knows who he is, and tells the app's own host by a code, if he may open that app."""
        gateway, asked = self._gateway, request.query_params
        name, state = AppName(asked["app"]), asked.get("state", "")
        visitor = self._visitor(request, edge)
        if not navigation(request.scope):
            return problem(403, "navigation", "Only a person opening a page gets there.")
        if gateway.card(name, visitor) is None:
            return gateway.unknown(name, visitor, f"/{name}{target}", True, edge)
        if visitor is None:
            return self.enter(edge, f"/-/enter?{request.scope['query_string'].decode('latin-1')}")
        code = self._codes.issue(name, state, visitor)
        place = hosts.url(name, f"/-/enter?{urlencode({'code': code, 'next': target}, quote_via=quote)}")
        return RedirectResponse(place, 303, headers=_NO_STORE)

    async def _redeem(self, request: Request, edge: Edge, code: str, target: str) -> Response:
        """Back at the app's own host: a cookie for it, and on to an address without a code."""
        gateway = self._gateway
        secret = find_cookie(request.scope["headers"], ENTRY[edge.scheme])
        assert gateway.visitors is not None  # apps have hosts of their own only where there is a portal
        try:
            cookie = await self._codes.redeem(code, edge.app, secret, edge.scheme, gateway.visitors)
        except OrchestratorError as error:
            return gateway.pages.refused(error, target=target)
        if cookie is None and self._visitor(request, edge) is not None:  # another of his tabs was faster
            return RedirectResponse(target, 303, headers=_NO_STORE)
        if cookie is None:
            text = "This way in was good once, for half a minute, in the browser that asked for it."
            return gateway.pages.sign_in_failed(text, target=target, status=403)
        answer = RedirectResponse(f"/-/enter?next={quote(target, safe='')}", 303, headers=_NO_STORE)
        answer.headers.append("Set-Cookie", cookie)
        answer.headers.append("Set-Cookie", set_cookie(ENTRY, edge.scheme, "", life_s=0))
        return answer

    async def _heard_of(self, request: Request, edge: Edge) -> bool:
        """Whether this is the cookie of a sign-in that another worker has just made: the watch tells of it now."""
        secret = self._gateway.identity.secret(request.scope["headers"], edge.scheme)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARSAY_S if secret else 0):
                while self._visitor(request, edge) is None:  # noqa: ASYNC110  the watch belongs to others
                    await asyncio.sleep(0.02)
                return True
        return False

    def _visitor(self, request: Request, edge: Edge) -> Visitor | None:
        return self._gateway.identify(dict(request.scope), edge)
