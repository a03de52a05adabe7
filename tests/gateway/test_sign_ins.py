"""What a worker knows of who is signed in, in whatever order it hears of it."""

from __future__ import annotations

from htagweb_gateway import sign_ins
from htagweb_gateway.sign_ins import SignIns
from htagweb_orchestrator.model import Person, Platform, SignedIn, SignedOut, SignIn, Snapshot, UserId


def made(id: str, left_s: float = 60.0) -> SignIn:
    return SignIn(id=id, person=Person(id=UserId("ann")), method="password", left_s=left_s)


def snapshot(*known: SignIn) -> Snapshot:
    return Snapshot(platform=Platform(), apps=(), routes=(), sign_ins=known)


def test_the_answer_to_a_sign_in_revives_none_that_is_over_already() -> None:
    known = SignIns()
    known.apply(SignedIn(sign_in=made("a")))
    known.apply(SignedOut(ids=("a",)))
    known.learn(made("a"))
    assert known.get("a") is None


def test_a_sign_out_that_the_orchestrator_did_not_hear_of_holds_here() -> None:
    known = SignIns()
    known.learn(made("a"))
    known.end(("a",))
    known.apply(snapshot(made("a"), made("b")))
    assert known.get("a") is None
    assert known.get("b") is not None


def test_a_snapshot_from_before_a_sign_in_ends_it_until_the_word_of_it_comes() -> None:
    known = SignIns()
    known.learn(made("a"))
    known.apply(snapshot())
    assert known.get("a") is None
    known.apply(SignedIn(sign_in=made("a")))
    assert known.get("a") is not None


def test_one_that_is_too_old_is_over_without_a_word() -> None:
    known = SignIns()
    closed: list[str] = []
    with known.holding(made("a"), lambda: closed.append("a")):
        known.learn(made("a", left_s=0.0))
        assert known.get("a") is None
    assert closed == ["a"]


def test_what_is_over_is_remembered_within_bounds() -> None:
    known = SignIns()
    known.end(f"{number}" for number in range(sign_ins.OVER + 10))
    known.learn(made(f"{sign_ins.OVER + 9}"))
    assert known.get(f"{sign_ins.OVER + 9}") is None
    assert len(known._over) == sign_ins.OVER
