"""Two connections whose bytes go to each other: back-pressure, and the many ways in which a WebSocket ends."""

from __future__ import annotations

import asyncio
from typing import Protocol

from .exchange import LOOK_S
from .frames import BAD_GATEWAY, GOING_AWAY, PING, Frames, close_frame

GOODBYE_S = 1.0  # for either side to come to a frame's end and to take the close frame, before the connection is cut
FLUSH_S = 10.0  # for a slow visitor to take what the sandbox said before it left
CLOSING_S = 10.0  # from the first close frame on, for the two ends to be done with each other
BUFFERED_BYTES = 64 * 1024  # per direction; above it whoever sends isn't read


class Door(Protocol):
    """What is needed of the ASGI server's part in the browser's connection."""

    ping_interval: float | None
    ping_timeout: float | None

    def gone(self) -> bool:
        """Whether the browser has left, where only the kernel knows."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """To be called once the browser's connection is lost."""
        ...


class Splice:
    """`start` it when both handshakes are over; `over` is set when both connections are lost."""

    def __init__(self, door: Door, *, browser: Frames, sandbox: Frames) -> None:
        self._loop = asyncio.get_running_loop()
        self._door = door
        self._browser = Side(self, browser)
        self._sandbox = Side(self, sandbox)
        self._browser.peer, self._sandbox.peer = self._sandbox, self._browser
        self._ended = False
        self._pinged = False
        self._closing: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._mind: asyncio.TimerHandle | None = None
        self.over: asyncio.Future[None] = self._loop.create_future()

    def start(self, browser: asyncio.Transport, sandbox: asyncio.Transport, rest: bytes) -> None:
        """Take the connections over. `rest` is what the sandbox said already."""
        for side, transport in ((self._browser, browser), (self._sandbox, sandbox)):
            side.transport = transport
            transport.set_write_buffer_limits(high=BUFFERED_BYTES)
            transport.set_protocol(side)
        if self._door.ping_interval:
            self._mind = self._loop.call_later(self._door.ping_interval, self._mind_browser)
        if rest:
            self._sandbox.data_received(rest)
        if not sandbox.is_closing():
            sandbox.resume_reading()

    def end(self, code: int, reason: str = "", *, patient: bool = False) -> None:
        """Say goodbye to both sides, each at its next frame's end, and close. `patient`: with a slow browser."""
        if self._ended:
            return
        self._ended = True
        for timer in (self._closing, self._look, self._mind):
            if timer is not None:
                timer.cancel()
        for side in (self._browser, self._sandbox):
            side.frames.mute()
        self._browser.leave(close_frame(code, reason, masked=False), patient=patient)
        self._sandbox.leave(close_frame(code, reason, masked=True), patient=False)

    def abort(self) -> None:
        for side in (self._browser, self._sandbox):
            if not side.lost:
                side.transport.abort()

    # What the sides call

    def news(self, side: Side) -> None:
        """Something was said that ends the conversation, or after its end."""
        if not self._ended:
            if side.frames.violation is not None:
                self.end(*side.frames.violation)
            elif side.frames.closed and side.peer.frames.closed:
                self.end(GOING_AWAY)
            elif self._closing is None:
                self._closing = self._loop.call_later(CLOSING_S, self.end, GOING_AWAY)
        if self._ended:
            self._browser.part()
            self._sandbox.part()

    def lost(self, side: Side, exc: Exception | None) -> None:
        if side is self._browser:
            self._door.connection_lost(exc)
            self.end(GOING_AWAY)
        else:
            self.end(BAD_GATEWAY, "the app went away", patient=True)
        if not side.peer.lost:
            self.release(side.peer)
            side.peer.part()
        elif not self.over.done():
            self.over.set_result(None)

    def hold(self, side: Side) -> None:
        """Don't read it for now, since its peer can't take more."""
        if side.transport.is_closing() or (self._ended and side.frames.between):
            return
        side.held = True
        side.transport.pause_reading()
        if side is self._browser and not self._ended:
            self._look_after_browser()

    def release(self, side: Side) -> None:
        if side.held and not side.transport.is_closing():
            side.transport.resume_reading()
        side.held = False
        if side is self._browser and self._look is not None:
            self._look.cancel()
            self._look = None

    # Whether the browser is still there

    def _look_after_browser(self) -> None:
        """While it isn't read, its leaving isn't heard."""
        if self._door.gone():
            self._browser.transport.abort()
        else:
            self._look = self._loop.call_later(LOOK_S, self._look_after_browser)

    def _mind_browser(self) -> None:
        """Ping it when it was silent; give it up when it stays so.

        Its pong goes to the sandbox, like all that it says. Nobody minds one that wasn't asked for (RFC 6455 5.5.3).
        """
        browser, delay_s = self._browser, self._door.ping_interval
        assert delay_s is not None
        if browser.heard or browser.held:
            browser.heard = self._pinged = False
        elif self._pinged:
            browser.transport.abort()
            return
        elif self._sandbox.frames.between and not browser.transport.get_write_buffer_size():
            # Behind a full buffer, a ping would come late. Then it is for the kernel to notice who takes nothing.
            browser.transport.write(PING)
            if self._door.ping_timeout is not None:
                self._pinged = True
                delay_s = self._door.ping_timeout
        self._mind = self._loop.call_later(delay_s, self._mind_browser)


class Side(asyncio.Protocol):
    """One connection. `frames` follows what this side says; `peer` is told it."""

    peer: Side
    transport: asyncio.Transport

    def __init__(self, splice: Splice, frames: Frames) -> None:
        self._splice = splice
        self.frames = frames
        self.heard = self.held = self.lost = False
        self._goodbye: bytes | None = None  # what is still to be said to this side
        self._timer: asyncio.TimerHandle | None = None

    # What asyncio calls

    def data_received(self, data: bytes) -> None:
        self.heard = True
        frames = self.frames
        data = frames.feed(data)
        if data:
            transport = self.peer.transport
            if not transport.is_closing():
                transport.write(data)
        if frames.ending:
            self._splice.news(self)

    def eof_received(self) -> None:
        # At once, not after what is left to write: who says no more may not read any more either.
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._splice.lost(self, exc)

    def pause_writing(self) -> None:
        self._splice.hold(self.peer)

    def resume_writing(self) -> None:
        self._splice.release(self.peer)

    # What the splice calls

    def leave(self, goodbye: bytes, *, patient: bool) -> None:
        """Begin to close: say goodbye, unless the peer itself has, and wait for the answer, for a while."""
        if self.lost:
            return
        self._goodbye = b"" if self.peer.frames.closed else goodbye
        self._timer = asyncio.get_running_loop().call_later(GOODBYE_S, self._give_up, patient)
        if self.frames.between:
            self._splice.release(self)
        self.part()

    def part(self) -> None:
        """Go on with closing, as far as that is possible by now."""
        if self.transport.is_closing():
            return
        if self._goodbye is not None:
            if not self.peer.frames.between:
                if self.peer.lost:
                    self.transport.abort()  # a close frame within a frame would be taken for its payload
                return
            self.transport.write(self._goodbye)
            self._goodbye = None
            if self.transport.can_write_eof():
                try:
                    self.transport.write_eof()
                except OSError:  # whoever it is has gone already, which asyncio doesn't see to itself
                    self.transport.abort()
                    return
        if self.frames.closed:
            self.transport.close()

    def _give_up(self, patient: bool) -> None:
        if patient and self._goodbye is None and self.transport.get_write_buffer_size():
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.transport.abort)
        else:
            self.transport.abort()
