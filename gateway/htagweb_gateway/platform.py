"""Everything of the platform's own: the catalogue at /, and what lies under /-/."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from htagweb_orchestrator.errors import OrchestratorError
from htagweb_orchestrator.model import AppName, Ending, Person, Route, State

from . import admin, front
from .admin import OperatorSite
from .edge import Edge
from .endings import ending_words, line_words
from .forms import FormRefused, read_form
from .icons import ICONS, Icons
from .identity import DAY_S, Visitor
from .login import PATHS as LOGIN_PATHS
from .login import Login
from .navigation import navigation
from .problems import local, login_url, problem

if TYPE_CHECKING:
    from .app import Gateway

START_PATIENCE_S = 0.8
MAX_QUERY = 100  # characters that somebody looks for
HEARSAY_S = 1.0  # how long after a sign-in another worker may take to hear of it
ADMIN = "admin"  # the group of the operators
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class PlatformSite:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._login = Login(gateway)
        self._operators = OperatorSite(gateway)
        self._icons = Icons(gateway)

    async def __call__(self, scope: Any, receive: Any, send: Any, edge: Edge) -> None:
        request = Request(scope, receive)
        answer = await self._answer(request, edge)
        if request.method == "HEAD":
            answer.body = b""
        await answer(scope, receive, send)

    async def admit(self, scope: Any, edge: Edge, person: Person) -> Response:
        """Sign in somebody whom a trusted proxy names."""
        return await self._login.admit(Request(scope), edge, person)

    async def _answer(self, request: Request, edge: Edge) -> Response:
        pages = self._gateway.pages
        path = front.raw_path(dict(request.scope)).decode("latin-1")
        method = request.method
        if path in LOGIN_PATHS:
            return await self._login.answer(request, edge, path)
        if path == admin.PAGE or path.startswith(admin.API):
            return await self._operators.answer(request, edge, path)
        if method in ("GET", "HEAD"):
            match path:
                case "/":
                    return await self._catalogue(request, edge)
                case "/-/healthz":
                    return JSONResponse({"healthy": True}, headers=_NO_STORE)
                case "/-/readyz":
                    ready = self._gateway.routes.filled and self._gateway.watching
                    return JSONResponse({"ready": ready}, 200 if ready else 503, headers=_NO_STORE)
                case "/-/status":
                    return await self._status(request, edge)
                case "/-/enter":
                    return await self._entered(request, edge)
                case "/-/start" if method == "GET":
                    return await self._start(request, edge)
            if path.startswith(ICONS):
                return await self._icons.answer(
                    request, AppName(path.removeprefix(ICONS)), self._visitor(request, edge)
                )
            if path.startswith("/-/") or path == "/favicon.ico":
                name = "icon.svg" if path == "/favicon.ico" else path.removeprefix("/-/")
                asset = pages.asset(name, request.headers.get("if-none-match", ""))
                if asset is not None:
                    return asset
        elif method == "POST" and path in ("/-/stop", "/-/stay"):
            return await (self._stop if path == "/-/stop" else self._stay)(request, edge)
        elif path in ("/", "/-/stop", "/-/stay", "/-/start", "/-/status", "/-/enter"):
            return problem(405, "method", f"{method} is not possible here.")
        if navigation(request.scope):
            return pages.not_found(path)
        return problem(404, "not-found", "There is nothing here.")

    # -- pages ---------------------------------------------------------------------------------------------------

    async def _catalogue(self, request: Request, edge: Edge) -> Response:
        gateway = self._gateway
        home = gateway.routes.platform.home
        if home:
            query = request.scope["query_string"].decode("latin-1")
            return RedirectResponse(f"/{home}/" + (f"?{query}" if query else ""), 307, headers=_NO_STORE)
        if not gateway.routes.filled:
            return gateway.pages.almost()
        visitor = self._visitor(request, edge)
        mine: dict[AppName, Route] = {}
        if visitor is not None:
            known = gateway.routes.of_user(visitor.user)
            fresh = await asyncio.gather(*(self._fresh(visitor, name, route) for name, route in known.items()))
            mine = {name: route or known[name] for name, route in zip(known, fresh, strict=True)}
        cards = sorted(gateway.routes.apps.values(), key=lambda card: card.title.lower())
        entries = [(card, mine.get(card.name)) for card in cards if gateway.card(card.name, visitor) is not None]
        platform = msgspec.structs.replace(gateway.routes.platform, dev=gateway.dev(edge))
        sign_in = visitor.sign_in if visitor is not None else None
        page = gateway.pages.catalogue(
            entries,
            platform=platform,
            query=request.query_params.get("q", "")[:MAX_QUERY].strip(),
            person=sign_in.person if sign_in is not None else None,
            sign_in=login_url("/") if sign_in is None and gateway.offers_sign_in else "",
            sign_out=sign_in is not None and sign_in.method != "header",  # that one is the proxy's to end
            operator=sign_in is not None and ADMIN in sign_in.person.groups,
        )
        if visitor is not None and sign_in is None and visitor.age_s > DAY_S:  # who comes back keeps being known
            page.headers.append("Set-Cookie", gateway.identity.issue(edge.scheme, visitor.user))
        return page

    def enter(self, edge: Edge, target: str) -> Response:
        """Give a visitor without a cookie one, and have him bring it back before anything is started for him."""
        answer = RedirectResponse(f"/-/enter?next={quote(target, safe='')}", 303, headers=_NO_STORE)
        answer.headers.append("Set-Cookie", self._gateway.identity.issue(edge.scheme))
        return answer

    async def _entered(self, request: Request, edge: Edge) -> Response:
        target = local(request.query_params.get("next", "/"))
        if self._visitor(request, edge) is None:
            if not await self._heard_of(request, edge):
                return self._gateway.pages.enter(target)
        return RedirectResponse(target, 303, headers=_NO_STORE)

    async def _heard_of(self, request: Request, edge: Edge) -> bool:
        """Whether this is the cookie of a sign-in that another worker has just made: the watch tells of it now."""
        secret = self._gateway.identity.secret(request.scope["headers"], edge.scheme)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARSAY_S if secret else 0):
                while self._visitor(request, edge) is None:  # noqa: ASYNC110  the watch belongs to others
                    await asyncio.sleep(0.02)
                return True
        return False

    async def _start(self, request: Request, edge: Edge) -> Response:
        """The one button of an ending's page: a person wants the app again."""
        gateway = self._gateway
        name = AppName(request.query_params.get("app", ""))
        target = _of_app(request.query_params.get("next", ""), name)
        visitor = self._visitor(request, edge)
        card = gateway.card(name, visitor)
        if card is None:
            return gateway.unknown(name, visitor, target, True)
        if visitor is None:
            return self.enter(edge, target)
        if not navigation(request.scope):
            return problem(403, "navigation", "Only a person opening a page starts an app.")
        query = target.partition("?")[2]
        try:
            route = await gateway.orchestrator.lease(
                visitor.user, name, query=query, wait_s=START_PATIENCE_S, client=edge.own_client
            )
        except OrchestratorError as error:
            return gateway.refusal(error, card, target, True)
        gateway.routes.learn(route)
        return RedirectResponse(target, 303, headers=_NO_STORE)

    # -- what pages ask and post ---------------------------------------------------------------------------------

    async def _status(self, request: Request, edge: Edge) -> Response:
        """What the page shim and the waiting page go by. Not activity, and starts nothing."""
        if not self._gateway.routes.complete:  # "none" would be a lie to a page whose app runs
            return problem(503, "starting", "The server is starting. Try again in a moment.")
        name = AppName(request.query_params.get("app", ""))
        visitor = self._visitor(request, edge)
        route = None
        if visitor is not None and self._gateway.card(name, visitor) is not None:
            route = await self._fresh(visitor, name, self._gateway.routes.get(visitor.user, name))
        words = ending_words(route)
        ended = route is None or route.state is State.ENDED
        facts = {
            "app": name,
            "state": route.state if route else "none",
            "sandbox": route.sandbox[:12] if route else "",
            "step": route.step if route else "",
            "line": line_words(route),
            "elapsed_s": round(route.started_ago_s, 1) if route else 0.0,
            "expected_s": route.expected_s if route else None,
            "left_s": round(max(0.0, route.left_s), 1) if route and route.left_s is not None else None,
            "left_why": route.left_why if route else None,
            "outdated": route is not None and route.outdated,
            "warn_s": min(120.0, route.idle_timeout_s / 4) if route else 120.0,
            "ending": route.ending if route else None,
            "title": words.title if ended else "",
            "text": words.text if ended else "",
            "action": words.action if ended else "",
            "error_id": route.error_id if route else "",
            "signed_in": visitor is not None and visitor.sign_in is not None,
        }
        return JSONResponse(facts, headers=_NO_STORE)

    async def _fresh(self, visitor: Visitor, name: AppName, known: Route | None) -> Route | None:
        """The orchestrator's word on a route, whose clocks are its own; what we know where it is away."""
        if known is None:
            return None
        if known.state is State.ENDED or not self._gateway.watching:
            return known
        try:
            return await self._gateway.orchestrator.find(visitor.user, name)
        except OrchestratorError:
            return known

    async def _stop(self, request: Request, edge: Edge) -> Response:
        form, visitor, refusal = await self._posted(request, edge)
        if visitor is None:
            return refusal
        name = AppName(form.get("app", ""))
        try:
            await self._gateway.orchestrator.release(visitor.user, name, Ending.VISITOR)
        except OrchestratorError as error:
            return self._gateway.pages.refused(error, target="/")
        return RedirectResponse(local(form.get("next", "/")), 303, headers=_NO_STORE)

    async def _stay(self, request: Request, edge: Edge) -> Response:
        form, visitor, refusal = await self._posted(request, edge)
        if visitor is None:
            return refusal
        route = self._gateway.routes.get(visitor.user, AppName(form.get("app", "")))
        if route is not None and route.state is State.READY:
            self._gateway.activity.meter(route.sandbox).touch()
            await self._gateway.flush()
        return Response(status_code=204, headers=_NO_STORE)

    async def _posted(self, request: Request, edge: Edge) -> tuple[dict[str, str], Visitor | None, Response]:
        """A form that a page of ours sent: its fields and its visitor, or the refusal."""
        foreign = self._gateway.foreign(dict(request.scope), edge)
        if foreign is not None:
            return {}, None, self._gateway.pages.forbidden(foreign.message, "public_url")
        visitor = self._visitor(request, edge)
        if visitor is None:
            return {}, None, problem(403, "no-visitor", "You have nothing running here.")
        try:
            form = await read_form(request)
        except FormRefused as refused:
            return {}, None, refused.answer
        return form, visitor, Response()

    def _visitor(self, request: Request, edge: Edge) -> Visitor | None:
        return self._gateway.identify(dict(request.scope), edge)


def _of_app(target: str, name: AppName) -> str:
    """`target` if it lies in this app, else the app's first page."""
    target = local(target)
    return target if target.startswith(f"/{name}/") else f"/{name}/"
