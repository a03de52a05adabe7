"""Who is asking: an anonymous visitor or a signed-in person, known by a signed cookie. No I/O on a request."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from itsdangerous import BadData, BadSignature, TimestampSigner, URLSafeTimedSerializer

from htagweb_orchestrator.model import Person, SignIn, UserId, sign_in_id

from .sign_ins import SignIns

DAY_S = 86_400
KEY_BYTES = 32
REMEMBERED_BYTES = 1024  # Cookie fields that are no longer are taken apart once
REMEMBERED = 10_000  # verified cookies a worker keeps; an HMAC each costs more than all the rest of routing
# Neither name is accepted under the other scheme: a cookie set over plain http proves nothing under https.
NAMES = {"http": b"htagweb", "https": b"__Host-htagweb"}
OPERATOR = {"http": b"htagweb-operator", "https": b"__Host-htagweb-operator"}  # an operator's token, beside his sign-in
PROVIDER = {"http": b"htagweb-provider", "https": b"__Host-htagweb-provider"}  # a sign-in that is under way elsewhere
# Sent to /-/logout alone, which no cookie with the other prefix can be.
HINT = {"http": b"htagweb-hint", "https": b"__Secure-htagweb-hint"}
ENTRY = {"http": b"htagweb-entry", "https": b"__Host-htagweb-entry"}  # of an app's host, while it asks who this is
COOKIE_NAMES = frozenset(name for names in (NAMES, OPERATOR, PROVIDER, HINT, ENTRY) for name in names.values())
_SIGNED_IN = "in-"  # begins the content of a person's cookie, then comes the secret of the sign-in
_SIGN_IN = "id-"  # the same at an app's own host, then comes the sign-in's id


class Visitor(NamedTuple):
    user: UserId
    age_s: float  # since the cookie was issued
    sign_in: SignIn | None = None  # None: an anonymous one

    @property
    def person(self) -> Person | None:
        return self.sign_in.person if self.sign_in is not None else None


class Cookie(NamedTuple):
    """One that we made, whoever it stands for."""

    user: UserId  # of an anonymous visitor
    sign_in: str  # the id of a person's sign-in, "" for an anonymous visitor
    issued: float


class Identity:
    """Issues and verifies the visitor's cookie. `key` signs it; `life_s` is how long an anonymous one is good for.

    A person's cookie counts for as long as `sign_ins` knows of the sign-in: nothing that a browser invents is adopted.
    """

    def __init__(self, key: bytes, *, life_s: int = 30 * DAY_S) -> None:
        self.sign_ins = SignIns()
        self._key = key
        self._signer = TimestampSigner(key, salt="htagweb.visitor")
        self.life_s = life_s
        self._verified: dict[tuple[str, bytes], Cookie] = {}

    def visitor(self, headers: Iterable[tuple[bytes, bytes]], scheme: str, app: str = "") -> Visitor | None:
        """Who sends these headers; None without a cookie of ours, and for one that is forged, too old or signed out.
        `app` is the one whose own host was asked."""
        name = NAMES[scheme]
        for key, value in headers:
            if key == b"cookie":
                short = len(value) <= REMEMBERED_BYTES
                for cookie in _remembered_cookies(value, name) if short else _cookies(value, name):
                    if visitor := self._verify(cookie, app):
                        return visitor
        return None

    def _verify(self, cookie: bytes, app: str) -> Visitor | None:
        known = self._verified.get((app, cookie)) or self._read(cookie, app)
        if known is None:
            return None
        age_s = time.time() - known.issued
        if not known.sign_in:
            good = age_s <= self.life_s and known.user not in self.sign_ins.became_persons
            return Visitor(known.user, age_s) if good else None
        sign_in = self.sign_ins.get(known.sign_in)  # which has a life of its own
        return Visitor(sign_in.person.id, age_s, sign_in) if sign_in is not None else None

    def _read(self, cookie: bytes, app: str) -> Cookie | None:
        try:
            content, issued = self._signer_at(app).unsign(cookie, return_timestamp=True)
        except BadSignature:
            return None
        text = content.decode()
        if text.startswith(_SIGNED_IN):
            found = Cookie(UserId(""), sign_in_id(text.removeprefix(_SIGNED_IN)), issued.timestamp())
        elif text.startswith(_SIGN_IN):
            found = Cookie(UserId(""), text.removeprefix(_SIGN_IN), issued.timestamp())
        else:
            found = Cookie(UserId(text), "", issued.timestamp())
        if len(self._verified) >= REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[app, cookie] = found
        return found

    def _signer_at(self, app: str) -> TimestampSigner:
        """What is signed for one host is nothing at another."""
        return TimestampSigner(self._key, salt=f"htagweb.visitor@{app}") if app else self._signer

    def secret(self, headers: Iterable[tuple[bytes, bytes]], scheme: str) -> str:
        """The secret of the sign-in that these headers bring, for the orchestrator alone; "" without one of ours."""
        for cookie in find_cookies(headers, NAMES[scheme]):
            try:
                text = self._signer.unsign(cookie).decode()
            except BadSignature:
                continue
            if text.startswith(_SIGNED_IN):
                return text.removeprefix(_SIGNED_IN)
        return ""

    def issue(self, scheme: str, user: UserId | None = None) -> str:
        """A Set-Cookie value for this anonymous visitor, or for a new one."""
        user = user or UserId(f"anon-{secrets.token_urlsafe(16)}")
        return set_cookie(NAMES, scheme, self._signer.sign(user).decode(), life_s=self.life_s)

    def issue_to(self, scheme: str, secret: str, *, life_s: float) -> str:
        """A Set-Cookie value for a person who has just signed in."""
        return set_cookie(NAMES, scheme, self._signer.sign(_SIGNED_IN + secret).decode(), life_s=int(life_s))

    def issue_at(self, scheme: str, app: str, *, user: str, sign_in: str) -> str | None:
        """A Set-Cookie value for an app's own host; None where the sign-in of that id is over."""
        life_s = self.life_s
        if sign_in:
            if (known := self.sign_ins.get(sign_in)) is None:
                return None
            life_s = int(known.left_s)
        content = _SIGN_IN + sign_in if sign_in else user
        return set_cookie(NAMES, scheme, self._signer_at(app).sign(content).decode(), life_s=life_s)

    def seal(self, purpose: str, facts: object) -> str:
        """`facts` (JSON) for a browser to bring back: it can read them, and can't make others."""
        return str(URLSafeTimedSerializer(self._key, salt=f"htagweb.{purpose}").dumps(facts))

    def unseal(self, purpose: str, sealed: str, *, max_age_s: int) -> Any:
        """The facts that were sealed for this purpose; None for what we did not seal, or too long ago."""
        try:
            return URLSafeTimedSerializer(self._key, salt=f"htagweb.{purpose}").loads(sealed, max_age=max_age_s)
        except BadData:
            return None


def set_cookie(
    names: Mapping[str, bytes], scheme: str, value: str, *, life_s: int, same_site: str = "Lax", path: str = "/"
) -> str:
    """A Set-Cookie value, for this host alone and out of the reach of scripts. `life_s` of 0 takes the cookie away."""
    secure = "; Secure" if scheme == "https" else ""
    name = names[scheme].decode()
    return f"{name}={value}; Path={path}; Max-Age={life_s}; HttpOnly; SameSite={same_site}{secure}"


def find_cookies(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The values that a browser sends under this name, which may be several."""
    return [cookie for key, value in headers if key == b"cookie" for cookie in _cookies(value, name)]


def find_cookie(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """The first of them, "" if there is none."""
    return next(iter(find_cookies(headers, name)), b"").decode("latin-1")


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
