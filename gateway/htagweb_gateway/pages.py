"""The platform's own pages: small, whole, without anything from other hosts, and usable without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from htagweb_orchestrator.errors import OrchestratorError
from htagweb_orchestrator.model import AppCard, Ending, Person, Platform, Route, Step

from .app_rows import AppRows, Looks, said
from .endings import duration, ending_words, line_words, progress, step_times, usual_words
from .problems import RETRY_AFTER_S, local, start_url

_HERE = Path(__file__).parent
_CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors "
)
_STEPS = (
    (Step.QUEUED, "Waiting for a free place"),
    (Step.CREATING, "Making a container for you alone"),
    (Step.STARTING, "Starting Python in it"),
    (Step.LOADING, "Loading the app"),
    (Step.READY, "Opening it"),
)
SEARCHED = 6  # so many apps can't be seen at a glance
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Pages:
    """Renders every page to a whole response before its first byte is sent."""

    def __init__(self) -> None:
        self.warnings: tuple[str, ...] = ()  # Platform.warnings, kept up to date by the owner: every page shows them
        self.portal = "/"  # where all apps are listed
        self.frame_ancestors = ""  # other sites that may frame what is shown in an app's place
        self.apps_origin = ""  # the apps' own hosts, where they have some: a form may lead there
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["duration"] = duration
        self._rows = AppRows(*map(self._templates.get_template, ("catalogue_row.html", "catalogue_gone.html")))
        self._templates.filters["mebibytes"] = lambda size: f"{size / 1024**2:.1f} MB"
        self._assets = {file.name: _asset(file) for file in sorted((_HERE / "static").iterdir())}

    def asset(self, name: str, if_none_match: str = "") -> Response | None:
        """A file of ours, served as /-/NAME: style.css, live.js, waiting.js, icon.svg. None if it isn't one."""
        found = self._assets.get(name)
        if found is None:
            return None
        body, media_type, etag = found
        # Minutes, not days: an upgrade of the gateway must reach open browsers soon.
        headers = {"ETag": etag, "Cache-Control": "public, max-age=300", "X-Content-Type-Options": "nosniff"}
        if etag in if_none_match:
            return Response(None, 304, headers)
        return Response(body, 200, headers, media_type=media_type)

    def own(self, template: str, status: int, **values: Any) -> Response:
        """A page that an embedded server shows of itself."""
        return self._page(template, status, **values)

    def catalogue(
        self,
        entries: Sequence[tuple[AppCard, Route | None]],
        *,
        platform: Platform,
        gone: Sequence[Route] = (),
        query: str = "",
        person: Person | None = None,
        sign_in: str = "",
        sign_out: bool = False,
        operator: bool = False,
    ) -> Response:
        """The apps that this visitor may open and, where he has one running, for how long; with a `query` those alone
        that have all its words. `gone` is what else he has running. `platform.dev` shows problems in full. `sign_in` is
        where an anonymous one can do that; `sign_out` and `operator` say what a person is shown besides."""
        words = query.casefold().split()
        looks = Looks(searched=len(entries) >= SEARCHED, dev=platform.dev)
        rows = [
            self._rows.row(card, route, looks)
            for card, route in entries
            if not words or all(word in said(card) for word in words)
        ]
        rows += [self._rows.gone(route) for route in gone if all(word in route.app for word in words)]
        return self._page(
            "catalogue.html",
            200,
            rows=rows,
            query=query,
            searched=looks.searched,
            warnings=platform.warnings,
            person=person,
            sign_in=sign_in,
            sign_out=sign_out,
            operator=operator,
        )

    def waiting(self, card: AppCard, route: Route, *, target: str) -> Response:
        """While the app starts. Follows the progress by script; without scripts it reloads itself."""
        now = [step for step, _ in _STEPS].index(route.step)
        times = step_times(route)
        steps = [
            {
                "name": step.value,
                "text": text,
                "mark": "done" if i < now else "now" if i == now else "later",
                "took": times.get(step.value, "") if i < now else "",
            }
            for i, (step, text) in enumerate(_STEPS)
        ]
        headers = {"Retry-After": "1", "X-Htagweb": "starting"}
        return self._page(
            "waiting.html",
            503,
            headers,
            card=card,
            route=route,
            target=local(target),
            steps=steps,
            present=_STEPS[now][1],
            line=line_words(route),
            progress=progress(route),
            usual=usual_words(route),
        )

    def ended(self, card: AppCard, route: Route | None, *, target: str, dev: bool = False) -> Response:
        """What happened, what is lost and kept, and one button. None: nothing is known but that it isn't running. With
        `dev` the route's traceback is shown, where there is one, and what the server itself failed of."""
        headers = {"X-Htagweb": "none" if route is None else "ended"}
        start = start_url(card.name, target)
        # What the server failed of is for whoever runs it, and he has it in the log.
        own = route is not None and route.ending is Ending.SERVER and not dev
        detail = "" if route is None or own else route.detail
        return self._page(
            "ended.html",
            503,
            headers,
            card=card,
            route=route,
            words=ending_words(route),
            detail=detail,
            start=start,
            dev=dev,
        )

    def limit(self, error: OrchestratorError, card: AppCard, *, longest_idle: AppCard | None, target: str) -> Response:
        """As many apps as one visitor may have; one button ends the one that was idle longest and opens `card`."""
        limit = error.facts.get("limit", "")
        return self._page(
            "limit.html",
            error.status,
            {"X-Htagweb": error.reason},
            error=error,
            card=card,
            longest_idle=longest_idle,
            target=local(target),
            limit=_spoken(limit),
            running=_spoken(error.facts.get("running", limit)),
        )

    def refused(self, error: OrchestratorError, *, target: str, dev: bool = False) -> Response:
        """Any other no of the orchestrator. `dev` shows its facts `detail` and `traceback`, where there are."""
        headers = {"X-Htagweb": error.reason}
        retry_s = RETRY_AFTER_S.get(error.reason)
        if retry_s is not None:
            headers["Retry-After"] = str(retry_s)
        return self._page(
            "refused.html",
            error.status,
            headers,
            title=_REFUSALS.get(error.reason, "That did not work"),
            text=str(error) if dev or error.reason not in _OPERATORS_OWN else _OWN_PROBLEM,
            error_id=error.facts.get("error_id", ""),
            details=[error.facts[key] for key in ("detail", "traceback") if dev and error.facts.get(key)],
            target=local(target),
            refresh_s=retry_s if error.reason == "preparing" else None,  # it may take minutes, and nobody is in a line
            again=retry_s is not None or error.reason == "failed",
        )

    def enter(self, next: str) -> Response:
        """The cookie did not come back, as in another site's frame: one link opens the app in a tab of its own."""
        return self._page("enter.html", 200, target=local(next), frame_ancestors="*")

    def login(
        self,
        target: str,
        *,
        name: str = "",
        error: str = "",
        status: int = 200,
        retry_s: str | None = None,
        insecure: bool = False,
    ) -> Response:
        """Name and password, and what was wrong with the last ones. `retry_s` is how long to wait before the next.
        `insecure` warns that they travel in the clear."""
        headers = {"X-Htagweb": "sign-in", **({"Retry-After": retry_s} if retry_s else {})}
        return self._page(
            "login.html", status, headers, target=local(target), name=name, error=error, insecure=insecure
        )

    def logout(self, person: Person) -> Response:
        """Who is signed in, and the buttons to end that."""
        return self._page("logout.html", 200, person=person)

    def link(self, token: str, target: str) -> Response:
        """An operator's one-time link was opened; a click uses it."""
        return self._page("link.html", 200, {"X-Htagweb": "sign-in"}, token=token, target=local(target))

    def admin(
        self,
        sandboxes: Sequence[Mapping[str, Any]],
        apps: Sequence[Mapping[str, Any]],
        users: Sequence[Mapping[str, Any]],
        entries: Sequence[Mapping[str, Any]],
        *,
        most: int,
        draining: bool = False,
        unused: Sequence[str] = (),
    ) -> Response:
        """The operators' page, of rows that docs/operators.md describes. `most` of each kind are shown. `unused` says
        why something of the configuration doesn't count."""
        return self._page(
            "admin.html",
            200,
            sandboxes=sandboxes,
            apps=apps,
            users=users,
            entries=entries,
            draining=draining,
            unused=unused,
            most=most,
        )

    def logs(self, ident: str, text: str) -> Response:
        return self._page("logs.html", 200, ident=ident, text=text)

    def sign_in_failed(self, text: str, *, target: str, status: int) -> Response:
        headers = {"X-Htagweb": "sign-in", **({"Retry-After": "10"} if status == 503 else {})}
        return self._page("sign_in_failed.html", status, headers, text=text, target=local(target))

    def signed_out(self, *, told: bool, elsewhere: str = "") -> Response:
        """Where that is not all: the orchestrator wasn't `told`, or there is `elsewhere` to sign out of, too, whose
        address is "?" where nobody answers there."""
        status, headers = (200, {}) if told else (503, {"Retry-After": "10"})
        return self._page("signed_out.html", status, headers, told=told, elsewhere=elsewhere)

    def almost(self) -> Response:
        """Nothing is known yet: the gateway has just come up. The page tries again by itself."""
        page = self.error(503, "Almost there", "The server is starting. Try again in a moment.")
        page.headers["Retry-After"] = page.headers["Refresh"] = "1"
        return page

    def not_found(self, path: str, *, sign_in: str = "") -> Response:
        """Unknown, or not for this visitor: that is not told. `sign_in` is where an anonymous one may find out."""
        return self._page("not_found.html", 404, {"X-Htagweb": "not-found"}, path=path, sign_in=sign_in)

    def bad_request(self, text: str) -> Response:
        return self.error(400, "That request can't be right", text)

    def forbidden(self, text: str, key: str, status: int = 403) -> Response:
        """403 or 421, for an operator to mend: `key` is the setting that would allow it."""
        return self._page("forbidden.html", status, {"X-Htagweb": "forbidden"}, text=text, key=key)

    def error(self, status: int, title: str, text: str) -> Response:
        return self._page("error.html", status, title=title, text=text)

    def _page(
        self,
        template: str,
        status: int,
        headers: dict[str, str] | None = None,
        *,
        frame_ancestors: str = "'none'",
        **facts: object,
    ) -> Response:
        facts = {"warnings": self.warnings, "portal": self.portal, **facts}
        body = self._templates.get_template(template).render(facts)
        if template in _IN_FRAMES and self.frame_ancestors:
            frame_ancestors = self.frame_ancestors
        policy = _CSP.replace("form-action 'self'", f"form-action 'self' {self.apps_origin}".rstrip())
        return HTMLResponse(
            body,
            status,
            {
                "Content-Security-Policy": policy + frame_ancestors,
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "same-origin",
                "Cross-Origin-Opener-Policy": "same-origin",
                **(headers or {}),
            },
        )


