"""One request's way through the gateway: who asks, for which app, where it runs, what the visitor sees meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import RedirectResponse, Response

from htagweb_orchestrator.access import allows
from htagweb_orchestrator.api import Orchestrator, SessionVerbs
from htagweb_orchestrator.errors import AppNotFound, AppPreparing, OrchestratorError, UserLimitReached
from htagweb_orchestrator.model import (
    AppCard,
    AppName,
    AppsChanged,
    Change,
    Ending,
    Platform,
    Refusal,
    Refused,
    Route,
    SandboxId,
    Snapshot,
    State,
    UserId,
)

from . import front
from .activity import Activity, is_activity
from .app_hosts import AppHosts
from .body_size import announced, bounded
from .edge import Edge, Edges
from .errand import Sender
from .headers import Forward
from .heads import Head
from .identity import COOKIE_NAMES, Identity, Visitor
from .navigation import navigation
from .pages import Pages
from .passes import Passes
from .platform import PlatformSite
from .problems import login_url, problem, problem_of_error, problem_of_route
from .proxy_sign_in import ProxySignIn
from .reach import Reach
from .refusals import Refusals
from .relay import Carrier, relay_for
from .routes import RouteTable
from .sign_ins import SIGNED_OUT
from .timing import timed
from .upstream import Upstream
from .upstream_errors import BadResponse, Ended, HeadTimeout, TooLarge, Unreachable, UpstreamError

log = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

PATIENCE_S = 0.8  # a start that is ready within this is answered with the app's own page, not with a waiting page
LOSS_S = 2.0  # how long after a failed dial the orchestrator may take to know why
FLUSH_S = 1.0  # how often activity is sent


class Gateway:
    """The ASGI application of one worker. Without `visitors` nobody can sign in."""

    def __init__(self, *, orchestrator: Orchestrator, identity: Identity, visitors: SessionVerbs | None = None) -> None:
        self.orchestrator = orchestrator
        self.visitors = visitors
        self.identity = identity
        self.pages = Pages()
        self.name = secrets.token_hex(8)  # of this worker, in its reports
        self.edges = Edges(Platform())
        self.activity = Activity()
        self.refusals = Refusals()
        self.routes = RouteTable(on_platform=self._configure, on_ended=self._ended)
        self._passes = Passes(self.routes, identity.sign_ins)
        self._site = PlatformSite(self)
        self._proxy_sign_in: ProxySignIn | None = None
        self._frame_ancestors = b""
        self._upstreams: dict[SandboxId, Upstream] = {}
        self._reach = Reach()
        self._relays: dict[SandboxId, set[Carrier]] = {}
        self._sockets: dict[UserId, int] = {}
        self._watched = asyncio.Event()  # set while the watch is connected

    @property
    def watching(self) -> bool:
        return self._watched.is_set()

    @property
    def sockets(self) -> int:
        """How many WebSockets are open."""
        return sum(self._sockets.values())

    @property
    def requests(self) -> int:
        """How many requests are with a sandbox."""
        return sum(upstream.busy for upstream in self._upstreams.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)

    # -- HTTP ----------------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge = self.edges.of(scope)
        if (refusal := front.check(scope)) is not None:
            await self._refuse(scope, receive, send, refusal.status, refusal.message)
            return
        path = front.raw_path(scope)
        if path in (b"/-/healthz", b"/-/readyz"):  # probes come by whatever name their prober uses
            await self._site(scope, receive, send, edge)
            return
        if not edge.app and not front.host_allowed(edge.host, self.routes.platform):
            if navigation(scope):
                await self.pages.forbidden(self._host_words(), "public_url", status=421)(scope, receive, send)
            else:
                await problem(421, "host", self._host_words())(scope, receive, send)
            return
        if self._proxy_sign_in is not None and (answer := await self._greet(scope, edge)) is not None:
            await answer(scope, receive, send)
            return
        name, rest = _place(edge, path)
        if name is None:
            await self._site(scope, receive, send, edge)
            return
        answer = await self._app(scope, receive, send, edge, AppName(name), rest)
        if answer is not None:
            await answer(scope, receive, send)

    async def _app(
        self, scope: Scope, receive: Receive, send: Send, edge: Edge, name: AppName, rest: bytes
    ) -> Response | None:
        """Relay to the app and return None, or return what to answer instead."""
        wants_page = navigation(scope)
        query = scope["query_string"]
        search = f"?{query.decode('latin-1')}" if query else ""
        target = front.raw_path(scope).decode("latin-1") + search
        visitor = self.identify(scope, edge)
        if edge.app and visitor is None and wants_page:  # the portal knows; also whether there is such an app for him
            return self._site.enter(edge, target)
        card = self.card(name, visitor)
        if card is None:
            return self.unknown(name, visitor, target, wants_page, edge)
        if self.edges.app_hosts is not None and not edge.app:
            return self._elsewhere(self.edges.app_hosts, name, (rest.decode("latin-1") or "/") + search, wants_page)
        if not rest:
            return RedirectResponse(f"/{name}/{search}", 308)
        if visitor is None:
            return self._stranger(edge, target, wants_page)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and (foreign := self.foreign(scope, edge)) is not None:
            return problem(foreign.status, "origin", foreign.message)
        most = self.routes.platform.body_size
        if most and (length := announced(scope)) is not None and length > most:
            return self.too_large(scope, most)
        forward = self._forward(edge, name, rest, query)
        route = self.routes.get(visitor.user, name)
        try:
            if route is not None and route.state is State.READY:
                if await self._relay_http(scope, receive, send, route, card, forward, visitor):
                    return None
            route = await self._miss(visitor.user, name, route)
            if route is not None and route.state is State.READY:  # the table was behind: once more
                if await self._relay_http(scope, receive, send, route, card, forward, visitor):
                    return None
                route = await self._miss(visitor.user, name, route)
            if not wants_page and route is None and card.preparing and not card.version:
                return problem_of_error(AppPreparing(f"{card.title} is being prepared.", app=name))
            if not wants_page:
                return problem_of_route(name, route, edge.base(name))
            if route is not None and route.state is State.ENDED and route.ending is not Ending.VISITOR:
                return self.pages.ended(card, route, target=target, dev=self.dev(edge))
            if route is None or route.state is State.ENDED:
                route = await self.orchestrator.lease(
                    visitor.user, name, query=query.decode("latin-1"), wait_s=PATIENCE_S, client=edge.own_client
                )
                self.routes.learn(route)
            if route.state is State.READY:
                if await self._relay_http(scope, receive, send, route, card, forward, visitor):
                    return None
            if route.state is State.ENDED:
                return self.pages.ended(card, route, target=target, dev=self.dev(edge))
            return self.pages.waiting(card, route, target=target)
        except HeadTimeout:
            return self._slow(card, wants_page)
        except TooLarge:
            return self.too_large(scope, most)
        except (BadResponse, Ended) as error:
            log.info("bad response of a sandbox: %s", error, extra={"app": name})
            route = await self._loss(visitor.user, name, route)
            if route is not None and route.state is State.ENDED:
                if wants_page:
                    return self.pages.ended(card, route, target=target, dev=self.dev(edge))
                return problem_of_route(name, route, edge.base(name))
            return self._broken(card, wants_page)
        except UpstreamError as error:  # too many requests at once, or an upload that stopped: a program's business
            return problem(error.status, error.reason, f"{card.title} could not take this request.")
        except OrchestratorError as error:
            return self.refusal(error, card, target, wants_page, edge)

    def errand(self, sender: Sender, head: Head, body: bytes, address: str, scheme: str) -> bool:
        """What our own protocol class asks of a request that came whole: pass it on at once, if the very same was let
        through a moment ago. False: it is for `__call__`."""
        found = self._passes.find(head, address, scheme)
        if found is None:
            return False
        if found.touches:
            found.meter.touch()
        if found.sign_in is None:
            return found.upstream.errand(sender, found.request + body, found.place)
        release = self.identity.sign_ins.hold(found.sign_in, sender.abort)
        if found.upstream.errand(sender, found.request + body, found.place, on_over=release):
            return True
        release()
        return False

    async def _relay_http(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        route: Route,
        card: AppCard,
        forward: Forward,
        visitor: Visitor,
    ) -> bool:
        """True once the exchange is over; False if nobody could be reached, and nothing was sent or read."""
        meter, active = self.activity.meter(route.sandbox), is_activity(scope)
        if active:
            if not meter.last and route.steps_ms and navigation(scope):
                send = timed(send, route.steps_ms)
            meter.touch()
        upstream, most = self._upstream(route, card), self.routes.platform.body_size
        if most and announced(scope) is None:
            receive = bounded(receive, most)
        self._passes.note(scope, visitor.sign_in, route, upstream, forward, meter, touches=active)
        try:
            if visitor.sign_in is None:
                await upstream.http(scope, receive, send, forward, on_upload=meter.touch)
            else:
                with self.identity.sign_ins.holding(visitor.sign_in, _breaker(scope)):
                    await upstream.http(scope, receive, send, forward, on_upload=meter.touch)
        except Unreachable as error:
            log.debug("sandbox not reached: %s", error, extra={"sandbox": route.sandbox})
            return False
        return True

    def _upstream(self, route: Route, card: AppCard) -> Upstream:
        found = self._upstreams.get(route.sandbox)
        if found is None:
            assert route.address is not None
            found = Upstream(route.address, head_timeout_s=card.interaction_timeout_s + 5.0)
            self._upstreams[route.sandbox] = found
        return found

    async def reached(self, route: Route, card: AppCard, edge: Edge) -> bool:
        """Has this worker had a good answer from that sandbox? A route that is no longer the one in use has not."""
        known = self.routes.get(route.user, route.app)
        if known is not None and known.state is State.STARTING:  # the watch is behind
            self.routes.learn(route)
        elif known is None or known.state is not State.READY or known.sandbox != route.sandbox:
            return False
        forward = self._forward(edge, card.name, b"/", b"")
        return await self._reach.reached(route.sandbox, self._upstream(route, card), forward)

    async def _miss(self, user: UserId, name: AppName, known: Route | None) -> Route | None:
        """Nothing runs as far as we know: ask. Where something should run and isn't there, wait for the reason."""
        if known is not None and known.state is State.READY:
            return await self._loss(user, name, known)
        try:
            return await self.orchestrator.find(user, name)
        except OrchestratorError:
            if known is None:
                raise
            return known

    async def _loss(self, user: UserId, name: AppName, known: Route | None) -> Route | None:
        """A sandbox that should answer didn't. Its end is known within moments; the visitor is told that, not 502."""
        try:
            async with asyncio.timeout(LOSS_S):
                while True:
                    route = await self.orchestrator.find(user, name)
                    if route is None or route.state is not State.READY:
                        return route
                    if known is None or route.sandbox != known.sandbox:
                        return route
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return known

    # -- WebSocket -----------------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same decisions as for HTTP, in the same order; a socket never starts anything."""
        edge = self.edges.of(scope)
        answer = await self._tunnel(scope, receive, send, edge)
        if answer is not None:
            await _deny(answer, receive, send, scope)

    async def _tunnel(self, scope: Scope, receive: Receive, send: Send, edge: Edge) -> Response | None:
        if (refusal := front.check(scope)) is not None:
            return problem(refusal.status, "bad-request", refusal.message)
        platform = self.routes.platform
        if not edge.app and not front.host_allowed(edge.host, platform):
            return problem(421, "host", self._host_words())
        if (foreign := self.foreign(scope, edge)) is not None:
            return problem(foreign.status, "origin", foreign.message)
        name, rest = _place(edge, front.raw_path(scope))
        visitor = self.identify(scope, edge)
        card = self.card(AppName(name or ""), visitor)
        if card is None or not rest:
            self._note_forbidden(AppName(name or ""), visitor, edge)
            return problem(404, "not-found", "There is nothing here.")
        if self.edges.app_hosts is not None and not edge.app:
            return self._elsewhere(self.edges.app_hosts, card.name, "/", False)
        if visitor is None:
            return problem(403, "no-visitor", _NO_VISITOR)
        user = visitor.user
        if self._sockets.get(user, 0) >= platform.sockets_per_user:
            return problem(429, "sockets", f"{platform.sockets_per_user} WebSockets are open: close one first.")
        route = self.routes.get(user, card.name)
        try:
            if route is None or route.state is not State.READY:
                route = await self._miss(user, card.name, route)
            if route is None or route.state is not State.READY or route.address is None:
                return problem_of_route(card.name, route, edge.base(card.name))
            forward = self._forward(edge, card.name, rest, scope["query_string"])
            meter = self.activity.meter(route.sandbox)
            relay = relay_for(
                scope,
                route.address,
                forward,
                message_size=platform.message_size,
                message_rate=platform.message_rate,
                on_data=meter.touch,
            )
            with self._open(visitor, route, relay):
                await relay.run(scope, receive, send)
        except Unreachable:
            return problem_of_route(card.name, await self._loss(user, card.name, route), edge.base(card.name))
        except UpstreamError:
            return problem(502, "bad-response", "The app did not accept the connection.")
        except OrchestratorError as error:
            return problem_of_error(error)
        return None

    @contextlib.contextmanager
    def _open(self, visitor: Visitor, route: Route, relay: Carrier) -> Any:
        """Count a socket and make it findable for the end of its sandbox, and for the end of its visitor's sign-in."""
        user = visitor.user
        relays = self._relays.setdefault(route.sandbox, set())
        relays.add(relay)
        self._sockets[user] = self._sockets.get(user, 0) + 1
        meter = self.activity.meter(route.sandbox)
        meter.sockets += 1
        try:
            with self.identity.sign_ins.holding(visitor.sign_in, lambda: relay.close(SIGNED_OUT, "signed out")):
                yield
        finally:
            meter.sockets -= 1
            relays.discard(relay)
            if not relays:
                self._relays.pop(route.sandbox, None)
            left = self._sockets[user] - 1
            if left:
                self._sockets[user] = left
            else:
                del self._sockets[user]

    # -- who asks, and for what he may ask -----------------------------------------------------------------------

    def identify(self, scope: Scope, edge: Edge) -> Visitor | None:
        """Who asks; None for somebody who brings no cookie of ours that still counts."""
        visitor = self.identity.visitor(scope["headers"], edge.scheme, edge.app)
        if self._proxy_sign_in is None:
            return visitor
        return self._proxy_sign_in.confirmed(visitor, self._proxy_sign_in.person(scope))

    async def _greet(self, scope: Scope, edge: Edge) -> Response | None:
        """Sign in whom the proxy names, when he opens a page and isn't known as that."""
        assert self._proxy_sign_in is not None
        person = self._proxy_sign_in.person(scope)
        if person is None or not navigation(scope) or edge.app:
            return None
        if front.raw_path(scope) == b"/-/enter" and not scope["query_string"].startswith(b"app="):
            return None  # that is where he brings his cookie, if he brings one
        return None if self.identify(scope, edge) is not None else await self._site.admit(scope, edge, person)

    def card(self, name: AppName, visitor: Visitor | None) -> AppCard | None:
        """The app of that name if this visitor may open it. The one place that decides that here: what it answers None
        for, unknown or forbidden, is answered alike by whoever asks."""
        card = self.routes.apps.get(name)
        if card is None or not allows(card.access, visitor.person if visitor is not None else None):
            return None
        return card

    @property
    def offers_sign_in(self) -> bool:
        return self.visitors is not None and self.routes.platform.auth in ("password", "oidc")

    # -- what is answered instead --------------------------------------------------------------------------------

    def refusal(self, error: OrchestratorError, card: AppCard, target: str, wants_page: bool, edge: Edge) -> Response:
        """The orchestrator's no as a page, or as JSON for programs."""
        if not wants_page:
            return problem_of_error(error)
        if isinstance(error, UserLimitReached):
            # At an app's own host nothing is to be done about another app. One that isn't published any more, or not
            # for him, is nowhere else to be ended.
            name = AppName("" if edge.app else error.facts.get("longest_idle", ""))
            longest_idle = self.routes.apps.get(name) or (AppCard(name=name, title=name) if name else None)
            return self.pages.limit(error, card, longest_idle=longest_idle, target=target)
        return self.pages.refused(error, target=target, dev=self.dev(edge))

    def unknown(self, name: AppName, visitor: Visitor | None, target: str, wants_page: bool, edge: Edge) -> Response:
        self._note_forbidden(name, visitor, edge)
        if not self.routes.filled:
            error = OrchestratorError("The server is starting. Try again in a moment.")
            return self.pages.almost() if wants_page else problem_of_error(error)
        if not wants_page:
            return problem_of_error(AppNotFound(f"There is no app {name!r} here."))
        anonymous = visitor is None or visitor.sign_in is None
        return self.pages.not_found(f"/{name}", sign_in=login_url(target) if anonymous and self.offers_sign_in else "")

    def _note_forbidden(self, name: AppName, visitor: Visitor | None, edge: Edge) -> None:
        """Where this is an app that he may not open, have that written down."""
        if name in self.routes.apps and self.card(name, visitor) is None:
            user = visitor.user if visitor is not None and visitor.sign_in is not None else ""
            self.refusals.add(Refusal(why=Refused.FORBIDDEN, user=user, app=name, client=edge.own_client))

    def _elsewhere(self, hosts: AppHosts, name: AppName, path: str, wants_page: bool) -> Response:
        """An app that has a host of its own is served there alone: here its pages could act on the platform's."""
        if wants_page:
            return RedirectResponse(hosts.enter_url(name, path), 303, headers={"Cache-Control": "no-store"})
        return problem(421, "host", f"This app answers at {hosts.url(name, '/')}")

    def _stranger(self, edge: Edge, target: str, wants_page: bool) -> Response:
        """No cookie: a person is sent round once to bring it back, and only then anything is started."""
        if not wants_page:
            return problem(403, "no-visitor", _NO_VISITOR)
        return self._site.enter(edge, target)

    def _slow(self, card: AppCard, wants_page: bool) -> Response:
        text = f"{card.title} did not answer within {card.interaction_timeout_s:g} seconds."
        if wants_page:
            return self.pages.error(504, "That takes too long", text)
        return problem(504, "timeout", text)

    def too_large(self, scope: Scope, most: int) -> Response:
        text = f"This server takes {most:,} bytes in one request, not more."
        if navigation({**scope, "method": "GET"}):  # a form that was sent off opens a page, too
            return self.pages.error(413, "That is too large", text)
        return problem(413, "too-large", text)

    def _broken(self, card: AppCard, wants_page: bool) -> Response:
        text = f"{card.title} gave an answer that is no proper HTTP. Its author should hear of it."
        if wants_page:
            return self.pages.error(502, "That answer made no sense", text)
        return problem(502, "bad-response", text)

    def foreign(self, scope: Scope, edge: Edge) -> front.Refusal | None:
        """The refusal of what another site's page made the visitor's browser send; for sockets and unsafe methods."""
        origin, same_site = None, False
        for key, value in scope["headers"]:
            if key == b"origin":
                origin = value
            elif key == b"sec-fetch-site":
                same_site = value == b"same-origin"
        scheme = edge.scheme if edge.scheme_known else None
        return front.check_origin(origin, host=edge.host, scheme=scheme, missing_ok=same_site)

    def _host_words(self) -> str:
        if self.routes.platform.public_url:
            return f"This server is {self.routes.platform.public_url} and answers to no other name."
        return "In development mode only localhost is answered. Set public_url, or dev = false, to use another name."

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
        if navigation(scope):
            answer = self.pages.error(status, "That request can't be right", text)
        else:
            answer = problem(status, "bad-request", text)
        answer.headers["Connection"] = "close"
        await answer(scope, receive, send)

    def dev(self, edge: Edge) -> bool:
        """Tracebacks are shown to nobody who came through a proxy: that is no developer at his own machine."""
        return self.routes.platform.dev and not edge.proxied

    def _forward(self, edge: Edge, name: AppName, rest: bytes, query: bytes) -> Forward:
        return Forward(
            prefix="" if edge.app else f"/{name}",
            target=rest + (b"?" + query if query else b""),
            host=edge.host,
            scheme=edge.scheme,
            client=edge.client,
            cookie_names=COOKIE_NAMES,
            frame_ancestors=self._frame_ancestors,
            withheld=self._proxy_sign_in.withheld if self._proxy_sign_in is not None else frozenset(),
        )

    # -- the route table -----------------------------------------------------------------------------------------

    def _configure(self, platform: Platform) -> None:
        self.edges = Edges(platform)
        self.identity.life_s = int(platform.anonymous_life_s)
        self._proxy_sign_in = ProxySignIn(platform.headers, self.edges) if platform.auth == "header" else None
        self._frame_ancestors = " ".join(("'self'", *platform.frame_ancestors)).encode("ascii")
        self.pages.warnings = platform.warnings
        self.pages.frame_ancestors = " ".join(platform.frame_ancestors)
        hosts = self.edges.app_hosts
        self.pages.portal, self.pages.apps_origin = (f"{hosts.portal}/", hosts.any_origin) if hosts else ("/", "")

    def _ended(self, sandbox: SandboxId, reason: str) -> None:
        """A sandbox is gone: close what still talks to it, with the reason for whoever is in front of it."""
        upstream = self._upstreams.pop(sandbox, None)
        if upstream is not None:
            upstream.close()
        for relay in self._relays.pop(sandbox, ()):
            relay.close(1001, str(reason))
        self._reach.forget(sandbox)
        self.activity.forget(sandbox)

    def _apply(self, change: Change) -> None:
        self.identity.sign_ins.apply(change)
        self.routes.apply(change)
        if isinstance(change, AppsChanged | Snapshot):
            self._shut_out()

    def _shut_out(self) -> None:
        """Close what is open to somebody who may not open it any more."""
        for route in self.routes.all_ready():
            card = self.routes.apps.get(route.app)
            if card is not None and not allows(card.access, self.identity.sign_ins.person(route.user)):
                self._ended(route.sandbox, "gone")

    async def _watch(self) -> None:
        """Follow the orchestrator for ever; what was known stays in use while it is away."""
        delay_s = 0.1
        while True:
            try:
                async with contextlib.aclosing(self.orchestrator.watch(self.name)) as changes:
                    async for change in changes:
                        self._apply(change)
                        if not self._watched.is_set():
                            self._watched.set()
                            delay_s = 0.1
                            await self.flush(everything=True)
            except OrchestratorError as error:
                if self._watched.is_set():
                    log.warning("orchestrator lost: %s", error)
            except Exception:
                log.exception("the watch failed")
            self._watched.clear()
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 2.0)

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._watched.is_set():
                try:
                    await self.flush()
                except Exception:  # without reports every sandbox would be ended as idle
                    log.exception("activity not sent")

    async def flush(self, *, everything: bool = False) -> None:
        values = self.activity.values()
        report = self.activity.report(everything=everything)
        refused = self.refusals.take()
        if not report and not refused and not everything:
            return
        try:
            await self.orchestrator.activity(self.name, report, refused)
        except OrchestratorError as error:
            self.refusals.put_back(refused)
            log.debug("activity not sent: %s", error)
        else:
            self.activity.sent(values)

    # -- lifespan ------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._watch(), name="watch"),
            asyncio.create_task(self._flush_for_ever(), name="activity"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._reach.close()
            await self.flush()
            for upstream in self._upstreams.values():
                upstream.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self.running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def _place(edge: Edge, path: bytes) -> tuple[str | None, bytes]:
    """The app that a path belongs to, and the path as the app sees it; None for what is the platform's own."""
    if not edge.app:
        return front.parse_target(path)
    return (None if path.startswith(b"/-/") else edge.app), path


def _breaker(scope: Scope) -> Callable[[], None]:
    """What breaks off this exchange: its visitor's connection, or the task, on servers that don't lend that."""
    if (lent := scope.get("htagweb.visitor")) is not None:
        abort: Callable[[], None] = lent.abort
        return abort
    task = asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        task.cancel()

    return cancel


_NO_VISITOR = "Open the app's page in a browser first: that is what makes you known here."


async def _deny(answer: Response, receive: Receive, send: Send, scope: Scope) -> None:
    """Refuse a handshake with an HTTP answer where the server can, else by closing."""
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    if "websocket.http.response" in scope.get("extensions", {}):
        await answer({**scope, "type": "websocket"}, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})
