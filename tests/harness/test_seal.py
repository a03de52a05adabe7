"""Sealed records: what was changed, cut, repeated or moved doesn't open, and does no harm to what follows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htagweb_harness.parano import _handshake, _request, _unquoted
from htagweb_harness.seal import GAPS, PAGES, Agreements, Form, Kind, Refused, Repeated, Unknown, packed, unpacked
from tests.harness.sealed_page import Agreed, Channel

HEAD = {"method": "POST", "path": "/", "query": ""}


def agreed() -> tuple[Agreements, Agreed]:
    harness, page = Agreements(), Agreed()
    page.take(harness.agree(page.point))
    return harness, page


def test_both_sides_open_what_the_other_sealed() -> None:
    harness, page = agreed()
    outside = page.channel("socket")
    inside, asked = harness.open(outside.begin(HEAD), Form.SOCKET)
    assert asked == HEAD
    for text in (b"one", b"", b"three"):
        assert inside.open(outside.seal("t", text)) == (Kind.TEXT, text)
        assert outside.open(inside.seal(Kind.BYTES, text)) == ("b", text)


def test_two_pages_have_nothing_in_common() -> None:
    harness, one = agreed()
    other = Agreed()
    other.take(harness.agree(other.point))
    begun = one.channel("socket").begin(HEAD)
    with pytest.raises(Refused):
        harness.open(other.name + begun[16:], Form.SOCKET)
    assert harness.open(begun, Form.SOCKET)


def test_a_channel_is_opened_once() -> None:
    harness, page = agreed()
    begun = page.channel("exchange").begin(HEAD)
    harness.open(begun, Form.EXCHANGE)
    with pytest.raises(Repeated):
        harness.open(begun, Form.EXCHANGE)


@pytest.mark.parametrize("form", [Form.STREAM, Form.SOCKET])
def test_a_channel_of_one_form_is_none_of_another(form: Form) -> None:
    harness, page = agreed()
    with pytest.raises(Refused):
        harness.open(page.channel("exchange").begin(HEAD), form)


def test_records_open_in_their_order_only() -> None:
    harness, page = agreed()
    outside = page.channel("socket")
    inside, _ = harness.open(outside.begin(HEAD), Form.SOCKET)
    first, second = outside.seal("t", b"1"), outside.seal("t", b"2")
    with pytest.raises(Refused):
        inside.open(second)
    inside.open(first)
    with pytest.raises(Refused):
        inside.open(first)
    assert inside.open(second) == (Kind.TEXT, b"2")


def test_an_answer_does_not_open_as_a_request() -> None:
    harness, page = agreed()
    outside = page.channel("socket")
    inside, _ = harness.open(outside.begin(HEAD), Form.SOCKET)
    with pytest.raises(Refused):
        inside.open(inside.seal(Kind.TEXT, b"mine"))


def test_channels_may_overtake_each_other() -> None:
    harness, page = agreed()
    begun = [page.channel("exchange").begin(HEAD) for _ in range(GAPS // 2)]
    random.Random(7).shuffle(begun)
    for data in begun:
        harness.open(data, Form.EXCHANGE)
    for data in begun:
        with pytest.raises(Repeated):
            harness.open(data, Form.EXCHANGE)


def test_what_is_remembered_of_channels_has_a_limit() -> None:
    harness, page = agreed()
    late = page.channel("exchange").begin(HEAD)
    for _ in range(GAPS + 1):
        harness.open(page.channel("exchange").begin(HEAD), Form.EXCHANGE)
    with pytest.raises(Repeated):  # it may have been there before: nobody knows any more
        harness.open(late, Form.EXCHANGE)
    assert len(harness._pages[page.name]._used) <= GAPS


def test_the_page_that_was_silent_for_the_longest_gives_way() -> None:
    harness, page = agreed()
    kept = Agreed()
    kept.take(harness.agree(kept.point))
    for _ in range(PAGES - 1):
        harness.open(kept.channel("exchange").begin(HEAD), Form.EXCHANGE)
        harness.agree(Agreed().point)
    assert harness.open(kept.channel("exchange").begin(HEAD), Form.EXCHANGE)
    with pytest.raises(Unknown):
        harness.open(page.channel("exchange").begin(HEAD), Form.EXCHANGE)


@pytest.mark.parametrize("point", [b"", b"\4" + bytes(64), b"\4" + b"\xff" * 64, bytes(65), b"\4" * 66])
def test_a_key_that_is_no_point_of_the_curve_is_refused(point: bytes) -> None:
    with pytest.raises(Refused):
        Agreements().agree(point)


# -- fuzz ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(Form))
def test_noise_is_refused(data: bytes, form: Form) -> None:
    harness, page = agreed()
    for each in (data, page.name + data, page.name + b"\0\0\0\1" + data):
        with pytest.raises(Refused):
            harness.open(each, form)
    with pytest.raises(Refused):
        list(unpacked(packed(data) + b"\xff" * 5))


@settings(deadline=None)
@given(st.data())
def test_whatever_is_changed_is_refused_and_the_original_still_opens(data: st.DataObject) -> None:
    harness, page = agreed()
    original = page.channel("exchange").begin(HEAD)
    changed = bytearray(original)
    match data.draw(st.sampled_from(["bit", "cut", "longer", "begin"])):
        case "bit":
            changed[data.draw(st.integers(0, len(original) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del changed[data.draw(st.integers(0, len(original) - 1)) :]
        case "longer":
            changed += data.draw(st.binary(min_size=1, max_size=40))
        case "begin":
            del changed[: data.draw(st.integers(1, 20))]
    with pytest.raises(Refused):
        harness.open(bytes(changed), Form.EXCHANGE)
    assert harness.open(original, Form.EXCHANGE)[1] == HEAD


TEXT = st.text("a/%é€?\0", max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(["method", "path", "query", "headers", "protocols"], JSON)))
def test_a_page_that_asks_for_nonsense_is_refused(asked: dict[str, object]) -> None:
    scope = {"type": "http", "headers": [(b"cookie", b"a=b")]}
    for read in (_request, _handshake):
        try:
            inner = read(scope, asked)
        except Refused:
            continue
        assert inner["raw_path"].startswith(b"/")
        assert inner["headers"][0] == (b"cookie", b"a=b")


def test_what_only_the_network_may_say_is_not_taken_from_the_page() -> None:
    scope = {"type": "http", "headers": [(b"host", b"real"), (b"x-forwarded-proto", b"https"), (b"x-a", b"outer")]}
    fields = [["Host", "h"], ["X-Forwarded-For", "f"], ["Cookie", "c"], ["X-A", "inner"], ["X-B", "b"]]
    inner = _request(scope, {"method": "get", "path": "/a%20b", "query": "q", "headers": fields})
    assert (inner["method"], inner["path"], inner["raw_path"], inner["query_string"]) == (
        "GET",
        "/a b",
        b"/a%20b",
        b"q",
    )
    assert inner["headers"] == [
        (b"host", b"real"), (b"x-forwarded-proto", b"https"), (b"x-a", b"inner"), (b"x-b", b"b"),
    ]  # fmt: skip


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_a_query_that_is_no_base64_is_refused(query: bytes) -> None:
    try:
        _unquoted(query)
    except Refused:
        pass


def test_bodies_are_whole_or_refused() -> None:
    records = [b"one", b"", b"three"]
    body = b"".join(map(packed, records))
    assert list(unpacked(body)) == records
    for end in range(1, len(body)):
        if end not in (7, 11):
            with pytest.raises(Refused):
                list(unpacked(body[:end]))


def test_a_channel_begins_with_a_head() -> None:
    harness, page = agreed()
    for kind, data in (("t", b"{}"), ("h", b"[]"), ("h", b"{"), ("h", b"[" * 100_000)):
        channel: Channel = page.channel("exchange")
        begun = channel.begin({})[:20]
        again = Channel(page, "exchange", page.channels)
        with pytest.raises(Refused):
            harness.open(begun + again.seal(kind, data), Form.EXCHANGE)
