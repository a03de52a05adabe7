"""Who is asking: an anonymous visitor, known by a signed cookie. No I/O on a request."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from itsdangerous import BadSignature, TimestampSigner

from htagweb_orchestrator.model import UserId

DAY_S = 86_400
KEY_BYTES = 32
REMEMBERED_BYTES = 1024  # Cookie fields that are no longer are taken apart once
REMEMBERED = 10_000  # verified cookies a worker keeps; an HMAC each costs more than all the rest of routing
# Neither name is accepted under the other scheme: a cookie set over plain http proves nothing under https.
NAMES = {"http": b"htagweb", "https": b"__Host-htagweb"}
COOKIE_NAMES = frozenset(NAMES.values())


class Visitor(NamedTuple):
    user: UserId
    age_s: float  # since the cookie was issued


class Identity:
    """Issues and verifies the visitor's cookie. `key` signs it; `life_s` is how long one is good for."""

    def __init__(self, key: bytes, *, life_s: int = 30 * DAY_S) -> None:
        self._signer = TimestampSigner(key, salt="htagweb.visitor")
        self._life_s = life_s
        self._verified: dict[bytes, tuple[UserId, float]] = {}  # cookie value -> user, time of issue

    def visitor(self, headers: Iterable[tuple[bytes, bytes]], scheme: str) -> Visitor | None:
        """Who sends these headers; None without a cookie of ours, and for one that is forged or too old."""
        name = NAMES[scheme]
        for key, value in headers:
            if key == b"cookie":
                short = len(value) <= REMEMBERED_BYTES
                for cookie in _remembered_cookies(value, name) if short else _cookies(value, name):
                    if visitor := self._verify(cookie):
                        return visitor
        return None

    def _verify(self, cookie: bytes) -> Visitor | None:
        known = self._verified.get(cookie)
        if known is None:
            try:
                user, issued = self._signer.unsign(cookie, max_age=self._life_s, return_timestamp=True)
            except BadSignature:  # also SignatureExpired
                return None
            known = UserId(user.decode()), issued.timestamp()
            if len(self._verified) >= REMEMBERED:
                del self._verified[next(iter(self._verified))]
            self._verified[cookie] = known
        age_s = time.time() - known[1]
        return Visitor(known[0], age_s) if age_s <= self._life_s else None

    def issue(self, scheme: str, user: UserId | None = None) -> str:
        """A Set-Cookie value for this visitor, or for a new one."""
        user = user or UserId(f"anon-{secrets.token_urlsafe(16)}")
        secure = "; Secure" if scheme == "https" else ""
        value = self._signer.sign(user).decode()
        return f"{NAMES[scheme].decode()}={value}; Path=/; Max-Age={self._life_s}; HttpOnly; SameSite=Lax{secure}"


def _cookies(value: bytes, name: bytes) -> tuple[bytes, ...]:
    """The values that a Cookie field has for one name."""
    pairs = (pair.strip().partition(b"=") for pair in value.split(b";"))
    return tuple(cookie for found, _, cookie in pairs if found == name)


_remembered_cookies = lru_cache(1024)(_cookies)


def signing_key(path: Path) -> bytes:
    """The key at `path`, made there once, 0600; several workers may ask at the same time and get the same one.

    Raises ValueError for a file that holds less than a key: cookies signed by nothing could be forged by everybody.
    """
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())  # a machine that loses power now must not leave the name with nothing in it
            os.link(fresh, path)  # fails where another worker was first, so nobody reads a half-written key
        except FileExistsError:
            pass
        finally:
            fresh.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) < KEY_BYTES:
        raise ValueError(f"{path} is damaged: remove it, and a new key is made. Every visitor is a new one then.")
    return key
