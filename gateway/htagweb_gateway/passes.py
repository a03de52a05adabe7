"""Requests that were let through a moment ago, so that the very same one need not be judged again.

The same is: the head is, byte for byte (with it method, target, Host, Origin and every cookie), and it comes from the
same address by the same scheme. Whatever else decides is either looked at each time (the route, the sign-in), or ends
every pass when it changes (all that the orchestrator's watch tells, see `RouteTable.edition`), or may be SECONDS late
(the end of an anonymous cookie's life). So no rule is here twice: `Gateway` judges, and what it relayed gets a pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from htagweb_orchestrator.model import Route, SignIn

from .activity import Meter
from .headers import Forward, Place
from .heads import Head
from .routes import RouteTable
from .sign_ins import SignIns
from .upstream import Upstream

REMEMBERED = 1024
SECONDS = 5.0

Key = tuple[Head, str, str]  # by identity: `heads` has one object for the same bytes; address, scheme


class Pass(NamedTuple):
    request: bytes  # the head for the sandbox
    place: Place
    upstream: Upstream
    sign_in: SignIn | None
    route: Route
    meter: Meter
    touches: bool  # whether such a request is a visitor's activity
    edition: int
    until: float  # monotonic


class Passes:
    def __init__(self, routes: RouteTable, sign_ins: SignIns, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._routes = routes
        self._sign_ins = sign_ins
        self._clock = clock
        self._passes: dict[Key, Pass] = {}

    def note(
        self,
        scope: dict[str, Any],
        sign_in: SignIn | None,
        route: Route,
        upstream: Upstream,
        forward: Forward,
        meter: Meter,
        *,
        touches: bool,
    ) -> None:
        """This request is being relayed, and not for the first time: let the next one like it pass."""
        head: Head | None = scope.get("htagweb.head")
        if head is None or head.method == "HEAD":
            return
        if not head.again:
            head.again = True
            return
        if len(self._passes) >= REMEMBERED:
            del self._passes[next(iter(self._passes))]
        key = head, scope["client"][0] if scope["client"] else "", scope["scheme"]
        self._passes[key] = Pass(
            request=upstream.prepare(scope, forward),
            place=Place(
                prefix=forward.prefix,
                host=forward.host,
                cookie_names=forward.cookie_names,
                frame_ancestors=forward.frame_ancestors,
            ),
            upstream=upstream,
            sign_in=sign_in,
            route=route,
            meter=meter,
            touches=touches or head.length > 0,
            edition=self._routes.edition,
            until=self._clock() + SECONDS,
        )

    def find(self, head: Head, address: str, scheme: str) -> Pass | None:
        key = head, address, scheme
        found = self._passes.get(key)
        if found is None:
            return None
        routes, route = self._routes, found.route
        if (
            found.edition == routes.edition
            and found.until > self._clock()
            and routes.get(route.user, route.app) is route
            and (found.sign_in is None or self._sign_ins.get(found.sign_in.id) is found.sign_in)
        ):
            return found
        del self._passes[key]
        return None
