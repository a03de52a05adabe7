"""Which headers travel between browser and sandbox, and what becomes of those that may not travel as they are.

A sandbox is hostile by assumption: it must not learn the platform's cookie, nor believe a visitor who claims to be the
proxy; and its answers must not set what belongs to the platform or to another app on the same host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache

import msgspec

RawHeaders = list[tuple[bytes, bytes]]

MAX_COOKIES = 20
MAX_COOKIE_BYTES = 4096
REMEMBERED_NAMES = 256  # of which is known what becomes of them; a head's limit is theirs, so this bounds memory
REMEMBERED_COOKIES = 1024
REMEMBERED_COOKIE_BYTES = 1024  # no longer field is remembered

# RFC 9110 7.6.1, and what older software means by it.
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
# The body is framed anew, Expect is answered here, and credentials for the platform or a proxy are not the app's.
_REQUEST_REMOVED = _HOP_BY_HOP | {
    b"host", b"content-length", b"expect", b"forwarded", b"via", b"x-real-ip", b"authorization",
}  # fmt: skip
_HANDSHAKE_REMOVED = frozenset(
    {b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-protocol"}
)
# What would outlive the sandbox in the browser or steer a proxy in front. Our server adds Date and Server itself.
_RESPONSE_REMOVED = _HOP_BY_HOP | {
    b"alt-svc", b"clear-site-data", b"date", b"nel", b"public-key-pins", b"public-key-pins-report-only", b"report-to",
    b"reporting-endpoints", b"server", b"service-worker-allowed", b"strict-transport-security", b"via", b"x-sendfile",
}  # fmt: skip
_OURS = (b"x-forwarded-", b"x-htag", b"proxy-")
_HTAG_TOKEN = b"x-htag-token"  # by which htag 2 knows that an event comes from its own page
_STEERING = (b"x-accel-", b"proxy-")
_RESPONSE_REWRITTEN = frozenset({b"set-cookie", b"location", b"content-location", b"content-length", b"content-type"})
_NONE: frozenset[bytes] = frozenset()

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ABSOLUTE = re.compile(rb"(?:(https?):)?//([^/?#\\]*)([^\s]*)", re.IGNORECASE)


class Fate(Enum):
    """What becomes of a field, as far as its name tells."""

    KEPT = 0
    REMOVED = 1
    REWRITTEN = 2  # or removed, as its value is


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a visitor's browser finds an app: all that decides what becomes of an answer's headers."""

    prefix: str  # "/counter"; "" for an app served at the root
    host: bytes  # as the visitor's browser sent it
    cookie_names: frozenset[bytes] = frozenset()  # the platform's own; they stay here
    frame_ancestors: bytes = b""  # who may show the app's pages in a frame, as a policy says it; b"": nothing is said


class Forward(Place, frozen=True, kw_only=True):
    """Where one request goes and what its sandbox is told about the visitor."""

    target: bytes  # path after the prefix and "?query", as sent: b"/x?a=b"
    scheme: str  # "http" or "https", as the visitor sees it
    client: str  # the visitor's IP address
    forwarded_for: str = ""  # the whole chain, where trusted proxies stand in front; else `client` alone
    withheld: frozenset[bytes] = frozenset()  # fields in which a proxy tells the platform something


def request_headers(headers: Iterable[tuple[bytes, bytes]], forward: Forward) -> RawHeaders:
    """The headers for the sandbox; names in `headers` are lower case (ASGI). Framing of the body is the caller's."""
    headers = list(headers)
    if forward.withheld:
        headers = [pair for pair in headers if pair[0].replace(b"_", b"-") not in forward.withheld]
    named = _named_by_connection(headers)
    out: RawHeaders = [(b"host", forward.host)]
    for pair in headers:
        name, value = pair
        fate = _of_request(name)
        if fate is Fate.REMOVED or name in named:
            continue
        if fate is Fate.REWRITTEN:
            value = _without_cookies(value, forward.cookie_names)
            if not value:
                continue
            pair = name, value
        out.append(pair)
    chain = forward.forwarded_for or forward.client
    if chain:
        out.append((b"x-forwarded-for", chain.encode("latin-1")))
    out.append((b"x-forwarded-proto", forward.scheme.encode("latin-1")))
    out.append((b"x-forwarded-host", forward.host))
    if forward.prefix:
        out.append((b"x-forwarded-prefix", forward.prefix.encode("latin-1")))
    return out


def handshake_headers(headers: Iterable[tuple[bytes, bytes]], forward: Forward) -> RawHeaders:
    """Like `request_headers`, without what a WebSocket client adds itself."""
    return [pair for pair in request_headers(headers, forward) if pair[0] not in _HANDSHAKE_REMOVED]


