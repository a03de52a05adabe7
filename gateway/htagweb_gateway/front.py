"""Which requests may come in at all, judged by their shape: nothing here knows who asks, or what is running.

Routing and forwarding both start from the raw path, as it was sent: a decoded one could name another app than the bytes
that are forwarded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from htagweb_orchestrator.model import Platform

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
HEAD_FIELDS = 100
HEAD_BYTES = 32 * 1024
HOST_BYTES = 253 + len(":65535")  # RFC 1035 2.3.4, without the root's dot
REMEMBERED = 1024  # hosts, origins and targets that were looked at before
REMEMBERED_BYTES = 256  # no longer target is remembered

Headers = Sequence[tuple[bytes, bytes]]

_HOST = re.compile(rb"(?P<name>[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(rb"(https?)://([^/?#@\\\s]+)", re.IGNORECASE)
_LOCALHOST = re.compile(rb"localhost|([a-z0-9_-]+\.)+localhost|127(\.[0-9]{1,3}){3}|\[::1\]", re.IGNORECASE)
_APP_NAME = re.compile(rb"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# The first segment decides where a request goes, so nothing in it may read differently to someone who decodes it.
_ODD_IN_FIRST_SEGMENT = re.compile(rb"%(2f|5c|0[0-9a-f]|1[0-9a-f]|7f)|;", re.IGNORECASE)
_ODD_IN_PATH = re.compile(rb"[\x00-\x20\x7f-\xff\\#]|%00", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x20\x7f#]")
# One or two dots as a whole segment, each dot or slash plain, encoded, or encoded again.
_DOT_SEGMENT = re.compile(rb"(^|/|%(25)*2f)(\.|%(25)*2e){1,2}($|/|%(25)*2f)", re.IGNORECASE)


class Refusal(NamedTuple):
    """`status` with a sentence for the sender; the connection is closed after it (see `app`)."""

    status: int
    message: str


def check(scope: dict[str, Any]) -> Refusal | None:
    """Refuse what no browser sends and what two parsers might read differently. For HTTP and WebSocket scopes."""
    headers = scope["headers"]
    if len(headers) > HEAD_FIELDS:
        return Refusal(431, "too many header fields")
    if scope["type"] == "http" and scope["method"] not in METHODS:
        return Refusal(405, "this method is not supported here")
    if "htagweb.visitor" in scope:  # our own protocol class has looked at the headers before it made this scope
        return check_path(raw_path(scope), scope["query_string"])
    return (
        check_framing(scope["http_version"], headers, websocket=scope["type"] == "websocket")
        or check_host(headers)
        or check_path(raw_path(scope), scope["query_string"])
    )


def check_head(http_version: str, target: bytes, headers: Headers, *, upgrade: bool = False) -> Refusal | None:
    """The same for a head that our own parser has just read, before there is a scope."""
    if http_version not in ("1.0", "1.1"):
        return Refusal(400, "only version 1.1 of HTTP is spoken here")
    if not target.startswith(b"/") or b"#" in target:
        return Refusal(400, "the target must be a path on this host")
    return check_framing(http_version, headers, websocket=upgrade) or check_host(headers)


def check_framing(http_version: str, headers: Headers, *, websocket: bool = False) -> Refusal | None:
    """Refuse bodies whose end is a matter of opinion (request smuggling)."""
    lengths = 0
    encodings: list[bytes] = []
    for name, value in headers:
        if name == b"content-length":
            lengths += 1
            if not value.isdigit():
                return Refusal(400, "Content-Length must be one number")
            if websocket and value.strip(b"0"):
                return Refusal(400, "a WebSocket handshake has no body")
        elif name == b"transfer-encoding":
            encodings.append(value)
    if lengths > 1 or (lengths and encodings):
        return Refusal(400, "the length of the body is ambiguous")
    if encodings:
        if encodings != [encodings[0]] or encodings[0].lower() != b"chunked":
            return Refusal(400, "Transfer-Encoding must be exactly chunked")
        if http_version == "1.0":
            return Refusal(400, "HTTP/1.0 has no Transfer-Encoding")
        if websocket:
            return Refusal(400, "a WebSocket handshake has no body")
    return None


def check_host(headers: Headers) -> Refusal | None:
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return Refusal(400, "exactly one Host is needed")
    if split_host(hosts[0]) is None:
        return Refusal(400, "this Host is not host or host:port")
    return None


def check_path(path: bytes, query: bytes = b"") -> Refusal | None:
    """`path` as it was sent, without the query. Below the first segment only what could leave the app is refused."""
    short = len(path) + len(query) <= REMEMBERED_BYTES
    return _remembered_check_path(path, query) if short else _check_path(path, query)


def _check_path(path: bytes, query: bytes) -> Refusal | None:
    if not path.startswith(b"/") or path.startswith(b"//"):
        return Refusal(400, "the target must be a path on this host")
    if _ODD_IN_PATH.search(path) or (query and _CONTROL.search(query)):
        return Refusal(400, "this target has a character that it may not have")
    if (b"." in path or b"%" in path) and _DOT_SEGMENT.search(path):
        return Refusal(400, "the path may not have dot segments")
    first = path[1:].partition(b"/")[0]
    if b"%" in first or b";" in first:
        if _ODD_IN_FIRST_SEGMENT.search(first) or not _is_utf8(first):
            return Refusal(400, "the first part of the path has a character that it may not have")
    return None


_remembered_check_path = lru_cache(REMEMBERED)(_check_path)


def is_app_name(label: bytes) -> bool:
    return _APP_NAME.fullmatch(label) is not None


def parse_target(path: bytes) -> tuple[str | None, bytes]:
    """Split a raw path into the app's name and what lies below it: /counter/x?… is ("counter", b"/x").

    The rest is b"" where the slash after the name is missing. The name is None, and the rest is all of `path`, where
    the first segment can't be a name: "/", "/-/…", "/Counter/".
    """
    first, slash, rest = path[1:].partition(b"/")
    if _APP_NAME.fullmatch(first) is None:
        return None, path
    return first.decode("ascii"), slash + rest


def raw_path(scope: dict[str, Any]) -> bytes:
    """The path's bytes as sent; `raw_path` may be absent or carry the query, depending on the server."""
    raw = scope.get("raw_path")
    if raw is None:
        raw = str(scope["path"]).encode("utf-8")
    return bytes(raw).partition(b"?")[0]


