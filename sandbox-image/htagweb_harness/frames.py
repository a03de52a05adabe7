"""Frames of the control protocol: a 4-byte big-endian length, then JSON, or a file's bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

PROTOCOL = 1
MAX_JSON_IN = 4 * 1024 * 1024
MAX_JSON_OUT = 256 * 1024
MAX_FILE = 16 * 1024 * 1024


class BadFrame(ValueError):
    """The peer broke the protocol; the connection is of no more use."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One JSON frame. Raises BadFrame where the orchestrator would refuse it for its size.

    Half a surrogate pair, which browsers make of an emoji that is cut in two, becomes a question mark: Python's JSON
    can say it, others refuse the whole frame.
    """
    payload = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    if len(payload) > MAX_JSON_OUT:
        raise BadFrame(f"a {message.get('type')} frame of {len(payload)} bytes")
    return len(payload).to_bytes(4, "big") + payload


def decode(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload)
    except ValueError as error:
        raise BadFrame(f"not JSON: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadFrame("not an object with a type")
    return message


class Inbox:
    """Cuts what arrives into frames. `binary` is how many files are still to come: the caller counts them."""

    def __init__(self) -> None:
        self.binary = 0
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields each payload that is complete. Look at `binary` before treating one: it decides what the next is."""
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > (MAX_FILE if self.binary else MAX_JSON_IN):
                raise BadFrame(f"a frame of {size} bytes")
            if len(self._buffer) < 4 + size:
                return
            payload = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            yield payload
