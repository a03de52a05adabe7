"""A request that came whole, and its answer where that does too: carried without a task, since nobody has to wait.

Whatever comes otherwise (an answer in pieces, none, a bad one) makes an ordinary request of it: `Exchange` goes on from
where the errand is. So there are no rules here but those by which an errand is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from .answer import Head
from .connection import Connection
from .cycle import fields
from .exchange import ClientGone, Pool
from .headers import Place, response_headers

REMEMBERED = 1024


class Sender(Protocol):
    """The visitor's connection, where our own protocol class keeps it."""

    on_gone: Callable[[], None] | None

    def abort(self) -> None: ...

    @property
    def takes(self) -> bool:
        """Whether an answer need not wait for the visitor to take what came before."""
        ...

    def reply(self, head: bytes, body: bytes) -> None:
        """Send an answer, all of it."""
        ...

    def go_on(self, errand: Errand) -> None:
        """Call the application, with the errand in its scope as "htagweb.errand"."""
        ...


class Errand:
    """`request` is all of it, as the sandbox shall get it; `place` is where its app is. It starts at once.

    `on_over` is called when the errand is: the visitor has his answer, or has left, or an exchange goes on.
    """

    __slots__ = ("_connection", "_on_over", "_place", "_sender", "pool", "taken")

    def __init__(
        self,
        pool: Pool,
        connection: Connection,
        sender: Sender,
        request: bytes,
        place: Place,
        *,
        head_s: float,
        on_over: Callable[[], None] | None = None,
    ) -> None:
        self.pool = pool
        self.taken = False  # by whoever goes on with it
        self._connection = connection
        self._sender = sender
        self._place = place
        self._on_over = on_over
        sender.on_gone = self._left
        connection.on_news = self._news
        connection.begin(request, no_body=False)
        connection.expect_head(head_s)

    def take(self) -> Connection:
        self.taken = True
        return self._connection

    def drop(self) -> None:
        """Leave nothing behind of one that nobody took."""
        if not self.taken:
            self._connection.abort()

    def _news(self) -> None:
        connection = self._connection
        head = connection.whole
        if head is None and connection.silent:
            return
        self._over()
        if head is None or not self._sender.takes or (lines := head_for_visitor(head, self._place)) is None:
            self._sender.go_on(self)
            return
        body = connection.take()
        if connection.finish():  # first, for what waits behind this request
            self.pool.give_back(connection)
        else:
            connection.abort()
        self._sender.reply(lines, body)

    def _left(self) -> None:
        self._over()
        self._connection.fail(ClientGone())

    def _over(self) -> None:
        self._connection.on_news = None
        if self._on_over is not None:
            self._on_over()
            self._on_over = None


@lru_cache(REMEMBERED)
def head_for_visitor(head: Head, place: Place) -> bytes | None:
    """The answer's head without our server's own fields and the empty line; None where it may not be one."""
    try:
        return STATUS_LINE[head.status] + fields(response_headers(head.headers, place, status=head.status))
    except ValueError:
        return None