def split_host(host: bytes) -> tuple[bytes, int | None] | None:
    """A Host header's name (lower case) and port; None if it isn't well-formed."""
    return _split_host(host) if len(host) <= HOST_BYTES else None


@lru_cache(REMEMBERED)
def _split_host(host: bytes) -> tuple[bytes, int | None] | None:
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        return None
    return match["name"].lower(), port


def is_localhost(host: bytes) -> bool:
    parts = split_host(host)
    return parts is not None and _LOCALHOST.fullmatch(parts[0]) is not None


def host_allowed(host: bytes, platform: Platform) -> bool:
    """Whether this is a name of ours. Without `public_url` any is, except in development: there a foreign name that
    resolves to this machine (DNS rebinding) would reach what is meant for its owner alone."""
    parts = split_host(host)
    if parts is None:
        return False
    if platform.public_url:
        url = urlsplit(platform.public_url)
        if _with_port(parts, url.scheme) == _with_port(split_host(url.netloc.encode("latin-1")), url.scheme):
            return True
    if platform.dev and not platform.embedded:
        return _LOCALHOST.fullmatch(parts[0]) is not None
    return not platform.public_url


def check_origin(origin: bytes | None, *, host: bytes, scheme: str | None, missing_ok: bool = False) -> Refusal | None:
    """Refuse what a page of another site makes the visitor's browser send.

    `host` is the Host that the visitor's browser used. `scheme` is None where it isn't known for sure (no `public_url`,
    no trusted proxy): then host and port alone are compared. Without Origin it is no browser, or no request that one
    guards; `missing_ok` says whether that will do.
    """
    if origin is None:
        return None if missing_ok else Refusal(403, "this request needs an Origin")
    if len(origin) > len("https://") + HOST_BYTES:
        return Refusal(403, "this Origin may not do that")
    return _check_origin(origin, host, scheme)


@lru_cache(REMEMBERED)
def _check_origin(origin: bytes, host: bytes, scheme: str | None) -> Refusal | None:
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        return Refusal(403, "this Origin may not do that")
    said = match[1].lower().decode("ascii")
    same = _with_port(split_host(match[2]), said)
    if same is None or same != _with_port(split_host(host), said) or (scheme is not None and scheme != said):
        return Refusal(
            403,
            "the page's address (Origin) is not the address that this request reached. If a proxy in front rewrites "
            "addresses, set public_url or trusted_proxies",
        )
    return None


def _with_port(parts: tuple[bytes, int | None] | None, scheme: str) -> tuple[bytes, int] | None:
    if parts is None:
        return None
    return parts[0], parts[1] or (443 if scheme == "https" else 80)


def _is_utf8(segment: bytes) -> bool:
    """Python's decoder is strict: it refuses overlong forms and surrogates."""
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda pair: bytes([int(pair[1], 16)]), segment)
    try:
        decoded.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
