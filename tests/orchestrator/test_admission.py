"""May one more sandbox start?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htagweb_orchestrator.admission import GIB, Admission, available_memory
from htagweb_orchestrator.errors import RateLimited
from htagweb_orchestrator.model import UserId
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO

MIB = 1024**2


def admission(*, total: int = 64 * GIB, free: int = 64 * GIB, starts_per_minute: int = 5) -> Admission:
    return Admission(max_per_user=5, starts_per_minute=starts_per_minute, memory=lambda: (total, free))


def allowed(one: Admission, user: UserId = ALICE, now: float = 0.0, client: str = "") -> bool:
    try:
        one.admit(user, client, now, of_user=[])
    except RateLimited:
        return False
    return True


@pytest.mark.parametrize(
    ("total", "enough"),
    [(64 * GIB, 2 * GIB * 2 // 3), (4 * GIB, 4 * GIB * 15 // 100 * 2 // 3)],
    ids=["a large machine: 2 GiB", "a small one: 15 percent"],
)
def test_below_two_thirds_of_what_is_low_nothing_starts(total: int, enough: int) -> None:
    assert admission(total=total, free=enough + 64 * MIB).fits(HELLO, [])
    assert not admission(total=total, free=enough + 64 * MIB - 1).fits(HELLO, [])
    assert not admission(total=total, free=enough + 64 * MIB).fits(HELLO, [CLOCK])
    assert admission(total=total, free=enough + 128 * MIB).fits(HELLO, [CLOCK])


def test_a_start_is_counted_with_what_the_apps_sandboxes_have_used() -> None:
    one = admission()
    assert one.expected_bytes(HELLO) == 64 * MIB
    for _ in range(19):
        one.measured(HELLO, 20 * MIB)
    one.measured(HELLO, 90 * MIB)
    assert one.expected_bytes(HELLO) == 90 * MIB
    for _ in range(50):
        one.measured(HELLO, 30 * MIB)
    assert one.expected_bytes(HELLO) == 30 * MIB
    assert one.expected_bytes(CLOCK) == 64 * MIB


def test_a_machine_is_short_of_memory_below_its_low_mark() -> None:
    assert admission(free=2 * GIB).room_to_spare()
    assert not admission(free=2 * GIB - 1).room_to_spare()


@given(times=st.lists(st.floats(0, 300), max_size=60).map(sorted))
def test_in_no_minute_starts_more_than_the_limit(times: list[float]) -> None:
    one = admission(starts_per_minute=5)
    started = [at for at in times if allowed(one, now=at)]
    for at in started:
        assert len([other for other in started if at - 60 <= other <= at]) <= 5


def test_each_user_has_a_rate_of_his_own() -> None:
    one = admission(starts_per_minute=1)
    assert allowed(one, ALICE)
    assert not allowed(one, ALICE, now=59)
    assert allowed(one, BOB)
    assert allowed(one, ALICE, now=61)


def test_whoever_throws_cookies_away_is_bounded_by_his_address() -> None:
    one = Admission(max_per_user=5, starts_per_address=3, memory=lambda: (64 * GIB, 64 * GIB))
    visitors = [UserId(f"visitor-{number}") for number in range(4)]
    assert [allowed(one, user, client="192.0.2.7") for user in visitors] == [True, True, True, False]
    assert allowed(one, ALICE, client="192.0.2.8")
    assert [allowed(one, user, client=f"2001:db8::{n}") for n, user in enumerate(visitors)] == [True] * 3 + [False]
    assert allowed(one, BOB, client="2001:db8:0:1::1")


def test_where_the_address_says_nothing_it_limits_nobody() -> None:
    one = Admission(max_per_user=5, starts_per_address=1, memory=lambda: (64 * GIB, 64 * GIB))
    for client in ("", "127.0.0.1", "::1", "testclient"):
        assert [allowed(one, UserId(f"{client}{number}"), client=client) for number in range(3)] == [True] * 3


def test_thousands_of_visitors_who_come_once_are_forgotten_and_the_busy_are_not() -> None:
    one = admission(starts_per_minute=1)
    assert allowed(one, ALICE, now=100)
    for number in range(10_001):
        assert allowed(one, UserId(f"visitor-{number}"), now=50 + number / 200)
    assert not allowed(one, ALICE, now=101)


def test_the_machines_memory_is_read_from_meminfo() -> None:
    text = "MemTotal:        1000 kB\nMemFree:          10 kB\nMemAvailable:     500 kB\nHugePages_Total:       0\n"
    assert available_memory(text) == (1000 * 1024, 500 * 1024)
    total, available = available_memory()
    assert 0 < available < total
