"""WebSocket frames as seen from outside: where each one ends, and whether it may be one. Payloads are never looked at.

RFC 6455 5.2: a header has 2 to 14 bytes, and may come split anywhere. No I/O.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

GOING_AWAY, PROTOCOL_ERROR, POLICY, TOO_BIG, BAD_GATEWAY = 1001, 1002, 1008, 1009, 1014
REASON_BYTES = 123
PING = b"\x89\x00"

_FIN = _MASK = 0x80
_RESERVED = 0x70
_CONTROL = 0x08  # the bit of an opcode that control frames have
_CONTINUATION, _CLOSE = 0x0, 0x8
_OPCODES = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
_CONTROL_BYTES = 125
_PIECE_BYTES = 4096  # browsers send a long message in pieces; from this size on they are no messages of their own


class Violation(NamedTuple):
    """Why a side may not go on, as a close code and reason."""

    code: int
    reason: str


class Rate:
    """So many a second in the long run, and twice as many at once."""

    __slots__ = ("_clock", "_depth_s", "_full_at", "_step_s")

    def __init__(
        self,
        per_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._step_s = 1 / per_s
        self._depth_s = 2 + 0.5 / per_s
        self._full_at = clock()  # when all that was spent will have come back

    def spend(self) -> bool:
        """Take one; False if there is none."""
        now = self._clock()
        full_at = (self._full_at if self._full_at > now else now) + self._step_s
        if full_at - now > self._depth_s:
            return False
        self._full_at = full_at
        return True


class Frames:
    """What one side says. Feed it; what `feed` returns may be passed on.

    A header is kept back until it is whole and allowed. So a violation is found before any byte of its frame was passed
    on: what was ends with a frame's end, and a close frame of ours may follow.

    `masked`: this side is a client. `extended`: an extension was agreed on, and gives the reserved bits a meaning.
    `message_size` bounds a message's payload, all its frames together, as sent (compressed, where it is). `on_data` is
    called for each data frame, when it begins; `rate` counts frames of all kinds, but no large pieces of a message.
    """

    __slots__ = (
        "_broken",
        "_closing",
        "_extended",
        "_kept",
        "_key_bytes",
        "_left",
        "_mask",
        "_message",
        "_message_size",
        "_muted_in",
        "_on_data",
        "_open",
        "_rate",
        "ending",
        "violation",
    )

    def __init__(
        self,
        *,
        masked: bool,
        message_size: int,
        extended: bool = False,
        rate: Rate | None = None,
        on_data: Callable[[], None] | None = None,
    ) -> None:
        self._mask = _MASK if masked else 0
        self._key_bytes = 4 if masked else 0
        self._message_size = message_size
        self._extended = extended
        self._rate = rate
        self._on_data = on_data
        self._kept = b""  # of a header that isn't whole
        self._left = 0  # bytes until the current frame's end
        self._message = 0  # bytes of the current message so far
        self._open = False  # between two frames of a message
        self._closing = False  # the current frame, or the last one, is a close frame
        self._broken = False
        self._muted_in: int | None = None  # bytes that may still be passed on, where not all may
        self.violation: Violation | None = None
        self.ending = False  # muted, or at a violation, or at the close frame: worth a look after each piece

    @property
    def closed(self) -> bool:
        """A whole close frame has come; what follows it is dropped."""
        return self._closing and not self._left

    @property
    def between(self) -> bool:
        """Whether what was passed on ends with a frame's end, so that another frame may follow."""
        return not (self._left if self._muted_in is None else self._muted_in)

    def mute(self) -> None:
        """From now on pass on the rest of the current frame only. The close frame is still watched for."""
        if self._muted_in is None:
            self._muted_in = self._left
            self.ending = True

    def feed(self, data: bytes) -> bytes:
        if self._broken:
            return b""
        if self._kept:
            data, self._kept = self._kept + data, b""
        size = len(data)
        limit = size if self._muted_in is None else min(size, self._muted_in)
        at = self._left
        while at < size:
            start, at = at, 0 if self._closing else self._frame(data, at)
            if not at:  # after the close frame, or a header that isn't whole, or one that breaks the rules
                if not (self._closing or self._broken):
                    self._kept = data[start:]
                limit, at = min(limit, start), start
                size = start
                break
            if self.violation is not None and self._muted_in is None:
                limit = self._muted_in = start
        self._left = at - size
        if self._muted_in is not None:
            self._muted_in -= limit
        return data if limit == len(data) else data[:limit]

    def _frame(self, data: bytes, at: int) -> int:
        """Where the frame that begins here ends; 0 if its header isn't whole or it is no frame."""
        there = len(data) - at
        if there < 2:
            return 0
        first, second = data[at], data[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        if (
            second & _MASK != self._mask
            or opcode not in _OPCODES
            or (first & _RESERVED and not self._extended)
            or (
                opcode & _CONTROL
                and (not first & _FIN or length > _CONTROL_BYTES or (opcode == _CLOSE and length == 1))
            )
            or (not opcode & _CONTROL and self._open == (opcode != _CONTINUATION))
        ):
            return self._break()
        head = 2 + self._key_bytes
        if length > 125:
            wide = 2 if length == 126 else 8
            head += wide
            if there < head:
                return 0
            length = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
            if length < (126 if wide == 2 else 1 << 16) or length >> 63:
                return self._break()
        elif there < head:
            return 0
        self._account(first, opcode, length)
        return at + head + length

    def _account(self, first: int, opcode: int, length: int) -> None:
        if opcode & _CONTROL:
            if opcode == _CLOSE:
                self._closing = self.ending = True
        else:
            self._message = length + (self._message if self._open else 0)
            self._open = not first & _FIN
        if self._muted_in is not None or self.violation is not None:
            return
        piece = opcode == _CONTINUATION and length >= _PIECE_BYTES  # `message_size` bounds these
        if self._rate is not None and not piece and not self._rate.spend():
            self._violate(POLICY, "too many messages")
        elif opcode & _CONTROL:
            return
        elif self._message > self._message_size:
            self._violate(TOO_BIG, "message too big")
        elif self._on_data is not None:
            self._on_data()

    def _break(self) -> int:
        """What follows can't be made sense of any more."""
        self._broken = True
        if self.violation is None:
            self._violate(PROTOCOL_ERROR, "this is no WebSocket frame")
        return 0

    def _violate(self, code: int, reason: str) -> None:
        self.violation = Violation(code, reason)
        self.ending = True


def close_frame(code: int, reason: str = "", *, masked: bool) -> bytes:
    """A reason that is too long is cut, at a character's end."""
    payload = code.to_bytes(2, "big") + reason.encode()[:REASON_BYTES].decode(errors="ignore").encode()
    if not masked:
        return bytes((_FIN | _CLOSE, len(payload))) + payload
    key = os.urandom(4)
    return bytes((_FIN | _CLOSE, _MASK | len(payload))) + key + bytes(b ^ key[i % 4] for i, b in enumerate(payload))
