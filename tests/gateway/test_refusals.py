"""What a gateway tells for the audit log, however much strangers do."""

from __future__ import annotations

from htagweb_gateway.refusals import IN_WINDOW, PENDING, WINDOW_S, Refusals
from htagweb_orchestrator.api import MOST_REFUSED
from htagweb_orchestrator.model import AppName, Refusal, Refused


def refusal(number: int) -> Refusal:
    return Refusal(why=Refused.FORBIDDEN, app=AppName("todo"), client=f"192.0.2.{number}")


def test_the_same_is_told_once_in_a_minute_and_of_the_different_only_so_many() -> None:
    now = [0.0]
    refusals = Refusals(clock=lambda: now[0])
    for number in [1, 1, *range(IN_WINDOW + 50)]:
        refusals.add(refusal(number))
    told = refusals.take()
    assert told == [refusal(1), refusal(0), *map(refusal, range(2, IN_WINDOW))]
    assert refusals.take() == []
    now[0] += WINDOW_S
    refusals.add(refusal(1))
    assert refusals.take() == [refusal(1)]


def test_what_nobody_could_hear_is_told_later_and_bounded() -> None:
    now = [0.0]
    refusals = Refusals(clock=lambda: now[0])
    refusals.add(refusal(0))
    refusals.put_back(refusals.take())
    for number in range(1, 2 * PENDING):
        now[0] += WINDOW_S
        refusals.add(refusal(number))
    told: list[Refusal] = []
    while taken := refusals.take():
        assert len(taken) <= MOST_REFUSED
        told += taken
    assert told == [refusal(number) for number in range(PENDING)]
