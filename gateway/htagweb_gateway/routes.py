"""The route table: what the orchestrator pushed. A request to a running sandbox asks nobody else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from htagweb_orchestrator.model import (
    AppCard,
    AppName,
    AppsChanged,
    Change,
    Platform,
    Route,
    RouteChanged,
    RouteGone,
    SandboxId,
    Snapshot,
    State,
    UserId,
)

_ORDER = (State.STARTING, State.READY, State.ENDED)  # in the order of a life


class RouteTable:
    """Apps, settings and routes of this installation. `filled` is False until the first snapshot came, `complete` until
    one came that knows what runs. When the watch breaks the table stays as it is: sandboxes run on without an
    orchestrator, and so do their visitors."""

    def __init__(self, *, on_platform: Callable[[Platform], None], on_ended: Callable[[SandboxId, str], None]) -> None:
        self.filled = self.complete = False
        self.edition = 0  # counts the changes of anything but routes
        self.platform = Platform()
        self.apps: dict[AppName, AppCard] = {}
        self._routes: dict[tuple[UserId, AppName], Route] = {}
        self._on_platform = on_platform
        self._on_ended = on_ended

    def get(self, user: UserId, app: AppName) -> Route | None:
        return self._routes.get((user, app))

    def of_user(self, user: UserId) -> dict[AppName, Route]:
        """This visitor's routes, ended ones included."""
        return {app: route for (owner, app), route in self._routes.items() if owner == user}

    def ready(self) -> set[SandboxId]:
        return {route.sandbox for route in self.all_ready()}

    def all_ready(self) -> list[Route]:
        return [route for route in self._routes.values() if route.state is State.READY]

    def learn(self, route: Route) -> None:
        """What a call answered. The watch may have told more of the same sandbox meanwhile: that stands."""
        known = self.get(route.user, route.app)
        if known is None or known.sandbox != route.sandbox or _ORDER.index(known.state) <= _ORDER.index(route.state):
            self.put(route)

    def put(self, route: Route) -> None:
        before = self._routes.get((route.user, route.app))
        self._routes[route.user, route.app] = route
        if before is not None and before.state is State.READY:
            if before.sandbox != route.sandbox or route.state is State.ENDED:
                self._on_ended(before.sandbox, (route.ending or "gone") if before.sandbox == route.sandbox else "gone")

    def apply(self, change: Change) -> None:
        if not isinstance(change, RouteChanged | RouteGone):
            self.edition += 1
        match change:
            case RouteChanged(route=route):
                self.put(route)
            case RouteGone(user=user, app=app):
                before = self._routes.pop((user, app), None)
                if before is not None and before.state is State.READY:
                    self._on_ended(before.sandbox, "gone")
            case AppsChanged(apps=apps, home=home):
                self.apps = {card.name: card for card in apps}
                if home is not None:
                    self.platform = msgspec.structs.replace(self.platform, home=home)
            case Snapshot(platform=platform, apps=apps, routes=routes):
                self.apps = {card.name: card for card in apps}
                if platform != self.platform or not self.filled:
                    self.platform = platform
                    self._on_platform(platform)
                self.filled = True
                if not change.complete:
                    return
                self.complete = True
                before_ready = self.ready()
                self._routes = {(route.user, route.app): route for route in routes}
                endings = {route.sandbox: route.ending for route in routes if route.ending is not None}
                for sandbox in before_ready - self.ready():
                    self._on_ended(sandbox, endings.get(sandbox, "gone"))
