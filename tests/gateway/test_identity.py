"""A visitor is known by a cookie that only this installation can have made."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from htagweb_gateway.identity import Identity, Visitor, signing_key

KEY = bytes(32)
Headers = list[tuple[bytes, bytes]]


def sent_back(set_cookie: str) -> Headers:
    """What a browser makes of a Set-Cookie."""
    return [(b"cookie", b"theme=dark; " + set_cookie.partition(";")[0].encode())]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_cookie_that_comes_back_names_its_visitor(scheme: str) -> None:
    identity = Identity(KEY)
    headers = sent_back(identity.issue(scheme))
    first, again = identity.visitor(headers, scheme), Identity(KEY).visitor(headers, scheme)
    assert isinstance(first, Visitor)
    assert again is not None
    assert again.user == first.user


def test_two_visitors_are_two() -> None:
    identity = Identity(KEY)
    one, other = (identity.visitor(sent_back(identity.issue("http")), "http") for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.user != other.user


def test_a_cookie_of_one_scheme_proves_nothing_under_the_other() -> None:
    identity = Identity(KEY)
    assert identity.visitor(sent_back(identity.issue("http")), "https") is None
    assert identity.visitor(sent_back(identity.issue("https")), "http") is None


@pytest.mark.parametrize("change", [lambda value: value[:-1], lambda value: "x" + value, lambda value: ""])
def test_a_forged_cookie_names_nobody(change: object) -> None:
    assert callable(change)
    name, _, value = Identity(KEY).issue("http").partition(";")[0].partition("=")
    assert Identity(KEY).visitor([(b"cookie", f"{name}={change(value)}".encode())], "http") is None
    assert Identity(b"x" * 32).visitor([(b"cookie", f"{name}={value}".encode())], "http") is None


def test_a_cookie_that_is_too_old_names_nobody() -> None:
    headers = sent_back(Identity(KEY).issue("http"))
    assert Identity(KEY, life_s=-1).visitor(headers, "http") is None


def test_attributes_keep_the_cookie_to_this_host_and_out_of_scripts() -> None:
    assert Identity(KEY).issue("https").endswith("; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax; Secure")
    assert Identity(KEY).issue("https").startswith("__Host-htagweb=")
    assert "Secure" not in Identity(KEY).issue("http")


def test_the_key_is_made_once_for_every_worker_and_read_by_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "cookie.key"
    first, again = signing_key(path), signing_key(path)
    assert first == again
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_a_power_cut_left_empty_signs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cookie.key"
    path.touch()
    with pytest.raises(ValueError, match="is damaged: remove it"):
        signing_key(path)
