"""What operators reach through the gateway: their page, /-/admin, and their API below /-/api/v1/.

The gateway has no right of its own here. It hands on the token that the operator's browser or program sends, and the
orchestrator, which made it, decides about every single call.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from htagweb_orchestrator.api import SessionVerbs
from htagweb_orchestrator.errors import NotAnOperator, OrchestratorError
from htagweb_orchestrator.model import PROGRAM, OperatorAnswer

from .edge import Edge
from .forms import FormRefused, read_body, read_form
from .identity import OPERATOR, find_cookie
from .navigation import navigation
from .problems import login_url, problem, problem_of_error

if TYPE_CHECKING:
    from .app import Gateway

API, PAGE = "/-/api/v1/", "/-/admin"
MAX_CALL = 1024 * 1024  # bytes of a call's body
SHOWN = 200  # sandboxes, and people, that the page lists
ENTRIES = 20  # of the audit log
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class OperatorSite:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, request: Request, edge: Edge, path: str) -> Response:
        visitors = self._gateway.visitors
        if visitors is None:
            return self._gateway.pages.not_found(path)
        if path.startswith(API):
            return await self._call(request, edge, path, visitors)
        match request.method:
            case "GET" | "HEAD":
                return await self._page(request, edge, visitors)
            case "POST":
                return await self._act(request, edge, visitors)
        return problem(405, "method", f"{request.method} is not possible here.")

    # -- for programs --------------------------------------------------------------------------------------------

    async def _call(self, request: Request, edge: Edge, path: str, visitors: SessionVerbs) -> Response:
        """No cookie counts here, so no page of another site can make a browser call."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise NotAnOperator("This needs an operator's token: Authorization: Bearer …")
            token = token.strip()
            answer = await visitors.operate(
                token if token.startswith(PROGRAM) else "",  # a browser's counts on the page, while he is signed in
                "GET" if request.method == "HEAD" else request.method,
                "/v1/" + path.removeprefix(API),
                query=request.scope["query_string"].decode("latin-1"),
                body=await read_body(request, MAX_CALL),
                client=edge.own_client,
            )
        except FormRefused as refused:
            return refused.answer
        except NotAnOperator as error:
            refusal = problem_of_error(error)
            refusal.headers["WWW-Authenticate"] = "Bearer"
            return refusal
        except OrchestratorError as error:
            return problem_of_error(error)
        return Response(answer.body, answer.status, {**_NO_STORE, "Content-Type": answer.media_type})

    # -- for people ----------------------------------------------------------------------------------------------

    async def _page(self, request: Request, edge: Edge, visitors: SessionVerbs) -> Response:
        pages = self._gateway.pages
        if not navigation(request.scope):
            return problem(404, "not-found", "There is nothing here.")
        paths = (
            "/v1/sandboxes",
            "/v1/apps",
            "/v1/users",
            f"/v1/audit?most={ENTRIES}",
            "/v1/drain",
            "/v1/configuration",
        )
        try:
            answers = await asyncio.gather(*(self._ask(request, edge, visitors, "GET", path) for path in paths))
        except NotAnOperator:
            return self._stranger(request, edge)
        except OrchestratorError as error:
            return pages.refused(error, target=PAGE)
        if ident := request.query_params.get("logs"):
            return await self._text(request, edge, visitors, ident, f"/v1/logs/{quote(ident, safe='')}")
        if name := request.query_params.get("build"):
            return await self._text(request, edge, visitors, name, f"/v1/apps/{quote(name, safe='')}/log")
        *listed, drain, configuration = answers
        sandboxes, apps, users, entries = map(_rows, listed)
        draining = drain.status == 200 and msgspec.json.decode(drain.body, type=dict[str, Any])["draining"]
        unused = msgspec.json.decode(configuration.body, type=list[str]) if configuration.status == 200 else []
        return pages.admin(sandboxes, apps, users, entries, most=SHOWN, draining=draining, unused=unused)

    async def _text(self, request: Request, edge: Edge, visitors: SessionVerbs, ident: str, path: str) -> Response:
        """What an app wrote, or what was said while its packages were installed."""
        answer = await self._ask(request, edge, visitors, "GET", path)
        if answer.status != 200:
            return self._gateway.pages.not_found(PAGE)
        return self._gateway.pages.logs(ident, answer.body.decode("utf-8", "replace"))

    def _stranger(self, request: Request, edge: Edge) -> Response:
        """Somebody without an operator's token: he may sign in, if he hasn't."""
        visitor = self._gateway.identify(dict(request.scope), edge)
        if self._gateway.offers_sign_in and (visitor is None or visitor.sign_in is None):
            return RedirectResponse(login_url(PAGE), 303, headers=_NO_STORE)
        return self._gateway.pages.not_found(PAGE)

    async def _act(self, request: Request, edge: Edge, visitors: SessionVerbs) -> Response:
        """A button of the page."""
        pages = self._gateway.pages
        if (foreign := self._gateway.foreign(dict(request.scope), edge)) is not None:
            return pages.forbidden(foreign.message, "public_url")
        try:
            form = await read_form(request)
            if sandbox := form.get("end"):
                call, body = "/v1/reap", msgspec.json.encode({"ids": [sandbox]})
            elif app := form.get("build"):
                call, body = f"/v1/apps/{quote(app, safe='')}/build", b""
            elif form.get("drain") == "off":
                call, body = "/v1/drain", msgspec.json.encode({"on": False})
            elif name := form.get("sign_out"):
                call, body = f"/v1/users/{quote(name, safe='')}/sign-out", b""
            else:
                return problem(400, "bad-request", "This form has no button that is known.")
            answer = await self._ask(request, edge, visitors, "POST", call, body)
        except FormRefused as refused:
            return refused.answer
        except NotAnOperator:
            return self._stranger(request, edge)
        except OrchestratorError as error:
            return pages.refused(error, target=PAGE)
        if answer.status >= 500:
            return pages.error(answer.status, "That did not work", "The server's log says why.")
        return RedirectResponse(PAGE, 303, headers=_NO_STORE)  # what was gone already is gone

    async def _ask(
        self, request: Request, edge: Edge, visitors: SessionVerbs, method: str, path: str, body: bytes = b""
    ) -> OperatorAnswer:
        visitor = self._gateway.identify(dict(request.scope), edge)
        token = ""
        if visitor is not None and visitor.sign_in is not None:  # whom a proxy names no more has his cookies still
            token = find_cookie(request.scope["headers"], OPERATOR[edge.scheme])
        path, _, query = path.partition("?")
        return await visitors.operate(token, method, path, query=query, body=body, client=edge.own_client)


def _rows(answer: OperatorAnswer) -> list[dict[str, Any]]:
    return msgspec.json.decode(answer.body, type=list[dict[str, Any]]) if answer.status == 200 else []
