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
LOOK_S = 0.5  # while the sandbox doesn't read, nor do we: so often is looked whether the visitor is still there

_TARGET = re.compile(rb"/[^\x00-\x20\x7f]*")


class ClientGone(UpstreamError):
    """The visitor left. Nobody is told."""


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
        self._scope = scope
        self._receive = receive
        self._send = send
        self._forward = forward
        self._timeouts = timeouts
        self._on_upload = on_upload
        self._method: str = scope["method"]
        self._head, self._has_body, self._chunked = _request_head(scope, forward, secret)
        self._connection: Connection
        self._uploaded = self._gone = self._given_back = False

    async def run(self) -> None:
        """Raises UpstreamError as long as nothing of an answer was sent; later a fault breaks off the transfer."""
        self._connection, used = await self._pool.take(fresh=False)
        replayable = used and not self._has_body and self._method in IDEMPOTENT
        visitor: asyncio.Task[None] | None = None
        try:
            self._begin()
            visitor = asyncio.create_task(self._listen(), name="visitor")
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
            await self._answer(status, headers, visitor)
        except ClientGone:
            pass
        finally:
            if visitor is not None:
                visitor.cancel()
            if not self._given_back:
                self._connection.abort()

    def _begin(self) -> None:
        self._connection.begin(self._head, no_body=self._method == "HEAD")
        if not self._has_body:
            self._connection.expect_head(self._timeouts.head_s)

    async def _answer(self, status: int, headers: list[tuple[bytes, bytes]], visitor: asyncio.Task[None]) -> None:
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
        while more:
            try:
                chunk, more = await connection.body(timeout_s=self._timeouts.body_s)
            except ClientGone:
                raise
            except UpstreamError:
                visitor.cancel()
                abort: Callable[[], None] | None = self._scope.get("htagweb.abort")
                if abort is None:
                    raise  # any server then closes the connection, and logs why
                abort()
                return
            if not more:
                visitor.cancel()  # an answer may come before the request is complete; its rest is of no use to anybody
                if self._uploaded and connection.finish():
                    self._given_back = True
                    self._pool.give_back(connection)
                else:
                    connection.abort()
            await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

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
        more = True
        while more:
            try:
                async with asyncio.timeout(self._timeouts.upload_s):
                    message = await self._receive()
            except TimeoutError:
                raise UploadTimeout("the body stopped coming") from None
            if message["type"] == "http.disconnect":
                raise ClientGone()
            body: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            if body:
                if self._on_upload is not None:
                    self._on_upload()
                await connection.attentive()
                connection.write(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)
            if self._chunked and not more:
                connection.write(b"0\r\n\r\n")
            await self._drain()
        connection.expect_head(self._timeouts.head_s)

    async def _drain(self) -> None:
        gone: Callable[[], bool] | None = self._scope.get("htagweb.gone")
        waited_s, step_s = 0.0, min(LOOK_S, self._timeouts.head_s)
        while not await self._connection.drain(timeout_s=step_s):
            waited_s += step_s
            if gone is not None and gone():
                raise ClientGone()
            if waited_s >= self._timeouts.head_s:
                raise HeadTimeout("the sandbox does not read the request")


def _request_head(scope: Message, forward: Forward, secret: bytes | None) -> tuple[bytes, bool, bool]:
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
