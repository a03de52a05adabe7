"""One WebSocket as bytes: after the handshake what either side says goes to the other as it is, its frames watched.

Subprotocols, compression, pings, close codes and fragments are the two ends' own business. This needs our protocol
class in the ASGI server (`door.FrontWebSocket`), since ASGI hands out whole messages; elsewhere `relay.Relay` does
the same work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from htagweb_orchestrator.address import DialFailed, dial
from htagweb_orchestrator.model import Address

from . import splice
from .exchange import Message, Receive, Send
from .frames import GOING_AWAY, Frames, Rate
from .handshake import Greeting, Offer, refuse, request_head
from .headers import Forward
from .splice import Splice
from .upstream_errors import Unreachable


class Door(splice.Door, Protocol):
    """The browser's connection, in the scope as "htagweb.door"."""

    on_lost: Callable[[], None] | None  # called when the browser leaves before `open`

    def open(self, head: bytes, close: Callable[[int], None]) -> asyncio.Transport | None:
        """Answer the handshake by `head` and hand the connection over; None if the browser has left.

        The server calls `close` with a code when it shuts down.
        """
        ...


class Tunnel:
    """`message_size` is the longest message in bytes as sent, either way; a longer one ends both sides with 1009.
    `message_rate` is how many frames a second a browser may send in the long run, twice as many at once; more end both
    sides with 1008. `on_data` is called for each data frame of the browser.
    """

    def __init__(
        self,
        address: Address,
        forward: Forward,
        *,
        message_size: int,
        message_rate: float,
        on_data: Callable[[], None],
        connect_timeout_s: float = 5.0,
        head_timeout_s: float = 10.0,
    ) -> None:
        self._address = address
        self._forward = forward
        self._message_size = message_size
        self._message_rate = message_rate
        self._on_data = on_data
        self._connect_timeout_s = connect_timeout_s
        self._head_timeout_s = head_timeout_s
        self._splice: Splice | None = None
        self._end: tuple[int, str] | None = None  # asked for before there was anything to end

    def close(self, code: int = GOING_AWAY, reason: str = "") -> None:
        """End both sides from outside, with this code and reason; `run` returns soon after."""
        if self._splice is not None:
            self._splice.end(code, reason)
        elif self._end is None:
            self._end = code, reason

    async def run(self, scope: Message, receive: Receive, send: Send) -> None:
        """Connect to the sandbox, accept the browser, and wait until both connections are closed.

        Raises Unreachable, HeadTimeout or BadResponse with nothing sent to the browser yet; where the sandbox itself
        refuses the handshake, the browser gets the same status.
        """
        self._splice = splice = await self._connect(scope, receive, send)
        if splice is None:
            return
        try:
            if self._end is not None:
                splice.end(*self._end)
            await splice.over
        finally:
            splice.abort()

    async def _connect(self, scope: Message, receive: Receive, send: Send) -> Splice | None:
        """Both handshakes; None where one of the two sides didn't want to."""
        door: Door = scope["htagweb.door"]
        offer = Offer(scope)
        greeting = await self._dial(offer)
        door.on_lost = greeting.abort
        handed_over = False
        try:
            answer = await greeting.answer(
                request_head(scope, self._forward, self._address), timeout_s=self._head_timeout_s
            )
            if answer.choice is None:
                await refuse(scope, receive, send, answer.status, b"the app refused this WebSocket\n")
                return None
            await receive()  # websocket.connect
            browser = door.open(answer.choice.head(), self.close)
            if browser is None:
                return None
            extended = answer.choice.extensions is not None
            splice = Splice(
                door,
                browser=Frames(
                    masked=True,
                    message_size=self._message_size,
                    extended=extended,
                    rate=Rate(self._message_rate),
                    on_data=self._on_data,
                ),
                sandbox=Frames(masked=False, message_size=self._message_size, extended=extended),
            )
            splice.start(browser, greeting.transport, answer.rest)
            handed_over = True
            return splice
        finally:
            door.on_lost = None
            if not handed_over:
                greeting.abort()

    async def _dial(self, offer: Offer) -> Greeting:
        try:
            sock = await dial(self._address, timeout_s=self._connect_timeout_s)
        except DialFailed as error:
            raise Unreachable(str(error)) from error
        try:
            _, greeting = await asyncio.get_running_loop().create_connection(lambda: Greeting(offer), sock=sock)
        except BaseException:
            sock.close()
            raise
        return greeting
