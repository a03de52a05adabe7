"""One HTTP request of a visitor and its sandbox's answer, streamed both ways at the same time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .connection import Connection
from .headers import Forward, request_headers, response_headers
from .upstream_errors import Dropped, HeadTimeout, UploadTimeout, UpstreamError

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Any], Awaitable[None]]

# Asked again, these do no more than once (RFC 9110 9.2.2).
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
LAST_CHUNK = b"0\r\n\r\n"
LOOK_S = 0.5  # while the sandbox doesn't read, nor do we: so often is looked whether the visitor is still there

_TARGET = re.compile(rb"/[^\x00-\x20\x7f]*")


class ClientGone(UpstreamError):
    """The visitor left. Nobody is told."""


class Visitor(Protocol):
    """The visitor's connection, where our own protocol class keeps it: `scope["htagweb.visitor"]`.

    Other servers say by `receive` alone whether a visitor is still there, so somebody has to wait for that.
    """

    on_gone: Callable[[], None] | None
    take: Callable[[bytes], bool] | None  # is offered each piece of the body; False: it is for `receive`

    @property
    def whole(self) -> bool:
        """Whether the whole request is here already, so that `receive` returns it without waiting."""
        ...

    @property
    def left(self) -> bool: ...

    def gone(self) -> bool:
        """Like `left`, but asks the kernel: while we don't read, nobody else tells."""
        ...

    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    head_s: float  # for an answer's whole head, from the moment when the request is sent
    body_s: float  # between two pieces of an answer's body
    upload_s: float  # between two pieces of a request's body


class Pool(Protocol):
    async def take(self, *, fresh: bool) -> tuple[Connection, bool]:
        """A connection, and whether it has served before (then its sandbox may just be closing it)."""
        ...

    def give_back(self, connection: Connection) -> None: ...


class Begun(Protocol):
    """A request that was sent before anybody knew that its answer needs an exchange: `scope["htagweb.errand"]`."""

    pool: Pool

    def take(self) -> Connection: ...


