"""The tracker of frame headers: whatever the pieces, it sees the same frames, and passes on whole ones only."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htagweb_gateway.frames import Frames, Rate, close_frame

from .sockets import BINARY, CLOSE, MORE, PING, PONG, TEXT, frame

ANY = 1 << 62


@dataclass
class Heard:
    """What came of some pieces."""

    frames: Frames
    passed: bytes = b""
    data: list[int] = field(default_factory=list)


def hear(*pieces: bytes, masked: bool = True, message_size: int = ANY, extended: bool = False) -> Heard:
    data: list[int] = []
    heard = Heard(
        Frames(masked=masked, message_size=message_size, extended=extended, on_data=lambda: data.append(1)), data=data
    )
    for piece in pieces:
        heard.passed += heard.frames.feed(piece)
    return heard


def pieces_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


messages = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([PING, PONG]), st.lists(st.binary(max_size=125), min_size=1, max_size=1)),
        st.tuples(
            st.sampled_from([TEXT, BINARY]),
            st.lists(st.sampled_from([0, 1, 125, 126, 127, 65535, 65536]).map(bytes), min_size=1, max_size=3),
        ),
    ),
    max_size=6,
)


def frames_of(said: list[tuple[int, list[bytes]]], *, masked: bool) -> list[bytes]:
    return [
        frame(opcode if i == 0 else MORE, payload, fin=i == len(payloads) - 1, masked=masked)
        for opcode, payloads in said
        for i, payload in enumerate(payloads)
    ]


@given(messages, st.lists(st.integers(min_value=0), max_size=20), st.booleans())
def test_however_it_is_cut_everything_passes_and_data_frames_are_counted(
    said: list[tuple[int, list[bytes]]], cuts: list[int], masked: bool
) -> None:
    stream = b"".join(frames_of(said, masked=masked))
    heard = hear(*pieces_of(stream, cuts), masked=masked)
    assert heard.passed == stream
    assert heard.frames.violation is None
    assert heard.frames.between
    assert not heard.frames.ending
    assert len(heard.data) == sum(len(payloads) for opcode, payloads in said if opcode < 8)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("masked", [True, False])
def test_a_frame_may_come_byte_by_byte(size: int, masked: bool) -> None:
    stream = frame(BINARY, bytes(size), masked=masked) + frame(PING, b"x", masked=masked)
    heard = hear(*(stream[i : i + 1] for i in range(len(stream))), masked=masked)
    assert (heard.passed, heard.frames.between, len(heard.data)) == (stream, True, 1)


@given(messages, st.lists(st.integers(min_value=0), max_size=20), st.integers(min_value=0), st.booleans())
def test_muted_anywhere_it_ends_with_the_frame_that_was_begun(
    said: list[tuple[int, list[bytes]]], cuts: list[int], when: int, masked: bool
) -> None:
    frames = frames_of(said, masked=masked)
    stream = b"".join(frames)
    pieces = pieces_of(stream, cuts)
    tracker = Frames(masked=masked, message_size=ANY)
    passed = b""
    for i, piece in enumerate(pieces):
        if i == when % len(pieces):
            begun = passed
            tracker.mute()
        passed += tracker.feed(piece)
    assert tracker.between
    ends = [len(b"".join(frames[:n])) for n in range(len(frames) + 1)]
    assert len(passed) == min(end for end in ends if end >= len(begun))
    assert passed == stream[: len(passed)]


@given(messages, st.lists(st.integers(min_value=0), max_size=20), st.binary(max_size=40))
def test_after_the_close_frame_nothing_passes(
    said: list[tuple[int, list[bytes]]], cuts: list[int], after: bytes
) -> None:
    stream = b"".join(frames_of(said, masked=True)) + frame(CLOSE, b"\x03\xe8bye")
    heard = hear(*pieces_of(stream + after, cuts))
    assert heard.passed == stream
    assert heard.frames.closed
    assert heard.frames.violation is None


def test_a_close_frame_counts_when_it_is_whole() -> None:
    stream = frame(CLOSE, b"\x03\xe8bye")
    heard = hear(stream[:-1])
    assert (heard.frames.ending, heard.frames.closed, heard.frames.between) == (True, False, False)
    heard.frames.feed(stream[-1:])
    assert (heard.frames.closed, heard.frames.between) == (True, True)


FORBIDDEN = {
    "unmasked": frame(TEXT, b"x", masked=False),
    "reserved bit": frame(TEXT, b"x", reserved=0x40),
    "reserved opcode": frame(3, b"x"),
    "reserved control opcode": frame(11, b"x"),
    "long ping": frame(PING, bytes(126)),
    "fragmented ping": frame(PING, b"x", fin=False),
    "close of one byte": frame(CLOSE, b"x"),
    "more of nothing": frame(MORE, b"x"),
    "message within a message": frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"),
    "long form of a short length": b"\x81\xfe\x00\x7d",
    "longest form of a middling length": b"\x81\xff" + (65535).to_bytes(8, "big"),
    "negative length": b"\x81\xff" + (1 << 63).to_bytes(8, "big"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
@given(cuts=st.lists(st.integers(min_value=0), max_size=20))
def test_what_is_no_frame_ends_it_before_any_byte_of_it_has_passed(name: str, cuts: list[int]) -> None:
    good = frame(BINARY, bytes(200))
    heard = hear(*pieces_of(good + FORBIDDEN[name] + bytes(20), cuts), message_size=ANY)
    assert heard.frames.violation is not None
    assert heard.frames.violation.code == 1002
    assert heard.frames.between
    first_part = frame(TEXT, b"x", fin=False)
    kept = len(good) + (len(first_part) if name == "message within a message" else 0)
    assert len(heard.passed) == kept


def test_a_server_may_not_mask() -> None:
    heard = hear(frame(TEXT, b"x", masked=True), masked=False)
    assert heard.frames.violation is not None


def test_what_is_plainly_wrong_is_refused_before_its_header_is_whole() -> None:
    assert hear(b"\x81\x00").frames.violation is not None


def test_an_extension_gives_the_reserved_bits_a_meaning() -> None:
    assert hear(frame(TEXT, b"x", reserved=0x40), extended=True).frames.violation is None


@given(st.lists(st.integers(min_value=0), max_size=20))
def test_a_message_is_measured_over_all_its_frames(cuts: list[int]) -> None:
    allowed = frame(TEXT, bytes(600), fin=False) + frame(PING, bytes(100)) + frame(MORE, bytes(400))
    one_more = frame(TEXT, bytes(600), fin=False) + frame(MORE, bytes(400), fin=False)
    stream = allowed + one_more + frame(MORE, b"x") + frame(TEXT, b"later") + frame(CLOSE, b"\x03\xe8")
    heard = hear(*pieces_of(stream, cuts), message_size=1000)
    assert heard.frames.violation is not None
    assert heard.frames.violation.code == 1009
    assert heard.passed == stream[: len(allowed + one_more)]
    assert heard.frames.closed  # the goodbye is still heard


@given(st.lists(st.binary(max_size=300), max_size=30), st.booleans())
def test_nonsense_never_breaks_the_tracker(pieces: list[bytes], masked: bool) -> None:
    heard = hear(*pieces, masked=masked, message_size=1 << 20)
    assert b"".join(pieces).startswith(heard.passed)
    assert heard.frames.violation is None or heard.frames.between


def test_frames_that_come_too_fast_are_a_violation() -> None:
    now = [100.0]
    tracker = Frames(masked=True, message_size=ANY, rate=Rate(10, clock=lambda: now[0]))
    ping = frame(PING)
    assert tracker.feed(ping * 20) == ping * 20
    now[0] += 1
    assert tracker.feed(ping * 10) == ping * 10
    assert tracker.feed(ping) == b""
    assert tracker.violation is not None
    assert tracker.violation.code == 1008


@pytest.mark.parametrize(("size", "allowed"), [(4096, True), (4095, False)])
def test_a_long_message_in_pieces_is_no_more_than_one(size: int, allowed: bool) -> None:
    tracker = Frames(masked=True, message_size=ANY, rate=Rate(10, clock=lambda: 0.0))
    pieces = frame(TEXT, bytes(size), fin=False) + frame(MORE, bytes(size), fin=False) * 100
    assert (tracker.feed(pieces) == pieces) is allowed
    assert (tracker.violation is None) is allowed


def test_a_rate_gives_no_more_for_having_waited_long() -> None:
    now = [0.0]
    rate = Rate(1000, clock=lambda: now[0])
    now[0] = 1e6
    assert sum(rate.spend() for _ in range(10_000)) == 2000
    now[0] += 0.5
    assert sum(rate.spend() for _ in range(10_000)) == 500


@pytest.mark.parametrize("masked", [True, False])
def test_a_reason_is_cut_where_a_character_ends(masked: bool) -> None:
    tracker = Frames(masked=masked, message_size=ANY)
    said = close_frame(1001, "é" * 100, masked=masked)
    assert tracker.feed(said) == said
    assert tracker.closed
    assert len(said) == 2 + 4 * masked + 2 + 122
