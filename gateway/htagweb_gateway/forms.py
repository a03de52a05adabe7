"""What a form of a page of ours posts."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response

from .problems import problem

MAX_FORM, FORM_S = 16 * 1024, 10.0


class FormRefused(Exception):
    def __init__(self, answer: Response) -> None:
        self.answer = answer


async def read_form(request: Request) -> dict[str, str]:
    """Its fields, the first value of each. Raises FormRefused for one that is too long or too slow."""
    body = await read_body(request, MAX_FORM)
    return {key: values[0] for key, values in parse_qs(body.decode("utf-8", "replace")).items()}


async def read_body(request: Request, most: int) -> bytes:
    """At most so many bytes of it, or FormRefused."""
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise FormRefused(problem(413, "too-large", "That is too large."))
    except TimeoutError:
        raise FormRefused(problem(408, "too-slow", "That did not arrive in time.")) from None
    return bytes(body)
