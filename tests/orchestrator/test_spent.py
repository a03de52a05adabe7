"""What may be used once is used once, for as long as anybody would take it."""

from __future__ import annotations

import pytest

from htagweb_orchestrator import spent
from htagweb_orchestrator.spent import Spent


def test_a_mark_is_spent_once_for_as_long_as_it_lives() -> None:
    now = 0.0
    marks = Spent(lambda: now)
    assert marks.spend("a", 30)
    assert not marks.spend("a", 30)
    assert marks.spend("b", 600)
    now = 29.0
    assert not marks.spend("a", 30)
    now = 31.0
    assert not marks.spend("b", 600)
    assert marks.spend("a", 30)  # nobody asks that: it is too old by then


def test_a_flood_of_marks_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spent, "MOST", 10)
    marks = Spent(lambda: 0.0)
    assert all(marks.spend(str(number), 30) for number in range(25))
    assert not any(marks.spend(str(number), 30) for number in range(15, 25))
    assert marks.spend("0", 30)
