"""Puts the platform's script into the HTML documents of an app that makes its pages itself, as they stream by.

A fragment, as HTMX fetches it, isn't one, nor is what comes compressed or in part: that goes through as it is.
"""

from __future__ import annotations

import html
import re

from .asgi import Message, Send

LOOK_BYTES = 16 * 1024  # how far into a document its head is looked for

_DOCUMENT = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*(?:<!doctype\s+html[^>]*>|<html(?:\s[^>]*)?>)", re.IGNORECASE | re.DOTALL
)
_HTML = re.compile(rb"<html(?:\s[^>]*)?>", re.IGNORECASE)
_HEAD = re.compile(rb"<head(?:\s[^>]*)?>", re.IGNORECASE)
_WORDS = (b"<!doctype html", b"<html", b"<!--")


def document_script(app: str) -> bytes:
    """It tells of endings and warnings; the page's sockets stay as they are: only htag's protocols can be mended."""
    return f'<script src="/-/live.js" data-app="{html.escape(app)}" data-sockets="own"></script>'.encode()


class Document:
    """The `send` of one answer. The head waits for as much of the body as shows whether, and where, the script goes."""

    def __init__(self, send: Send, script: bytes) -> None:
        self._send = send
        self._script = script
        self._start: Message | None = None
        self._held = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _may_hold_document(message):
            self._start = message
            return
        if self._start is None or message["type"] != "http.response.body":
            await self._send(message)
            return
        self._held += message.get("body", b"")
        more = message.get("more_body", False)
        at = _place(self._held, last=not more or len(self._held) >= LOOK_BYTES)
        if at is None:
            return
        start, self._start, held = self._start, None, self._held
        self._held = b""
        if at >= 0:
            held = held[:at] + self._script + held[at:]
            start = {**start, "headers": [_longer(pair, len(self._script)) for pair in start.get("headers", ())]}
        await self._send(start)
        await self._send({**message, "body": held})


def _may_hold_document(start: Message) -> bool:
    headers = {name.lower(): value.lower() for name, value in start.get("headers", ())}
    kind = headers.get(b"content-type", b"")
    whole = start["status"] not in (204, 206, 304) and headers.get(b"content-encoding", b"identity") == b"identity"
    return whole and kind.startswith(b"text/html") and b"utf-16" not in kind


def _place(body: bytes, *, last: bool) -> int | None:
    """Where the script goes: -1 for nowhere, None if more of the body must be seen. `last`: there won't be more."""
    begin = _DOCUMENT.match(body)
    if begin is None:
        word = body.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower()
        undecided = any(each.startswith(word) or word.startswith(each) for each in _WORDS)
        return None if undecided and not last else -1
    head = _HEAD.search(body, begin.start())
    if head is not None:
        return head.end()
    if not last:
        return None
    root = _HTML.search(body, begin.start())
    return root.end() if root is not None else begin.end()


def _longer(header: tuple[bytes, bytes], by: int) -> tuple[bytes, bytes]:
    name, value = header
    return (name, str(int(value) + by).encode()) if name.lower() == b"content-length" else header
