"""A sandbox's answer while it comes in: bytes to a checked head and the pieces of a body. No I/O.

The sandbox is hostile by assumption. What two parsers could read differently is refused, and everything is bounded.
"""

from __future__ import annotations

from functools import lru_cache

import httptools

from .headers import RawHeaders
from .upstream_errors import BadResponse

HEAD_BYTES = 64 * 1024  # of a head with the interim (1xx) answers before it; also of trailers or one chunk's extensions
INTERIM_ANSWERS = 16
REMEMBERED = 512
REMEMBERED_BYTES = 4096  # no longer head is remembered
_END = b"\r\n\r\n"


class Head:
    """Of an answer with a body of `length` bytes: what its bytes mean, whoever asked."""

    __slots__ = ("headers", "keep", "length", "status")

    def __init__(self, status: int, headers: RawHeaders, length: int, keep: bool) -> None:
        self.status = status
        self.headers = headers  # names in lower case; not to be changed
        self.length = length
        self.keep = keep


class Answer:
    """Feed it until it is `complete`. `keep`: the connection may serve another request after this one."""

    __slots__ = (
        "_head_bytes",
        "_interim",
        "_left",
        "_no_body",
        "_parser",
        "_pieces",
        "_progress",
        "_silent",
        "_until_eof",
        "complete",
        "head",
        "head_done",
        "headers",
        "heard",
        "keep",
        "status",
        "waiting",
    )

    def __init__(self, *, no_body: bool) -> None:
        self._parser: httptools.HttpResponseParser | None = None  # made where it is needed
        self._no_body = no_body  # whatever the head says: an answer to HEAD
        self._until_eof = self._progress = False
        self._head_bytes = self._interim = self._silent = 0
        self._left: int | None = None  # bytes of body still to come, where the head says how many there are
        self._pieces: list[bytes] = []
        self.head: Head | None = None  # where it is one that `read_head` knows
        self.status = 0
        self.headers: RawHeaders = []  # names in lower case; not to be changed
        self.heard = self.head_done = self.complete = self.keep = False
        self.waiting = 0  # bytes of body that nobody took yet

    def feed(self, data: bytes) -> None:
        """Raises BadResponse where this is no answer that may be passed on. What follows a complete one is dropped."""
        if self._left and self.head_done and not self.complete:
            self._count(data)
        elif self.heard or self._no_body or not self._begin(data):
            self._parse(data)

    def _begin(self, data: bytes) -> bool:
        """Whether this begins with a head that needs no parser, and was taken for that."""
        end = data.find(_END, 0, REMEMBERED_BYTES) + len(_END)
        if end < len(_END) or (head := read_head(data[:end])) is None:
            return False
        self.head = head
        self.status, self.headers, self._left, self.keep = head.status, head.headers, head.length, head.keep
        self.heard = self.head_done = True
        self.complete = not self._left
        if len(data) > end:
            self._count(data[end:])
        return True

    def _parse(self, data: bytes) -> None:
        self.heard = True
        self._progress = False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.keep = False
            if not self.complete:
                cause = error.__context__
                raise cause if isinstance(cause, BadResponse) else BadResponse(str(error)) from error
        # The parser keeps a field's bytes to itself until the field ends, so they are counted as they come in.
        self._silent = 0 if self._progress else self._silent + len(data)
        if self._silent > HEAD_BYTES and not self.complete:
            raise BadResponse("too long a head or trailer")

    def end(self) -> None:
        """The sandbox closed the connection in an orderly way: some answers end by that."""
        self.keep = False
        if self._until_eof:
            self.complete = True

    def take(self) -> bytes:
        """The body that has come since the last call."""
        pieces, self._pieces = self._pieces, []
        self.waiting = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # What httptools calls. An exception in here comes out of feed_data as its error's __context__.

    def on_message_begin(self) -> None:
        if self.complete:
            raise BadResponse("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return  # a trailer
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_BYTES:
            raise BadResponse("too long a head")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._interim += 1
            if self._interim > INTERIM_ANSWERS:
                raise BadResponse("too many interim answers")
            self.headers = []
            return
        if not 200 <= status <= 599:
            raise BadResponse(f"status {status}")
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise BadResponse(f"HTTP version {version}")
        measured = self._measured(version)
        self.status = status
        self.head_done = self._progress = True
        self.keep = version == "1.1" and self._parser.should_keep_alive()
        if self._no_body:
            self.complete = True
            self.keep = False  # this parser can't be told that no body follows, so it can't tell what does
        elif status in (204, 304):
            self.complete = True
        else:
            self._until_eof = not measured

    def on_body(self, body: bytes) -> None:
        if self.complete:
            raise BadResponse("a body where none belongs")
        self._progress = True
        self._pieces.append(body)
        self.waiting += len(body)
        if self._left is not None:
            self._left -= len(body)

    def on_message_complete(self) -> None:
        if self.head_done:
            self.complete = True

    def _count(self, data: bytes) -> None:
        """More of a body whose length is known: nothing in it is the parser's business, which would copy it."""
        assert self._left is not None
        if len(data) > self._left:
            data = data[: self._left]
            self.keep = False
        self._pieces.append(data)
        self.waiting += len(data)
        self._left -= len(data)
        self.complete = not self._left

    def _measured(self, version: str) -> bool:
        """Whether the head says where the body ends. The parser itself refuses two lengths, or one with an encoding."""
        encodings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if encodings:
            if version == "1.0" or len(encodings) > 1 or encodings[0].lower() != b"chunked":
                raise BadResponse("Transfer-Encoding is not exactly chunked")
            return True
        for name, value in self.headers:
            if name == b"content-length":
                self._left = int(value)
                return True
        return False


@lru_cache(REMEMBERED)
def read_head(raw: bytes) -> Head | None:
    """What an Answer makes of these bytes; None unless they are exactly one head that says how long its body is.

    Servers say the same heads again and again, but for the second in Date.
    """
    answer = Answer(no_body=False)
    try:
        answer._parse(raw)
    except BadResponse:
        return None
    length = answer._left
    if not answer.head_done or answer._interim or answer.waiting or length is None:
        return None
    if answer.complete is not (length == 0):
        return None
    return Head(answer.status, answer.headers, length, answer.keep)
