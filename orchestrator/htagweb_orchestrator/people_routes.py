"""The operators' verbs about people, over HTTP; docs/operators.md lists the fields."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import BadRequest
from .people import AccountChange, NewAccount, NewToken, People
from .wire import json_answer, read_body

MOST_ENTRIES = 10_000


def people_routes(people: People) -> list[BaseRoute]:
    async def users(request: Request) -> Response:
        return json_answer(await people.users())

    async def add(request: Request) -> Response:
        new = await read_body(request, NewAccount)
        request.state.about = new.name
        return json_answer({"note": await people.add(new)})

    async def change(request: Request) -> Response:
        await people.change(request.path_params["name"], await read_body(request, AccountChange))
        return Response(status_code=204)

    async def remove(request: Request) -> Response:
        await people.remove(request.path_params["name"])
        return Response(status_code=204)

    async def sign_out(request: Request) -> Response:
        await people.sign_out(request.path_params["name"])
        return Response(status_code=204)

    async def tokens(request: Request) -> Response:
        return json_answer(people.tokens())

    async def create_token(request: Request) -> Response:
        new = await read_body(request, NewToken)
        request.state.about = new.label
        return json_answer(await people.create_token(new))

    async def revoke_token(request: Request) -> Response:
        await people.revoke_token(request.path_params["prefix"])
        return Response(status_code=204)

    async def link(request: Request) -> Response:
        return json_answer(await people.link())

    async def audit(request: Request) -> Response:
        asked = request.query_params
        try:
            within_s = float(asked["within_s"]) if "within_s" in asked else None
            most = min(max(int(asked.get("most", "100")), 1), MOST_ENTRIES)
        except ValueError as error:
            raise BadRequest(f"within_s and most are numbers: {error}") from error
        return json_answer(
            await people.audit(who=asked.get("who", ""), event=asked.get("event", ""), within_s=within_s, most=most)
        )

    return [
        HttpRoute("/v1/users", users, methods=["GET"]),
        HttpRoute("/v1/users", add, methods=["POST"]),
        HttpRoute("/v1/users/{name:path}", change, methods=["PATCH"]),
        HttpRoute("/v1/users/{name:path}", remove, methods=["DELETE"]),
        HttpRoute("/v1/users/{name:path}/sign-out", sign_out, methods=["POST"]),
        HttpRoute("/v1/tokens", tokens, methods=["GET"]),
        HttpRoute("/v1/tokens", create_token, methods=["POST"]),
        HttpRoute("/v1/tokens/{prefix:path}", revoke_token, methods=["DELETE"]),
        HttpRoute("/v1/link", link, methods=["POST"]),
        HttpRoute("/v1/audit", audit, methods=["GET"]),
    ]


class Audited:
    """The operators' API, with each call that may change something in the audit log, whatever came of it.

    `scope["operator"]` is who calls: absent on the operators' own socket, where it is whoever may open that.
    """

    def __init__(self, api: ASGIApp, people: People) -> None:
        self._api = api
        self._people = people

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._api(scope, receive, send)
            return
        scope = {**scope, "state": {}}
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._api(scope, receive, noting)
        finally:
            self._people.operated(
                scope.get("operator", "command"),
                f"{scope['method']} {scope['path'].removeprefix(scope.get('root_path', ''))}",
                status,
                about=scope["state"].get("about", ""),
                client=scope.get("operator_client", ""),
            )
