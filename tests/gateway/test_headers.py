"""Which headers travel, in both directions."""

from __future__ import annotations

import msgspec
import pytest

from htagweb_gateway.headers import Forward, RawHeaders, handshake_headers, request_headers, response_headers

FORWARD = Forward(
    prefix="/counter",
    target=b"/",
    host=b"apps.example:8000",
    scheme="https",
    client="192.0.2.1",
    cookie_names=frozenset({b"htagweb", b"__Host-htagweb"}),
)


def asked(*headers: tuple[bytes, bytes]) -> RawHeaders:
    return request_headers(headers, FORWARD)


def answered(*headers: tuple[bytes, bytes], status: int = 200) -> RawHeaders:
    return response_headers(headers, FORWARD, status=status)


def cookie(value: bytes) -> list[bytes]:
    return [found for _, found in answered((b"set-cookie", value))]


def location(value: bytes, forward: Forward = FORWARD) -> bytes:
    [(_, found)] = response_headers([(b"location", value)], forward)
    return found


def test_the_sandbox_is_told_where_the_visitor_is() -> None:
    assert asked() == [
        (b"host", b"apps.example:8000"),
        (b"x-forwarded-for", b"192.0.2.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"apps.example:8000"),
        (b"x-forwarded-prefix", b"/counter"),
    ]
    chain = msgspec.structs.replace(FORWARD, forwarded_for="198.51.100.7, 192.0.2.1", prefix="")
    told = dict(request_headers([], chain))
    assert told[b"x-forwarded-for"] == b"198.51.100.7, 192.0.2.1"
    assert b"x-forwarded-prefix" not in told


@pytest.mark.parametrize(
    "name",
    [
        b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
        b"proxy-connection", b"proxy-authorization", b"proxy-anything", b"expect", b"forwarded", b"via",
        b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix", b"x-forwarded-user",
        b"x_forwarded_for", b"x-forwarded_host", b"x-real-ip", b"x_real_ip", b"x-htagweb-secret", b"x_htag_user",
        b"x-htag-user", b"x_htag_token", b"x-htagweb-user", b"authorization", b"content-length", b"host",
    ],
)  # fmt: skip
def test_what_a_visitor_may_not_say_does_not_arrive(name: bytes) -> None:
    assert (name, b"forged") not in asked((name, b"forged"), (b"x-mine", b"1"))
    assert b"forged" not in b" ".join(value for _, value in asked((name, b"forged")))


def test_headers_named_by_connection_stay_here_and_ours_come_after() -> None:
    told = asked((b"connection", b"close, X-Mine"), (b"x-mine", b"1"), (b"connection", b"X-Forwarded-Prefix"))
    assert b"x-mine" not in dict(told)
    assert dict(told)[b"x-forwarded-prefix"] == b"/counter"


def test_other_headers_travel_as_they_are_and_in_order() -> None:
    own = [(b"accept", b"a"), (b"x-a", b"1"), (b"x-a", b"2"), (b"x_own", b"caf\xe9"), (b"range", b"bytes=0-")]
    own += [(b"x-htag-token", b"of htag 2 itself")]
    assert asked(*own)[1:7] == own


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        (b"htagweb=secret", None),
        (b"a=1; htagweb=secret; b=2", b"a=1; b=2"),
        (b"htagweb=secret;__Host-htagweb=x;a=1", b"a=1"),
        (b" htagweb =secret; a=1", b"a=1"),
        (b"xhtagweb=1; htagwebx=2", b"xhtagweb=1; htagwebx=2"),
        (b"a=1; a=2", b"a=1; a=2"),
    ],
)
def test_the_platforms_cookie_never_reaches_the_sandbox(sent: bytes, left: bytes | None) -> None:
    assert dict(asked((b"cookie", sent))).get(b"cookie") == left
    assert dict(handshake_headers([(b"cookie", sent)], FORWARD)).get(b"cookie") == left


def test_a_handshake_is_made_anew() -> None:
    headers = [
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-key", b"x"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"sec-websocket-protocol", b"chat"),
        (b"origin", b"https://apps.example:8000"),
    ]
    assert [name for name, _ in handshake_headers(headers, FORWARD)][:2] == [b"host", b"origin"]


@pytest.mark.parametrize(
    "name",
    [
        b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer", b"te", b"proxy-authenticate",
        b"clear-site-data", b"strict-transport-security", b"public-key-pins", b"public-key-pins-report-only",
        b"alt-svc", b"nel", b"report-to", b"reporting-endpoints", b"x-accel-redirect", b"x-accel-buffering",
        b"x-sendfile", b"service-worker-allowed", b"server", b"via", b"date",
    ],
)  # fmt: skip
def test_what_outlives_a_sandbox_or_steers_a_proxy_is_removed(name: bytes) -> None:
    assert answered((name, b"x"), (b"x-mine", b"1")) == [(b"x-mine", b"1")]


