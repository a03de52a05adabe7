"""The catalogue's list, one row an app. Where nothing of it runs for the visitor, a row is the same for everybody: it
is rendered once, so that hundreds of apps cost hundreds of look-ups, and not hundreds of templates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Template
from markupsafe import Markup

from htagweb_orchestrator.model import AppCard, Ending, Route, State

MOST = 2000
TINTS = 6  # colours of the letter in place of an icon


@dataclass(frozen=True, slots=True)
class Looks:
    """What else a row depends on: `searched` shows the search, `dev` problems in full."""

    searched: bool
    dev: bool


class AppRows:
    def __init__(self, template: Template, gone: Template) -> None:
        """`gone` is for what runs of apps that aren't published any more."""
        self._template = template
        self._gone = gone
        self._known: dict[tuple[AppCard, Looks], Markup] = {}

    def row(self, card: AppCard, route: Route | None, looks: Looks) -> Markup:
        if route is not None and route.state is not State.ENDED:
            return self._render(card, route, looks)
        known = self._known.get((card, looks))
        if known is None:
            if len(self._known) >= MOST:  # mostly of versions that are no more
                self._known.clear()
            known = self._known[card, looks] = self._render(card, None, looks)
        return known

    def gone(self, route: Route) -> Markup:
        return Markup(self._gone.render(route=route, said=route.app))

    def _render(self, card: AppCard, route: Route | None, looks: Looks) -> Markup:
        idle_s = None
        if route is not None and route.left_s is not None and route.left_why is Ending.IDLE:
            idle_s = max(0.0, route.idle_timeout_s - route.left_s)
        facts = {
            "card": card,
            "route": route,
            "idle_s": idle_s,
            "said": said(card),
            "tint": sum(card.name.encode()) % TINTS,
            "searched": looks.searched,
            "dev": looks.dev,
        }
        return Markup(self._template.render(facts))


@lru_cache(MOST)
def said(card: AppCard) -> str:
    """What a search looks at."""
    return f"{card.title} {card.name} {card.description}".casefold()
