"""One HTTP/1.1 connection to a sandbox, one exchange at a time, with back-pressure both ways.

A connection on which the sandbox said one byte more than its answer is never used again: that byte would be the start
of the next answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from .alarm import Alarm
from .answer import Answer, Head
from .headers import RawHeaders
from .upstream_errors import BadResponse, Dropped, HeadTimeout, UpstreamError

BUFFERED_BYTES = 64 * 1024  # per direction; above it whoever sends has to wait
# Asked of the kernel, which makes it twice that (less where net.core.wmem_max is lower): room for some of what the
# event loop reads at once, 256 KB. By default a Unix socket takes not even one, so that each piece of an upload would
# need two more calls, and a turn of the loop between them.
KERNEL_BYTES = 416 * 1024


class Connection(asyncio.Protocol):
    """`begin`, `write` a body, `head`, `body` until there is no more; then `finish`, or `abort` at any time."""

    def __init__(self, sock: socket.socket, on_lost: Callable[[Connection], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None  # None between two exchanges
        self._error: UpstreamError | None = None
        self._paused = False
        self.on_news: Callable[[], None] | None = None  # is told of the answer, where nobody waits for it
        self._reader: asyncio.Future[None] | None = None  # waits for news of the answer
        self._drained: asyncio.Future[None] | None = None  # None while there is room to write
        self._head_alarm = Alarm(self._loop, self._head_is_late)
        self._head_s = 0.0
        self.idle_since = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no child of it
        self._transport.set_write_buffer_limits(high=BUFFERED_BYTES)
        if self._sock.family not in (socket.AF_INET, socket.AF_INET6):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked
            self.abort()
            return
        try:
            self._answer.feed(data)
        except BadResponse as error:
            self.fail(error)
            return
        if self._answer.head_done:
            self._head_alarm.clear()
        if self._answer.waiting > BUFFERED_BYTES and not self._paused:
            self._paused = True
            if self._transport is not None:
                self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        # At once, not after what is left to write: a sandbox that says no more may not read any more either.
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._head_alarm.close()
        answer = self._answer
        if answer is not None and self._error is None:
            if exc is None:
                answer.end()
            if not answer.complete:
                lost = BadResponse if answer.heard else Dropped
                self._error = lost(f"closed before the answer's end: {exc or 'end of file'}")
        self._wake()
        self.resume_writing()
        self._on_lost(self)

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # What the gateway calls

    @property
    def lost(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def quiet(self) -> bool:
        """False if the sandbox has said something that wasn't read yet, or has closed.

        The kernel is asked, since the event loop may not have got round to telling us.
        """
        if self.lost:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    @property
    def ready(self) -> bool:
        """Whether there is room to write, and the sandbox has said nothing yet."""
        return self._drained is None and self.quiet()

    def begin(self, head: bytes, *, no_body: bool) -> None:
        """Send a request's head, or all of it. `no_body`: whatever the answer says, it will have none (HEAD)."""
        assert self._answer is None
        self._answer = Answer(no_body=no_body)
        self.write(head)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self, *, timeout_s: float) -> bool:
        """Wait until the sandbox has taken most of what was written, or is gone; False if that takes longer."""
        if self._drained is not None:
            await asyncio.wait([self._drained], timeout=timeout_s)
        return self._drained is None

    async def attentive(self) -> None:
        """Let the event loop read what the sandbox has already said.

        Writing to a sandbox that has answered early and closed would fail, and its answer be lost with the connection.
        """
        while not (self.lost or self._paused or self.quiet()):  # noqa: ASYNC110  only the event loop can make it true
            await asyncio.sleep(0)

    def expect_head(self, timeout_s: float) -> None:
        """From now on the sandbox has this long for its whole head."""
        if not self.lost and self._answer is not None and not self._answer.head_done:
            self._head_s = timeout_s
            self._head_alarm.set(timeout_s)

    @property
    def silent(self) -> bool:
        """Whether there is no head yet, nor anything else that ends the wait for it."""
        return self._error is None and self._answer is not None and not self._answer.head_done

    @property
    def whole(self) -> Head | None:
        """The answer's head, if all of the answer is here and `read_head` knows it."""
        answer = self._answer
        return answer.head if answer is not None and answer.complete and self._error is None else None

    def take(self) -> bytes:
        """The body that has come since the last call."""
        assert self._answer is not None
        data = self._answer.take()
        if self._paused:
            self._paused = False
            if self._transport is not None:
                self._transport.resume_reading()
        return data

    @property
    def has_news(self) -> bool:
        """Whether `body` would return at once."""
        return self._answer is not None and (self._answer.waiting > 0 or self._answer.complete)

    async def head(self) -> tuple[int, RawHeaders]:
        """Status (200 to 599) and headers (names in lower case) of the answer. Raises UpstreamError."""
        assert self._answer is not None
        while not self._answer.head_done:
            await self._news()
        return self._answer.status, self._answer.headers

    async def body(self, *, timeout_s: float) -> tuple[bytes, bool]:
        """What has come since the last call, and whether there is more.

        Raises UpstreamError where the body ends too early, or nothing comes for `timeout_s`.
        """
        answer = self._answer
        assert answer is not None
        if not answer.waiting and not answer.complete:
            try:
                async with asyncio.timeout(timeout_s):
                    while not answer.waiting and not answer.complete:
                        await self._news()
            except TimeoutError:
                raise BadResponse(f"no more of the body within {timeout_s:g} s") from None
        return self.take(), not answer.complete

    def finish(self) -> bool:
        """End the exchange; True if the connection may serve another one."""
        answer, self._answer = self._answer, None
        return answer is not None and answer.complete and answer.keep and not self.lost and self._drained is None

    def fail(self, error: UpstreamError) -> None:
        """End the exchange with `error`, and the connection with it."""
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        self._head_alarm.clear()
        if self._transport is not None:
            self._transport.abort()

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        if self.on_news is not None:
            self.on_news()
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _head_is_late(self) -> None:
        self.fail(HeadTimeout(f"no head within {self._head_s:g} s"))
