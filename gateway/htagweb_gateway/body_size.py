"""How much one request's body may bring, where an operator bounds that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .upstream_errors import TooLarge

Receive = Callable[[], Awaitable[Any]]


def announced(scope: dict[str, Any]) -> int | None:
    """The body's length, as the head says; None where only its end will tell."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return None


def bounded(receive: Receive, most: int, refusal: Exception | None = None) -> Receive:
    """`receive`, but raising `refusal`, else TooLarge, instead of a piece that would make it more than `most` bytes."""
    received = 0

    async def counting() -> Any:
        nonlocal received
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > most:
                raise refusal or TooLarge(f"a body of more than {most} bytes")
        return message

    return counting
