"""Refusals for programs: problem+json (RFC 9457), for whatever isn't a browser's navigation."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import Response

from htagweb_orchestrator.errors import OrchestratorError
from htagweb_orchestrator.model import AppName, Route, State

from .endings import ending_words

# Where waiting helps, and about how long (seconds). What isn't here needs a person.
RETRY_AFTER_S = {
    "full": 5,
    "preparing": 5,
    "rate-limit": 60,  # as long as the starts of a minute count
    "user-limit": 60,  # one of his own may be put away as idle, or he ends it
    "start-timeout": 5,
    "engine": 5,
    "draining": 60,
    "orchestrator": 2,
}


def problem(status: int, reason: str, title: str, **facts: object) -> Response:
    """A refusal in the gateway's own words. `reason` is one word, also sent as X-Htagweb."""
    return _json(status, reason, {"type": "about:blank", "status": status, "reason": reason, "title": title, **facts})


def problem_of_error(error: OrchestratorError) -> Response:
    return _json(error.status, error.reason, error.problem())


def problem_of_route(app: AppName, route: Route | None, base: str = "") -> Response:
    """503 for a request that needs a running app and may not start one. X-Htagweb says none, starting or ended. `base`
    is where the app lies: /counter/, or / at a host of its own."""
    state = "none" if route is None else route.state.value
    facts: dict[str, object] = {"type": "about:blank", "status": 503, "app": app}
    if route is not None and route.state is State.STARTING:
        facts |= {"reason": state, "title": "This app is starting"}
    else:
        words = ending_words(route)
        reason = route.ending.value if route is not None and route.ending is not None else state
        facts |= {
            "reason": reason,
            "title": words.title,
            "detail": words.text,
            "restart": start_url(app, base or f"/{app}/"),
        }
        if route is not None and route.error_id:
            facts["error_id"] = route.error_id
    return _json(503, state, facts)


def start_url(app: AppName, target: str) -> str:
    """Where a person's click starts `app` (again) and comes back to `target`."""
    return f"/-/start?{urlencode({'app': app, 'next': local(target)}, quote_via=quote)}"


def login_url(target: str) -> str:
    """Where an anonymous visitor signs in and comes back to `target`."""
    return f"/-/login?{urlencode({'next': local(target)}, quote_via=quote)}"


def local(target: str) -> str:
    r"""`target` if it is a path on this host, else "/": //evil, /\evil, https:evil and control bytes lead elsewhere."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if plain and target.isprintable() and "\\" not in target else "/"


def _json(status: int, state: str, facts: dict[str, object]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Htagweb": state}
    retry_s = 1 if state == "starting" else RETRY_AFTER_S.get(state)
    if retry_s is not None:
        headers["Retry-After"] = str(retry_s)
    return Response(msgspec.json.encode(facts), status, headers, media_type="application/problem+json")
