"""The two parsers of what sandboxes answer: the pieces make no difference, and no bytes make them stumble."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from htagweb_gateway import answer, handshake
from htagweb_gateway.upstream_errors import BadResponse

from .sockets import HANDSHAKE, accept_of, frame, switching

cuts = st.lists(st.integers(min_value=0), max_size=30)

ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\n\r\nuntil the end",
]
# What answers are made of, so that chance comes further than the first line.
TOKENS = [
    *(b"HTTP/1.1 ", b"200 OK", b"101 Switching Protocols", b"204 N", b"\r\n", b"\n", b"\r\n\r\n", b"\x00", b" "),
    *(b"Content-Length: 5", b"Content-Length: -1", b"Transfer-Encoding: chunked", b"Upgrade: websocket"),
    *(b"Connection: Upgrade", b"Connection: close", b"5\r\nhello\r\n", b"0\r\n\r\n", b"fffffffffffffffff\r\n"),
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"x" * 70_000),
]
hostile = st.lists(
    st.one_of(
        st.binary(max_size=50),
        st.sampled_from(TOKENS),
    ),
    max_size=20,
)


def pieces(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in at), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


def read(parts: list[bytes]) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
    found = answer.Answer(no_body=False)
    body = b""
    for part in parts:
        found.feed(part)
        body += found.take()
    found.end()
    return found.status, found.headers, body, found.complete


@given(st.sampled_from(ANSWERS), cuts)
def test_an_answer_is_the_same_however_it_is_cut(stream: bytes, at: list[int]) -> None:
    whole = read([stream])
    assert whole[3]
    assert read(pieces(stream, at)) == whole


@given(hostile, cuts)
@example([b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 70_000], [])
def test_whatever_a_sandbox_answers_is_an_answer_or_a_bad_one(parts: list[bytes], at: list[int]) -> None:
    found = answer.Answer(no_body=False)
    stream = b"".join(parts)
    try:
        for part in pieces(stream, at):
            found.feed(part)
    except BadResponse:
        assert not found.complete
    assert found.waiting <= len(stream)
    assert sum(len(name) + len(value) for name, value in found.headers) <= answer.HEAD_BYTES


def offer() -> handshake.Offer:
    pairs = (line.split(b": ", 1) for line in HANDSHAKE)
    return handshake.Offer({"headers": [(name.lower(), value) for name, value in pairs]})


SWITCHING = switching(accept_of(b"\r\n".join(HANDSHAKE)), b"Server: x")


@given(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]), st.binary(max_size=200), cuts)
def test_a_handshakes_answer_ends_where_it_ends(before: bytes, after: bytes, at: list[int]) -> None:
    found = handshake.Answer(offer())
    left = pieces(before + SWITCHING + frame(2, after, masked=False), at)
    while not found.status:
        found.feed(left.pop(0))
    assert found.status == 101
    assert found.rest + b"".join(left) == frame(2, after, masked=False)


@given(hostile, cuts)
def test_whatever_answers_a_handshake_is_an_answer_or_a_bad_one(parts: list[bytes], at: list[int]) -> None:
    found = handshake.Answer(offer())
    for part in pieces(b"".join(parts), at):
        try:
            found.feed(part)
        except BadResponse:
            break
        if found.status:
            break
    assert found.status == 0 or 400 <= found.status <= 599
    assert found.choice is None