def test_what_the_answers_connection_names_is_removed() -> None:
    assert answered((b"connection", b"X-Mine"), (b"x-mine", b"1"), (b"etag", b'"1"')) == [(b"etag", b'"1"')]


def test_an_answer_without_a_body_has_no_length() -> None:
    assert answered((b"content-length", b"5"), status=304) == []
    assert answered((b"content-length", b"5")) == [(b"content-length", b"5")]


@pytest.mark.parametrize(
    ("set_", "confined"),
    [
        (b"a=1", b"a=1; Path=/counter/"),
        (b"a=1; Path=/", b"a=1; Path=/counter/"),
        (b"a=1; path=/other/", b"a=1; Path=/counter/"),
        (b"a=1; Path=/counter/x", b"a=1; Path=/counter/x"),
        (b"a=1; Path=/counterx/", b"a=1; Path=/counter/"),
        (b"a=1; Path=/counter/; Path=/", b"a=1; Path=/counter/"),
        (b"a=1; Domain=example; HttpOnly", b"a=1; HttpOnly; Path=/counter/"),
        (b"a=1; DOMAIN = .example ;Secure", b"a=1; Secure; Path=/counter/"),
        (
            b"a=b=c; Expires=Wed, 21 Oct 2065 07:28:00 GMT",
            b"a=b=c; Expires=Wed, 21 Oct 2065 07:28:00 GMT; Path=/counter/",
        ),
        (b"a=", b"a=; Path=/counter/"),
    ],
)
def test_a_cookie_is_confined_to_its_app(set_: bytes, confined: bytes) -> None:
    assert cookie(set_) == [confined]


@pytest.mark.parametrize(
    "set_",
    [
        b"htagweb=x", b"HTAGWEB=x", b" htagweb =x", b"__Host-htagweb=x", b"__Host-a=1", b"__host-a=1", b"__Secure-a=1",
        b"=htagweb=x", b"htagweb", b"", b"=", b"a\tb=1", b"a b=1", b"a=" + b"x" * 4096,
    ],
)  # fmt: skip
def test_a_cookie_that_could_pass_for_ours_is_not_set(set_: bytes) -> None:
    assert cookie(set_) == []


def test_several_cookies_stay_several_up_to_a_limit() -> None:
    set_ = [(b"set-cookie", b"c%d=1" % n) for n in range(30)]
    names = [value.partition(b"=")[0] for _, value in answered(*set_)]
    assert names == [b"c%d" % n for n in range(20)]


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (b"/", b"/counter/"),
        (b"/x?a=/b#c", b"/counter/x?a=/b#c"),
        (b"/counter", b"/counter"),
        (b"/counter/x", b"/counter/x"),
        (b"/counter?x", b"/counter?x"),
        (b"/counterx", b"/counter/counterx"),
        (b"http://apps.example:8000/x", b"/counter/x"),
        (b"https://APPS.example:8000/counter/x", b"/counter/x"),
        (b"//apps.example:8000/x", b"/counter/x"),
        (b"http://apps.example:8000", b"/counter/"),
        (b"http://apps.example:8000?x", b"/counter/?x"),
        (b"http://apps.example:8000//evil.example/", b"/counter//evil.example/"),
        (b"x", b"x"),
        (b"?x", b"?x"),
        (b"", b""),
        (b"http://apps.example/x", b"http://apps.example/x"),
        (b"https://elsewhere.example/x", b"https://elsewhere.example/x"),
        (b"//elsewhere.example/x", b"//elsewhere.example/x"),
        (b"http://169.254.169.254/", b"http://169.254.169.254/"),
        (b"mailto:a@b", b"mailto:a@b"),
    ],
)
def test_a_redirect_to_the_app_itself_stays_under_its_prefix(sent: bytes, seen: bytes) -> None:
    assert location(sent) == seen


def test_at_the_root_nothing_needs_a_prefix() -> None:
    root = msgspec.structs.replace(FORWARD, prefix="")
    assert location(b"/x", root) == b"/x"
    assert response_headers([(b"set-cookie", b"a=1; Path=/x")], root) == [(b"set-cookie", b"a=1; Path=/x")]


def test_a_proxy_in_front_is_told_not_to_hold_events_back() -> None:
    events = response_headers([(b"content-type", b"text/event-stream; charset=utf-8")], FORWARD)
    assert (b"x-accel-buffering", b"no") in events
    assert b"x-accel-buffering" not in dict(response_headers([(b"content-type", b"text/html")], FORWARD))
