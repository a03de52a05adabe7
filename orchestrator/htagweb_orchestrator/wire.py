"""What the routes of both sockets share: bodies in, JSON and problems out."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .errors import OrchestratorError

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BODY = 8 * 1024 * 1024


def application(routes: Sequence[BaseRoute]) -> Starlette:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, OrchestratorError)
        return Response(msgspec.json.encode(error.problem()), error.status, media_type="application/problem+json")

    async def misunderstood(request: Request, error: Exception) -> Response:
        return problem_answer(400, "bad-request", str(error))

    async def not_stored(request: Request, error: Exception) -> Response:
        log.error("the store can't be used: %s", error)
        return problem_answer(503, "store", f"The orchestrator's store can't be used: {error}. Nothing was changed.")

    handlers = {OrchestratorError: refused, msgspec.MsgspecError: misunderstood, sqlite3.Error: not_stored}
    return Starlette(routes=routes, exception_handlers=handlers)


async def read_body(request: Request, kind: type[T]) -> T:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise msgspec.ValidationError("the request is too large")
    try:
        return msgspec.json.decode(body, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def json_answer(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def problem_answer(status: int, reason: str, title: str) -> Response:
    problem = {"type": "about:blank", "status": status, "reason": reason, "title": title}
    return Response(msgspec.json.encode(problem), status, media_type="application/problem+json")