def _spoken(count: str) -> str:
    return _NUMBERS[int(count)] if count.isdecimal() and int(count) < len(_NUMBERS) else count


# What may stand where an app would; the platform's own pages are framed by nobody.
_IN_FRAMES = frozenset({"waiting.html", "ended.html", "limit.html", "refused.html", "error.html"})
_REFUSALS = {
    "unknown-app": "There is no such app",
    "broken-app": "This app is out of order",
    "preparing": "This app is being prepared",
    "full": "Every place is taken",
    "rate-limit": "That was a lot at once",
    "failed": "This app could not start",
    "start-timeout": "This app took too long to start",
    "no-image": "This server isn't set up completely",
    "engine": "No new apps can start right now",
    "isolation": "This app was not started",
    "draining": "No new apps can start right now",
    "orchestrator": "No new apps can start right now",
}
# What these errors say is for whoever runs the server, and he has it in the log.
_OPERATORS_OWN = {"no-image", "engine", "isolation", "internal"}
_OWN_PROBLEM = "The server has a problem of its own, and whoever runs it finds the reason in its log. Try again later."
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def _asset(file: Path) -> tuple[bytes, str, str]:
    body = file.read_bytes()
    return body, _MEDIA_TYPES[file.suffix], f'"{sha256(body).hexdigest()[:16]}"'
