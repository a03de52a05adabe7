"""Where the time of a start went, on the first page that it leads to: `Server-Timing`, which browsers show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .exchange import Send


def timed(send: Send, steps_ms: Mapping[str, float]) -> Send:
    """`send`, with the steps of a start among the answer's headers."""
    value = ", ".join(f"{step};dur={took:.1f}" for step, took in steps_ms.items()).encode("ascii")

    async def send_timed(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"server-timing", value)]}
        await send(message)

    return send_timed
