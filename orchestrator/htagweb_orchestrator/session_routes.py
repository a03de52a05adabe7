"""What hangs below the gateway's verb `session`, over its socket."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .model import AppName, Person, Struct, UserId
from .visitors import Visitors
from .wire import json_answer, read_body


class SessionRequest(Struct, frozen=True):
    user: UserId
    app: AppName


class PatchRequest(Struct, frozen=True):
    user: UserId
    app: AppName
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    delete: list[str] = msgspec.field(name="del", default_factory=list)


class Asking(Struct, frozen=True, kw_only=True):
    """Who asks to be signed in, as far as the gateway knows."""

    client: str = ""
    sid: str = ""
    visitor: UserId | None = None


class SignInRequest(Asking, frozen=True, kw_only=True):
    name: str
    password: str


class AdmitRequest(Asking, frozen=True, kw_only=True):
    person: Person
    method: str


class RedeemRequest(Asking, frozen=True, kw_only=True):
    token: str


class SpendRequest(Struct, frozen=True):
    mark: str
    life_s: float


class SignOutRequest(Struct, frozen=True):
    sid: str
    everywhere: bool = False


def session_routes(visitors: Visitors, operators: ASGIApp) -> list[BaseRoute]:
    """`operators` is the operators' API, which answers here whoever shows an operator's token."""

    async def get(request: Request) -> Response:
        asked = await read_body(request, SessionRequest)
        return json_answer(await visitors.session(asked.user, asked.app))

    async def patch(request: Request) -> Response:
        asked = await read_body(request, PatchRequest)
        await visitors.patch_session(asked.user, asked.app, asked.set, asked.delete)
        return Response(status_code=204)

    async def sign_in(request: Request) -> Response:
        asked = await read_body(request, SignInRequest)
        return json_answer(
            await visitors.sign_in(
                asked.name, asked.password, client=asked.client, sid=asked.sid, visitor=asked.visitor
            )
        )

    async def admit(request: Request) -> Response:
        asked = await read_body(request, AdmitRequest)
        return json_answer(
            await visitors.admit(asked.person, asked.method, client=asked.client, sid=asked.sid, visitor=asked.visitor)
        )

    async def redeem(request: Request) -> Response:
        asked = await read_body(request, RedeemRequest)
        return json_answer(
            await visitors.redeem(asked.token, client=asked.client, sid=asked.sid, visitor=asked.visitor)
        )

    async def spend(request: Request) -> Response:
        asked = await read_body(request, SpendRequest)
        return json_answer(await visitors.spend(asked.mark, asked.life_s))

    async def sign_out(request: Request) -> Response:
        asked = await read_body(request, SignOutRequest)
        await visitors.sign_out(asked.sid, everywhere=asked.everywhere)
        return Response(status_code=204)

    async def operate(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Request(scope).headers
        client = headers.get("x-htagweb-client", "")
        operator = await visitors.operator(headers.get("authorization", "").removeprefix("Bearer "), client)
        # A copy without the token: nothing behind this needs it.
        kept = [(key, value) for key, value in scope["headers"] if key != b"authorization"]
        await operators({**scope, "headers": kept, "operator": operator, "operator_client": client}, receive, send)

    posted = {
        "get": get,
        "patch": patch,
        "sign-in": sign_in,
        "admit": admit,
        "redeem": redeem,
        "spend": spend,
        "sign-out": sign_out,
    }
    return [
        *(HttpRoute(f"/v1/session/{verb}", endpoint, methods=["POST"]) for verb, endpoint in posted.items()),
        Mount("/v1/session/operate", operate),
    ]
