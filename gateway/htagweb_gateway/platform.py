"""Everything of the platform's own: the catalogue at /, and what lies under /-/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from htagweb_orchestrator.errors import OrchestratorError
from htagweb_orchestrator.model import AppName, Ending, Person, Route, State

from . import admin, front
from .admin import OperatorSite
from .edge import Edge
from .endings import NOT_HERE, ending_words, line_words, progress, step_times, usual_words
from .entering import Entrance
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
ADMIN = "admin"  # the group of the operators
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class PlatformSite:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._login = Login(gateway)
        self._operators = OperatorSite(gateway)
        self._entrance = Entrance(gateway)
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

    def enter(self, edge: Edge, target: str) -> Response:
        """Give a visitor without a cookie one, and have him bring it back."""
        return self._entrance.enter(edge, target)

    async def _answer(self, request: Request, edge: Edge) -> Response:
        path = front.raw_path(dict(request.scope)).decode("latin-1")
        method = request.method
        if edge.app:
            return await self._answer_at_app(request, edge, path)
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
                    return await self._entrance.returned(request, edge)
                case "/-/start" if method == "GET":
                    return await self._start(request, edge)
            if path.startswith(ICONS):
                return await self._icons.answer(
                    request, AppName(path.removeprefix(ICONS)), self._visitor(request, edge)
                )
            if path.startswith("/-/") or path == "/favicon.ico":
                asset = self._asset(request, "/-/icon.svg" if path == "/favicon.ico" else path)
                if asset is not None:
                    return asset
        elif method == "POST" and path in ("/-/stop", "/-/stay"):
            return await (self._stop if path == "/-/stop" else self._stay)(request, edge)
        elif path in ("/", "/-/stop", "/-/stay", "/-/start", "/-/status", "/-/enter"):
            return problem(405, "method", f"{method} is not possible here.")
        return self._nothing(request, path)

    async def _answer_at_app(self, request: Request, edge: Edge, path: str) -> Response:
        """At an app's own host: only what its pages need, and nothing that concerns another app."""
        get, post = request.method in ("GET", "HEAD"), request.method == "POST"
        match path:
            case "/-/status" if get:
                return await self._status(request, edge)
            case "/-/enter" if get:
                return await self._entrance.returned(request, edge)
            case "/-/start" if request.method == "GET":
                return await self._start(request, edge)
            case "/-/stop" | "/-/stay" if post:
                return await (self._stop if path == "/-/stop" else self._stay)(request, edge)
            case "/-/login" if get and (hosts := self._gateway.edges.app_hosts) is not None:
                target = local(request.query_params.get("next", "/"))
                return RedirectResponse(hosts.portal + login_url(f"/{edge.app}{target}"), 303, headers=_NO_STORE)
        if get and (asset := self._asset(request, path)) is not None:
            return asset
        return self._nothing(request, path)

    def _asset(self, request: Request, path: str) -> Response | None:
        return self._gateway.pages.asset(path.removeprefix("/-/"), request.headers.get("if-none-match", ""))

    def _nothing(self, request: Request, path: str) -> Response:
        if navigation(request.scope):
            return self._gateway.pages.not_found(path)
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
            mine = await self._running(visitor)
        cards = sorted(gateway.routes.apps.values(), key=lambda card: card.title.lower())
        entries = [(card, mine.get(card.name)) for card in cards if gateway.card(card.name, visitor) is not None]
        shown = {card.name for card, _ in entries}
        gone = [mine[name] for name in sorted(mine) if name not in shown and mine[name].state is not State.ENDED]
        platform = msgspec.structs.replace(gateway.routes.platform, dev=gateway.dev(edge))
        sign_in = visitor.sign_in if visitor is not None else None
        page = gateway.pages.catalogue(
            entries,
            platform=platform,
            gone=gone,
            query=request.query_params.get("q", "")[:MAX_QUERY].strip(),
            person=sign_in.person if sign_in is not None else None,
            sign_in=login_url("/") if sign_in is None and gateway.offers_sign_in else "",
            sign_out=sign_in is not None and sign_in.method != "header",  # that one is the proxy's to end
            operator=sign_in is not None and ADMIN in sign_in.person.groups,
        )
        if visitor is not None and sign_in is None and visitor.age_s > DAY_S:  # who comes back keeps being known
            page.headers.append("Set-Cookie", gateway.identity.issue(edge.scheme, visitor.user))
        return page

    async def _start(self, request: Request, edge: Edge) -> Response:
        """The one button of an ending's page: a person wants the app again."""
        gateway = self._gateway
        name = AppName(request.query_params.get("app", ""))
        base = edge.base(name)
        target = local(request.query_params.get("next", base))
        target = target if target.startswith(base) else base
        visitor = self._visitor(request, edge)
        card = gateway.card(name, visitor) if edge.app in ("", name) else None
        if card is None:
            return gateway.unknown(name, visitor, target, True, edge)
        if visitor is None:
            return self._entrance.enter(edge, target)
        if not navigation(request.scope):
            return problem(403, "navigation", "Only a person opening a page starts an app.")
        query = target.partition("?")[2]
        try:
            route = await gateway.orchestrator.lease(
                visitor.user, name, query=query, wait_s=START_PATIENCE_S, client=edge.own_client
            )
        except OrchestratorError as error:
            return gateway.refusal(error, card, target, True, edge)
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
        card = self._gateway.card(name, visitor) if edge.app in ("", name) else None
        if visitor is not None and card is not None:
            route = await self._fresh(visitor, name, self._gateway.routes.get(visitor.user, name))
            if route is not None and route.state is State.READY and not await self._gateway.reached(route, card, edge):
                route = msgspec.structs.replace(route, state=State.STARTING)  # nothing there that a page could open yet
        words = ending_words(route) if card is not None else NOT_HERE
        ended = route is None or route.state is State.ENDED
        facts = {
            "app": name,
            "state": route.state if route else "none",
            "sandbox": route.sandbox[:12] if route else "",
            "step": route.step if route else "",
            "line": line_words(route),
            "elapsed_s": round(route.started_ago_s, 1) if route else 0.0,
            "expected_s": route.expected_s if route else None,
            "progress": progress(route),
            "usual": usual_words(route),
            "steps": step_times(route),
            "left_s": round(max(0.0, route.left_s), 1) if route and route.left_s is not None else None,
            "left_why": route.left_why if route else None,
            "outdated": route is not None and route.outdated,
            # Who is writing the app sees what he wrote.
            "reload": self._gateway.routes.platform.embedded and route is not None and route.ending is Ending.UPDATED,
            "warn_s": min(120.0, route.idle_timeout_s / 4) if route else 120.0,
            "ending": route.ending if route else None,
            "title": words.title if ended else "",
            "text": words.text if ended else "",
            "action": words.action if ended else "",
            "error_id": route.error_id if route else "",
            "signed_in": visitor is not None and visitor.sign_in is not None,
        }
        return JSONResponse(facts, headers=_NO_STORE)

    async def _running(self, visitor: Visitor) -> dict[AppName, Route]:
        """The same of all that this visitor has, in one question; who has nothing costs none."""
        gateway = self._gateway
        known = gateway.routes.of_user(visitor.user)
        if not gateway.watching or all(route.state is State.ENDED for route in known.values()):
            return known
        try:
            return {route.app: route for route in await gateway.orchestrator.running(visitor.user)}
        except OrchestratorError:
            return known

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
        if edge.app not in ("", name):
            return problem(404, "not-found", "There is nothing here.")
        try:
            await self._gateway.orchestrator.release(visitor.user, name, Ending.VISITOR)
        except OrchestratorError as error:
            return self._gateway.pages.refused(error, target="/")
        return RedirectResponse(local(form.get("next", "/")), 303, headers=_NO_STORE)

    async def _stay(self, request: Request, edge: Edge) -> Response:
        form, visitor, refusal = await self._posted(request, edge)
        if visitor is None:
            return refusal
        name = AppName(form.get("app", ""))
        route = self._gateway.routes.get(visitor.user, name) if edge.app in ("", name) else None
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