class Exchange:
    def __init__(
        self,
        pool: Pool,
        scope: Message,
        receive: Receive,
        send: Send,
        forward: Forward,
        *,
        timeouts: Timeouts,
        secret: bytes | None = None,
        on_upload: Callable[[], None] | None = None,
    ) -> None:
        self._pool = pool
        self._receive = receive
        self._send = send
        self._forward = forward
        self._timeouts = timeouts
        self._on_upload = on_upload
        self._method: str = scope["method"]
        self._head, self._has_body, self._chunked = request_head(scope, forward, secret)
        self._visitor: Visitor | None = scope.get("htagweb.visitor")
        self._begun: Begun | None = scope.get("htagweb.errand")
        self._listener: asyncio.Task[None] | None = None
        self._connection: Connection
        self._uploaded = self._gone = self._given_back = self._carrying = False
        self._uploaded_at = 0.0  # when a piece of the body came that `receive` didn't bring

    async def run(self) -> None:
        """Raises UpstreamError as long as nothing of an answer was sent; later a fault breaks off the transfer."""
        if self._begun is None:
            self._connection, used = await self._pool.take(fresh=False)
        else:
            self._pool, self._connection, used = self._begun.pool, self._begun.take(), True
        replayable = used and not self._has_body and self._method in IDEMPOTENT
        try:
            await self._ask()
            try:
                status, headers = await self._connection.head()
            except Dropped:
                if not replayable:
                    raise
                self._connection, _ = await self._pool.take(fresh=True)
                if self._gone:
                    raise ClientGone() from None
                self._begin()
                status, headers = await self._connection.head()
            await self._answer(status, headers)
        except ClientGone:
            pass
        finally:
            self._stop_listening()
            if not self._given_back:
                self._connection.abort()

    async def _ask(self) -> None:
        """Send the request, or begin to, and see to it that a visitor who leaves ends it."""
        visitor = self._visitor
        if visitor is not None and self._begun is not None:
            self._uploaded = True
            visitor.on_gone = self._left
            return
        if visitor is None or not visitor.whole:
            self._begin()
            self._listener = asyncio.create_task(self._listen(), name="visitor")
            return
        if self._has_body:
            body = _body_of(await self._receive())
            if body and self._on_upload is not None:
                self._on_upload()
            if self._chunked:
                body = (_chunk(body) if body else b"") + LAST_CHUNK
            self._head += body
        if visitor.left:
            raise ClientGone()
        self._uploaded = True
        visitor.on_gone = self._left
        self._begin()

    def _begin(self) -> None:
        self._connection.begin(self._head, no_body=self._method == "HEAD")
        if self._uploaded or not self._has_body:
            self._connection.expect_head(self._timeouts.head_s)

    async def _answer(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Pass the answer on. The connection goes back before the visitor has all of it."""
        connection = self._connection
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": response_headers(headers, self._forward, status=status),
            }
        )
        more = True
        if not connection.has_news:  # servers hold the head back until there is a body
            await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        while more:
            try:
                chunk, more = await connection.body(timeout_s=self._timeouts.body_s)
            except ClientGone:
                raise
            except UpstreamError:
                self._stop_listening()
                if self._visitor is None:
                    raise  # any server then closes the connection, and logs why
                self._visitor.abort()
                return
            if not more:
                self._stop_listening()  # an answer may come before all of the request; its rest is of no use to anybody
                if self._uploaded and connection.finish():
                    self._given_back = True
                    self._pool.give_back(connection)
                else:
                    connection.abort()
            await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    def _left(self) -> None:
        self._gone = True
        self._connection.fail(ClientGone())

    def _stop_listening(self) -> None:
        if self._visitor is not None and self._visitor.take == self._take:
            self._visitor.take = None
        if self._listener is not None:
            self._listener.cancel()
        elif self._visitor is not None and self._visitor.on_gone == self._left:
            self._visitor.on_gone = None

    async def _listen(self) -> None:
        """Pass the request's body on, then wait for the visitor to leave."""
        try:
            if self._has_body:
                await self._upload()
            self._uploaded = True
            while (await self._receive())["type"] != "http.disconnect":
                pass
            raise ClientGone()
        except UpstreamError as error:
            self._gone = isinstance(error, ClientGone)
            self._connection.fail(error)
        except Exception as error:  # of the server, or of `on_upload`: nobody else waits for this task
            self._connection.fail(UpstreamError(f"while listening to the visitor: {error!r}"))

    async def _upload(self) -> None:
        connection = self._connection
        if self._visitor is not None and not self._chunked:
            self._visitor.take = self._take
        more = True
        while more:
            message = await self._next_piece()
            self._carrying = True
            body = _body_of(message)
            more = message.get("more_body", False)
            await self._drain()
            if body:
                if self._on_upload is not None:
                    self._on_upload()
                await connection.attentive()
                connection.write(_chunk(body) if self._chunked else body)
            if self._chunked and not more:
                connection.write(LAST_CHUNK)
            self._carrying = False
        await self._drain()
        connection.expect_head(self._timeouts.head_s)

    async def _next_piece(self) -> Message:
        wait_s = self._timeouts.upload_s
        while wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    return await self._receive()
            except TimeoutError:
                wait_s = self._uploaded_at + self._timeouts.upload_s - asyncio.get_running_loop().time()
        raise UploadTimeout("the body stopped coming")

    def _take(self, body: bytes) -> bool:
        """Pass a piece of the body on where nothing is in its way: it is still in the processor's cache then, and no
        longer when the event loop has read from other visitors first."""
        if self._carrying or not self._connection.ready:
            return False
        if self._on_upload is not None:
            self._on_upload()
        self._connection.write(body)
        self._uploaded_at = asyncio.get_running_loop().time()
        return True

    async def _drain(self) -> None:
        waited_s, step_s = 0.0, min(LOOK_S, self._timeouts.head_s)
        while not await self._connection.drain(timeout_s=step_s):
            waited_s += step_s
            if self._visitor is not None and self._visitor.gone():
                raise ClientGone()
            if waited_s >= self._timeouts.head_s:
                raise HeadTimeout("the sandbox does not read the request")


def _body_of(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGone()
    body: bytes = message.get("body", b"")
    return body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def request_head(scope: Message, forward: Forward, secret: bytes | None) -> tuple[bytes, bool, bool]:
    """The head's bytes; whether a body follows; whether it is chunked: it is framed anew."""
    if _TARGET.fullmatch(forward.target) is None:
        raise ValueError("the target was not checked")
    headers = request_headers(scope["headers"], forward)
    length = b""
    # HTTP/2 needs no header to announce a body.
    chunked = scope["http_version"] not in ("1.0", "1.1") and scope["method"] not in ("GET", "HEAD", "OPTIONS")
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = b"%d" % int(value)
        elif name == b"transfer-encoding":
            chunked = True
    if length:
        chunked = False
        headers.append((b"content-length", length))
    elif chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    if secret is not None:
        headers.append((b"x-htagweb-secret", secret))
    lines = [b"%b %b HTTP/1.1" % (scope["method"].encode("ascii"), forward.target)]
    lines += [b"%b: %b" % pair for pair in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n", chunked or length not in (b"", b"0"), chunked
