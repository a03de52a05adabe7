"""Whose lease is over: the decision alone, without a service around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htagweb_orchestrator.model import AppName, Ending, SandboxId, State, UserId
from htagweb_orchestrator.reaper import due, duration
from htagweb_orchestrator.registry import Lease, Sandbox
from htagweb_orchestrator.settings import AppLimits

NOW = 100_000.0
LIMITS = AppLimits(idle_timeout_s=900.0, max_lifetime_s=43200.0)
seconds = st.floats(0, 50_000)


def sandbox(*, age_s: float = 0.0, silent_s: float = 0.0, frozen_s: float = 0.0, state: State = State.READY) -> Sandbox:
    lease = Lease(
        sandbox=SandboxId("0" * 32),
        uid=20000,
        user=UserId("alice"),
        app=AppName("hello"),
        version="",
        image="",
        generation=1,
        limits=LIMITS,
        boot_id="boot",
        created_s=NOW - age_s,
        claimed_s=NOW - age_s,
        last_activity_s=NOW - silent_s,
        idle_frozen_s=frozen_s,
    )
    return Sandbox(lease, state=state)


def why(one: Sandbox, *, idle_counts: bool = True) -> Ending | None:
    over = due([one], NOW, idle_counts=idle_counts)
    return over[0][1] if over else None


@pytest.mark.parametrize(
    ("age_s", "silent_s", "ending"),
    [
        (1000, 899.9, None),
        (1000, 900, Ending.IDLE),
        (43199, 0, None),
        (43200, 0, Ending.LIFETIME),
        (43200, 900, Ending.IDLE),  # both at once: idle says more
        (50000, 901, Ending.LIFETIME),  # the one that was over first
    ],
)
def test_a_lease_ends_idle_or_too_old(age_s: float, silent_s: float, ending: Ending | None) -> None:
    assert why(sandbox(age_s=age_s, silent_s=silent_s)) is ending


@pytest.mark.parametrize("state", [State.STARTING, State.ENDED])
def test_only_what_is_ready_is_due(state: State) -> None:
    assert why(sandbox(age_s=1e6, silent_s=1e6, state=state)) is None


@given(age_s=seconds, silent_s=seconds, frozen_s=seconds)
def test_idle_never_ends_a_sandbox_while_silence_proves_nothing(age_s: float, silent_s: float, frozen_s: float) -> None:
    one = sandbox(age_s=age_s, silent_s=silent_s, frozen_s=frozen_s)
    assert why(one, idle_counts=False) in (None, Ending.LIFETIME)


@given(age_s=seconds, silent_s=seconds, frozen_s=seconds)
def test_who_is_older_than_its_lifetime_is_ended_whether_or_not_idle_counts(
    age_s: float, silent_s: float, frozen_s: float
) -> None:
    one = sandbox(age_s=age_s + LIMITS.max_lifetime_s, silent_s=silent_s, frozen_s=frozen_s)
    assert why(one) is not None
    assert why(one, idle_counts=False) is Ending.LIFETIME


@given(age_s=seconds, silent_s=seconds, frozen_s=seconds)
def test_what_is_left_is_when_it_is_due(age_s: float, silent_s: float, frozen_s: float) -> None:
    one = sandbox(age_s=age_s, silent_s=silent_s, frozen_s=min(frozen_s, silent_s))
    left_s, limit = one.lease.left(NOW)
    assert due([one], NOW + left_s - 0.001, idle_counts=True) == []
    assert [ending for _, ending, _ in due([one], NOW + max(left_s, 0) + 0.001, idle_counts=True)] == [limit]


@given(silent_s=seconds, frozen_s=seconds)
def test_frozen_time_is_no_idle_time(silent_s: float, frozen_s: float) -> None:
    idle_s = sandbox(silent_s=silent_s, frozen_s=frozen_s).lease.idle_s(NOW)
    assert idle_s == pytest.approx(max(0.0, silent_s - frozen_s), abs=1e-6)


def test_no_time_stands_still_before_there_was_a_lease() -> None:
    young = sandbox(age_s=3)
    young.pass_time(NOW, 20.0, watched=False)
    assert young.lease.idle_frozen_s == 3


@pytest.mark.parametrize(
    ("length_s", "said"),
    [
        (900, "15 minutes"),
        (3600, "1 hour"),
        (43200, "12 hours"),
        (60, "1 minute"),
        (90, "90 seconds"),
        (3, "3 seconds"),
        (1, "1 second"),
        (0.5, "0.5 seconds"),
        (0, "0 seconds"),
    ],
)
def test_a_length_of_time_is_said_as_people_say_it(length_s: float, said: str) -> None:
    assert duration(length_s) == said


@given(st.integers(1, 10**6))
def test_a_length_of_time_is_said_exactly(length_s: int) -> None:
    count, unit = duration(float(length_s)).split()
    size = {"second": 1, "minute": 60, "hour": 3600}[unit.removesuffix("s")]
    assert float(count) * size == pytest.approx(length_s, rel=1e-5)
