"""Which requests may come in, by their shape alone."""

from __future__ import annotations

from typing import Any

import pytest

from htagweb_gateway.front import check, check_framing, check_origin, check_path, host_allowed, parse_target, split_host
from htagweb_orchestrator.model import Platform


def scope(path: bytes = b"/app/", query: bytes = b"", method: str = "GET", **headers: str) -> dict[str, Any]:
    fields = {"host": "localhost", **headers}
    return {
        "type": "http",
        "method": method,
        "http_version": "1.1",
        "raw_path": path,
        "query_string": query,
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()],
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", (None, b"/")),
        (b"/counter", ("counter", b"")),
        (b"/counter/", ("counter", b"/")),
        (b"/counter/a%2fb;c//d", ("counter", b"/a%2fb;c//d")),
        (b"/my-app-2/x", ("my-app-2", b"/x")),
        (b"/-/status", (None, b"/-/status")),
        (b"/Counter/", (None, b"/Counter/")),
        (b"/%63ounter/", (None, b"/%63ounter/")),
        (b"/" + b"a" * 64 + b"/", (None, b"/" + b"a" * 64 + b"/")),
    ],
)
def test_a_path_names_its_app_in_the_first_segment(path: bytes, expected: tuple[str | None, bytes]) -> None:
    assert parse_target(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        b"//evil/", b"x", b"", b"*", b"http://evil/", b"/a/../b", b"/a/..", b"/..", b"/a/./b", b"/a/%2e%2e/b",
        b"/a/.%2E/b", b"/a/%252e%252e/b", b"/a/%25252e./b", b"/a/..%2fb", b"/a%2f..%2fb", b"/a\\b", b"/a/b\\c",
        b"/a/%00", b"/%00", b"/a b", b"/a\tb", b"/a\x7f", b"/a#b", b"/a%2fb/", b"/a%5Cb/", b"/a;b/", b"/..;/x",
        b"/a%0d%0ab/", b"/%c0%ae/", b"/%ff/", b"/%ed%a0%80/", b"/\xff/",
    ],
)  # fmt: skip
def test_a_path_that_could_be_read_in_two_ways_is_refused(path: bytes) -> None:
    refusal = check_path(path)
    assert refusal is not None
    assert refusal.status == 400


@pytest.mark.parametrize(
    "path",
    [
        b"/", b"/a/b", b"/a/%2f/b", b"/a/b%5cc", b"/a/b;c=d", b"/a//b", b"/a/.well-known", b"/a/...", b"/a/..b",
        b"/a/%0d%0a", b"/a/%ff", b"/a/%E2%82%AC", b"/%E2%82%AC/", b"/a/b:c@d!$&'()*+,=~", b"/a/%",
    ],
)  # fmt: skip
def test_below_the_first_segment_a_path_is_the_apps_own_business(path: bytes) -> None:
    assert check_path(path) is None


def test_a_query_may_hold_all_but_raw_control_bytes() -> None:
    assert check_path(b"/a/", b"next=//evil/../%00\\;%0a") is None
    for bad in (b"a\r\nb", b"a b", b"a\x00"):
        assert check_path(b"/a/", bad) is not None


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get"])
def test_other_methods_are_refused(method: str) -> None:
    refusal = check(scope(method=method))
    assert refusal is not None
    assert refusal.status == 405


def test_an_ordinary_request_is_let_in() -> None:
    assert check(scope(b"/app/x", b"a=b", method="POST", content_length="3", host="127.0.0.1:8000")) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"1"), (b"content-length", b"1")],
        [(b"content-length", b"1,1")],
        [(b"content-length", b"+1")],
        [(b"content-length", b"")],
        [(b"transfer-encoding", b"gzip, chunked")],
        [(b"transfer-encoding", b"chunked, gzip")],
        [(b"transfer-encoding", b"xchunked")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")],
    ],
)
def test_a_body_whose_end_is_ambiguous_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    assert check_framing("1.1", headers) is not None


