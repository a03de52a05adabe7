"""The gateway of an embedded server: visitors come in by the server's own routes, and the app's page is the answer of
one of them. What the page itself asks for comes in below `PREFIX`/<app>/."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.responses import Response

from htagweb_orchestrator.errors import OrchestratorError
from htagweb_orchestrator.model import AppCard, AppName, Ending, Route, State, UserId

from . import front
from .app import Gateway, Receive, Scope, Send
from .edge import Edge
from .headers import Forward
from .identity import COOKIE_NAMES, Visitor
from .navigation import navigation
from .problems import problem, problem_of_route
from .upstream_errors import BadResponse, Ended, HeadTimeout, UpstreamError

T = TypeVar("T")

PREFIX = "/_"
PATIENCE_S = 35.0  # for a start: its own limit comes first


class EmbeddedGateway(Gateway):
    """`page` and `below` take a scope whose visitor is known: `visitor` says by which cookie."""

    def visitor(self, scope: Scope) -> tuple[Visitor, str]:
        """Who asks, and the Set-Cookie that makes him known: "" if he is."""
        edge = self.edges.of(scope)
        known = self.identity.visitor(scope["headers"], edge.scheme)
        if known is not None:
            return known, ""
        user = UserId(f"anon-{secrets.token_urlsafe(16)}")
        return Visitor(user, 0.0), self.identity.issue(edge.scheme, user)

    async def page(
        self, scope: Scope, receive: Receive, send: Send, visitor: Visitor, card: AppCard, *, renew: bool = False
    ) -> Response | None:
        """Pass the app's page on and return None, or return what to answer instead. A person who opens it starts the
        app; with `renew`, anew in any case."""
        user, edge = visitor.user, self.edges.of(scope)
        if (refusal := front.check(scope)) is not None:
            return problem(refusal.status, "bad-request", refusal.message)
        if scope["method"] == "HEAD":  # a health check, perhaps: starts nothing
            return Response(headers={"Cache-Control": "no-store"}, media_type="text/html")
        if scope["method"] != "GET":
            return problem(405, "method", f"{scope['method']} is not possible here.")
        self.routes.apps.setdefault(card.name, card)
        query = scope["query_string"]
        search = f"?{query.decode('latin-1')}" if query else ""
        target = front.raw_path(scope).decode("latin-1") + search
        try:
            if not opens(scope):
                return problem_of_route(card.name, await self.orchestrator.find(user, card.name))
            if renew:
                await self.orchestrator.release(user, card.name, Ending.VISITOR)
            forward = self._forward(edge, card.name, b"/", query)
            for _ in range(2):
                route = await self._leased(user, card, query.decode("latin-1"), edge)
                if route.state is not State.READY:
                    break
                try:
                    if await self._relay_http(scope, receive, send, route, card, forward, visitor):
                        return None
                    await self._loss(user, card.name, route)  # it died a moment ago: once more
                except (BadResponse, Ended):
                    if await self._loss(user, card.name, route) is route:
                        raise
            if route.state is State.ENDED:
                return self.pages.ended(card, route, target=target, dev=self.dev(edge))
            return self.pages.waiting(card, route, target=target)
        except HeadTimeout:
            return self._slow(card, navigation(scope))
        except (BadResponse, Ended):
            return self._broken(card, navigation(scope))
        except UpstreamError as error:
            return problem(error.status, error.reason, f"{card.title} could not take this request.")
        except OrchestratorError as error:
            return self.refusal(error, card, target, navigation(scope), edge)

    async def _leased(self, user: UserId, card: AppCard, query: str, edge: Edge) -> Route:
        route = await self.orchestrator.lease(user, card.name, query=query, wait_s=PATIENCE_S, client=edge.own_client)
        self.routes.learn(route)
        return route

    async def below(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor) -> Response | None:
        """What a page asks for: /_/<app>/…; starts nothing. Returns what to answer instead, if so."""
        path = front.raw_path(scope).removeprefix(PREFIX.encode())
        # Starlette's TestClient names no HTTP version for a WebSocket.
        scope = {"http_version": "1.1", **scope, "path": scope["path"].removeprefix(PREFIX), "raw_path": path}
        edge = self.edges.of(scope)
        if scope["type"] == "websocket":
            return await _by_itself(self._tunnel(scope, receive, send, edge))
        if (refusal := front.check(scope)) is not None:
            return problem(refusal.status, "bad-request", refusal.message)
        name, rest = front.parse_target(path)
        card = self.routes.apps.get(AppName(name or ""))
        if card is None or not rest:
            return problem(404, "not-found", "There is nothing here.")
        if rest == b"/":
            return await self.page(scope, receive, send, visitor, card)
        return await self._app(scope, receive, send, edge, card.name, rest)

    def foreign(self, scope: Scope, edge: Edge) -> front.Refusal | None:
        """A program of the user's own says nothing of where it comes from; a browser does."""
        named = {name for name, _ in scope["headers"]}
        if b"origin" not in named and not any(name.startswith(b"sec-fetch-") for name in named):
            return None
        return super().foreign(scope, edge)

    def _forward(self, edge: Edge, name: AppName, rest: bytes, query: bytes) -> Forward:
        return Forward(
            prefix=f"{PREFIX}/{name}",
            target=rest + (b"?" + query if query else b""),
            host=edge.host,
            scheme=edge.scheme,
            client=edge.client,
            cookie_names=COOKIE_NAMES,
        )


async def _by_itself(work: Coroutine[Any, Any, T]) -> T:
    """Await in a task of its own, so that our cancellation is re-raised as it came: anyio, by which Starlette's
    TestClient cancels, knows its own by the text in it, and asyncio.gather would make a new one."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise
    return task.result()


def opens(scope: Any) -> bool:
    """Is this somebody opening a page, by a browser or by hand? Here a GET for anything is, where no browser says that
    it wants something else."""
    return navigation({**scope, "headers": [*scope["headers"], (b"accept", b"text/html")]})