def response_headers(headers: Iterable[tuple[bytes, bytes]], place: Place, *, status: int = 200) -> RawHeaders:
    """The headers for the browser; names in `headers` are lower case."""
    headers = list(headers)
    named = _named_by_connection(headers)
    out: RawHeaders = []
    cookies = 0
    for pair in headers:
        name, value = pair
        fate = _of_response(name)
        if fate is Fate.REMOVED or name in named:
            continue
        if fate is Fate.KEPT:
            out.append(pair)
            continue
        if name == b"set-cookie":
            confined = confine_cookie(value, place)
            if confined is None or cookies == MAX_COOKIES:
                continue
            cookies += 1
            value = confined
        elif name == b"location" or name == b"content-location":
            value = relocate(value, place)
        elif name == b"content-length" and status in (204, 304):
            continue  # without a body there is nothing to measure, and servers insist on the number being right
        elif name == b"content-type" and value.lower().startswith(b"text/html"):
            if place.frame_ancestors:  # beside a policy of the app's own: a browser keeps to both
                out.append((b"content-security-policy", b"frame-ancestors " + place.frame_ancestors))
        elif name == b"content-type" and value.lower().startswith(b"text/event-stream"):
            out.append((b"x-accel-buffering", b"no"))  # nginx in front would hold events back until its buffer is full
        out.append((name, value))
    return out


def confine_cookie(value: bytes, place: Place) -> bytes | None:
    """A sandbox's Set-Cookie, limited to its own path and this host; None if it may not be set at all."""
    if len(value) > MAX_COOKIE_BYTES:
        return None
    pair, *attributes = value.split(b";")
    name, equals, _ = pair.partition(b"=")
    name = name.strip()
    # Without a name, "=htagweb=x" would come back as htagweb=x.
    if not equals or _TOKEN.fullmatch(name) is None:
        return None
    lower = name.lower()
    if lower.startswith((b"__host-", b"__secure-")) or any(lower == ours.lower() for ours in place.cookie_names):
        return None
    base = place.prefix.encode("latin-1") + b"/"
    path = base
    kept = [pair.strip()]
    for attribute in attributes:
        key, _, setting = attribute.partition(b"=")
        match key.strip().lower():
            case b"path":
                path = setting.strip() if setting.strip().startswith(base) else base
            case b"domain" | b"":
                pass
            case _:
                kept.append(attribute.strip())
    kept.append(b"Path=" + path)
    return b"; ".join(kept)


def relocate(location: bytes, place: Place) -> bytes:
    """A redirect to the app itself, put under its prefix: the app doesn't see the prefix, so it leaves it out.

    A URL of this host becomes a path: the app may not know that the visitor came by https.
    """
    prefix = place.prefix.encode("latin-1")
    if not prefix:
        return location
    own = _ABSOLUTE.fullmatch(location)
    if own is not None:
        if not _same_host(own[2], place.host):
            return location
        location = own[3] if own[3].startswith(b"/") else b"/" + own[3]
    elif not location.startswith(b"/"):
        return location
    if location == prefix or location.startswith((prefix + b"/", prefix + b"?", prefix + b"#")):
        return location
    return prefix + location


@lru_cache(REMEMBERED_NAMES)
def _of_request(name: bytes) -> Fate:
    # Python's CGI tradition reads x_forwarded_for and x-forwarded-for as one name.
    for each in (name, name.replace(b"_", b"-")):
        if each in _REQUEST_REMOVED or (each.startswith(_OURS) and name != _HTAG_TOKEN):
            return Fate.REMOVED
    return Fate.REWRITTEN if name == b"cookie" else Fate.KEPT


@lru_cache(REMEMBERED_NAMES)
def _of_response(name: bytes) -> Fate:
    if name in _RESPONSE_REMOVED or name.startswith(_STEERING):
        return Fate.REMOVED
    return Fate.REWRITTEN if name in _RESPONSE_REWRITTEN else Fate.KEPT


def _named_by_connection(headers: RawHeaders) -> frozenset[bytes]:
    values = [value for name, value in headers if name == b"connection"]
    return frozenset(token.strip().lower() for value in values for token in value.split(b",")) if values else _NONE


def _without_cookies(value: bytes, names: frozenset[bytes]) -> bytes:
    short = len(value) <= REMEMBERED_COOKIE_BYTES
    return _remembered_without_cookies(value, names) if short else _filter_cookies(value, names)


def _filter_cookies(value: bytes, names: frozenset[bytes]) -> bytes:
    pairs = [pair.strip() for pair in value.split(b";")]
    return b"; ".join(pair for pair in pairs if pair and pair.partition(b"=")[0].strip() not in names)


_remembered_without_cookies = lru_cache(REMEMBERED_COOKIES)(_filter_cookies)


def _same_host(one: bytes, other: bytes) -> bool:
    def plain(host: bytes) -> bytes:
        host = host.lower()
        return host.removesuffix(b":80").removesuffix(b":443")

    return plain(one) == plain(other)