def test_http_1_0_has_no_chunks() -> None:
    assert check_framing("1.0", [(b"transfer-encoding", b"chunked")]) is not None
    assert check_framing("1.1", [(b"transfer-encoding", b"Chunked")]) is None


def test_a_handshake_has_no_body() -> None:
    assert check_framing("1.1", [(b"content-length", b"3")], websocket=True) is not None
    assert check_framing("1.1", [(b"transfer-encoding", b"chunked")], websocket=True) is not None
    assert check_framing("1.1", [(b"content-length", b"0")], websocket=True) is None


@pytest.mark.parametrize(
    "hosts",
    [
        [], ["a", "a"], [""], ["a/admin"], ["user@host"], ["a b"], ["a:"], ["a:99999"], ["a:0"], ["a:1:2"], ["a."],
        ["[::1"], ["[::1]x"], ["a?b"], ["a#b"], ["a\\b"], [".a"], ["é"],
    ],
)  # fmt: skip
def test_exactly_one_well_formed_host_is_needed(hosts: list[str]) -> None:
    request = scope()
    request["headers"] = [(b"host", host.encode()) for host in hosts]
    refusal = check(request)
    assert refusal is not None
    assert refusal.status == 400


def test_too_many_fields_are_refused() -> None:
    request = scope()
    request["headers"] += [(b"x", b"")] * 100
    refusal = check(request)
    assert refusal is not None
    assert refusal.status == 431


def test_a_host_has_a_name_and_perhaps_a_port() -> None:
    assert split_host(b"Example.COM:8000") == (b"example.com", 8000)
    assert split_host(b"[::1]:80") == (b"[::1]", 80)
    assert split_host(b"my_service") == (b"my_service", None)


@pytest.mark.parametrize("host", [b"localhost:8000", b"app.LOCALHOST", b"127.0.0.1", b"127.1.2.3:1", b"[::1]:8000"])
def test_development_is_for_localhost(host: bytes) -> None:
    assert host_allowed(host, Platform(dev=True))


@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example", b"10.0.0.1"])
def test_development_is_for_nobody_else(host: bytes) -> None:
    assert not host_allowed(host, Platform(dev=True))
    assert host_allowed(host, Platform())


def test_with_a_public_url_there_is_one_host() -> None:
    platform = Platform(public_url="https://apps.example")
    assert host_allowed(b"apps.example", platform)
    assert host_allowed(b"APPS.example:443", platform)
    assert not host_allowed(b"apps.example:80", platform)
    assert not host_allowed(b"other.example", platform)
    assert not host_allowed(b"not a host", platform)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (b"http://localhost:8000", b"localhost:8000"),
        (b"https://apps.example", b"apps.example"),
        (b"https://apps.example", b"apps.example:443"),
        (b"http://APPS.example", b"apps.EXAMPLE:80"),
        (b"http://[::1]:8000", b"[::1]:8000"),
    ],
)
def test_a_page_of_ours_may_speak(origin: bytes, host: bytes) -> None:
    assert check_origin(origin, host=host, scheme=None) is None


@pytest.mark.parametrize(
    "origin",
    [
        b"null", b"", b"https://evil.example", b"https://apps.example.evil", b"https://evil-apps.example",
        b"https://apps.example:8443", b"https://apps.example/", b"https://user@apps.example", b"file://apps.example",
        b"apps.example", b"https://apps.example https://evil.example",
    ],
)  # fmt: skip
def test_a_page_of_somebody_else_may_not(origin: bytes) -> None:
    refusal = check_origin(origin, host=b"apps.example", scheme=None)
    assert refusal is not None
    assert refusal.status == 403


def test_the_scheme_counts_where_it_is_known() -> None:
    assert check_origin(b"http://apps.example", host=b"apps.example", scheme=None) is None
    refusal = check_origin(b"http://apps.example", host=b"apps.example", scheme="https")
    assert refusal is not None
    assert "public_url" in refusal.message


def test_who_sends_no_origin_is_a_matter_of_policy() -> None:
    assert check_origin(None, host=b"a", scheme=None) is not None
    assert check_origin(None, host=b"a", scheme=None, missing_ok=True) is None
