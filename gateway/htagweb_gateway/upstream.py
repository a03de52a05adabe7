"""The HTTP client of one sandbox: a small pool of connections, and the rules for using one again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from htagweb_orchestrator.address import DialFailed, dial
from htagweb_orchestrator.model import Address, TcpAddress

from .connection import Connection
from .errand import Errand, Sender
from .exchange import Exchange, Message, Receive, Send, Timeouts, request_head
from .headers import Forward, Place
from .upstream_errors import Ended, Overloaded, Unreachable


class Upstream:
    """Carries requests to one sandbox.

    `head_timeout_s` is for an answer's whole head, counted from the end of the request; `body_idle_timeout_s` is the
    longest silence within a body. No limit counts a whole transfer. `idle_timeout_s` is how long an unused connection
    is kept; it must be shorter than what the sandbox's own server allows.
    """

    def __init__(
        self,
        address: Address,
        *,
        max_idle: int = 8,
        max_open: int = 128,
        connect_timeout_s: float = 5.0,
        head_timeout_s: float = 65.0,
        body_idle_timeout_s: float = 900.0,
        upload_idle_timeout_s: float = 60.0,
        idle_timeout_s: float = 4.0,
    ) -> None:
        self.address = address
        self._max_idle = max_idle
        self._max_open = max_open
        self._connect_timeout_s = connect_timeout_s
        self._timeouts = Timeouts(head_s=head_timeout_s, body_s=body_idle_timeout_s, upload_s=upload_idle_timeout_s)
        self._idle_timeout_s = idle_timeout_s
        self._secret = address.secret.encode("latin-1") if isinstance(address, TcpAddress) else None
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []  # the one used last stands last, and is taken first
        self._dialing = 0
        self._closed = False
        self._expiry: asyncio.TimerHandle | None = None

    async def http(
        self,
        scope: Message,
        receive: Receive,
        send: Send,
        forward: Forward,
        *,
        on_upload: Callable[[], None] | None = None,
    ) -> None:
        """Pass one request on and its answer back. `on_upload` is called whenever a piece of the body has come.

        Raises a child of UpstreamError while nothing of an answer was sent yet (after Unreachable nothing of the
        request's body was read, so it may be tried elsewhere). A fault after that breaks the visitor's transfer off: by
        `scope["htagweb.abort"]` where our protocol class is in place, else by raising as well.
        """
        exchange = Exchange(
            self, scope, receive, send, forward, timeouts=self._timeouts, secret=self._secret, on_upload=on_upload
        )
        await exchange.run()

    def prepare(self, scope: Message, forward: Forward) -> bytes:
        """The head that `http` sends for this request."""
        return request_head(scope, forward, self._secret)[0]

    def errand(
        self, sender: Sender, request: bytes, place: Place, *, on_over: Callable[[], None] | None = None
    ) -> bool:
        """Pass on a request that is all here, if a connection is free; False where `http` has to wait for one."""
        connection = self._take_idle()
        if connection is None:
            return False
        Errand(self, connection, sender, request, place, head_s=self._timeouts.head_s, on_over=on_over)
        return True

    @property
    def open(self) -> int:
        """How many connections there are, in use or not."""
        return len(self._open)

    @property
    def busy(self) -> int:
        """How many of them carry a request."""
        return len(self._open) - len(self._idle)

    def close(self) -> None:
        """End every request with Ended, and refuse new ones."""
        self._closed = True
        for connection in list(self._open):
            connection.fail(Ended("the sandbox was ended"))
        self._idle.clear()
        self._stop_expiry()

    async def take(self, *, fresh: bool) -> tuple[Connection, bool]:
        connection = None if fresh else self._take_idle()
        return (await self._dial(), False) if connection is None else (connection, True)

    def give_back(self, connection: Connection) -> None:
        if self._closed or len(self._idle) >= self._max_idle:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._expiry is None:
            self._expiry = loop.call_later(self._idle_timeout_s, self._expire)

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.quiet():
                return connection
            connection.abort()
        return None

    async def _dial(self) -> Connection:
        if self._closed:
            raise Ended("the sandbox was ended")
        if len(self._open) + self._dialing >= self._max_open:
            raise Overloaded(f"{self._max_open} requests are running")
        self._dialing += 1
        try:
            sock = await dial(self.address, timeout_s=self._connect_timeout_s)
            loop = asyncio.get_running_loop()
            try:
                _, connection = await loop.create_connection(lambda: Connection(sock, self._lost), sock=sock)
            except BaseException:
                sock.close()
                raise
        except DialFailed as error:
            raise Unreachable(str(error)) from error
        finally:
            self._dialing -= 1
        self._open.add(connection)
        if self._closed:
            connection.abort()
            raise Ended("the sandbox was ended")
        return connection

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._expiry = None
        while self._idle and self._idle[0].idle_since + self._idle_timeout_s <= loop.time():
            self._idle.pop(0).abort()
        if self._idle:
            self._expiry = loop.call_at(self._idle[0].idle_since + self._idle_timeout_s, self._expire)

    def _stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
