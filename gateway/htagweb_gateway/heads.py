"""Heads of requests that came before: a browser says the same ones again and again, and each is read once.

What a head means depends on its bytes alone, so those are the key; whatever else decides (who, when, from where) isn't
known here. A head that there could be two opinions about isn't remembered: `protocol` reads it as it reads any other.
"""

from __future__ import annotations

from functools import lru_cache

import httptools

from .front import HEAD_FIELDS, check_head
from .headers import RawHeaders

REMEMBERED = 1024
REMEMBERED_BYTES = 4096  # no longer head is remembered
END = b"\r\n\r\n"


class Head:
    """A complete head of HTTP/1.1 on a connection that stays, with a body of `length` bytes after it."""

    __slots__ = ("again", "headers", "length", "method", "target")

    def __init__(self, method: str, target: bytes, headers: RawHeaders, length: int) -> None:
        self.method = method
        self.target = target
        self.headers = headers  # names in lower case; not to be changed
        self.length = length
        self.again = False  # whether it came more than once: most will not


def find(data: bytes) -> tuple[Head, int] | None:
    """The head that `data` begins with, and where it ends; None where the connection's own parser has to look."""
    end = data.find(END, 0, REMEMBERED_BYTES) + len(END)
    if end < len(END):
        return None
    head = read(data[:end])
    return None if head is None else (head, end)


@lru_cache(REMEMBERED)
def read(raw: bytes) -> Head | None:
    """`raw` as the parser reads it that every connection has; None unless it is exactly one head, and a plain one."""
    reader = _Reader()
    try:
        reader.parser.feed_data(raw)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if reader.begun != 1 or not reader.stays or reader.has_body:
        return None
    if len(reader.headers) > HEAD_FIELDS or check_head("1.1", reader.target, reader.headers) is not None:
        return None
    length = 0
    for name, value in reader.headers:
        if name == b"content-length":
            length = int(value)
        elif name in (b"transfer-encoding", b"expect", b"upgrade"):
            return None
    if reader.complete is not (length == 0):
        return None
    return Head(reader.parser.get_method().decode("ascii"), reader.target, reader.headers, length)


class _Reader:
    """What httptools calls."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.headers: RawHeaders = []
        self.target = b""
        self.begun = 0
        self.stays = self.has_body = self.complete = False

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.stays = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.has_body = True

    def on_message_complete(self) -> None:
        self.complete = True
