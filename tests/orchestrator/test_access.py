"""Who may open what: the one function that gateway and orchestrator ask."""

from __future__ import annotations

import pytest

from htagweb_orchestrator.access import PUBLIC, SIGNED_IN, allows, parse, show
from htagweb_orchestrator.model import Access, Person, UserId

ANN = Person(id=UserId("ann"), groups=("staff", "user:bob"))
BOB = Person(id=UserId("bob"))
STAFF: Access = ("group:staff", "user:eve")


@pytest.mark.parametrize(
    ("access", "nobody", "ann", "bob"),
    [
        (PUBLIC, True, True, True),
        (SIGNED_IN, False, True, True),
        (STAFF, False, True, False),
        (("user:bob",), False, False, True),  # what a group is called makes nobody a person
        (("group:bob",), False, False, False),
        ((), False, False, False),
        (("public", "group:staff"), False, True, False),  # never parsed so, and no way round if it came
    ],
)
def test_one_rule_that_fits_is_enough(access: Access, nobody: bool, ann: bool, bob: bool) -> None:
    assert (allows(access, None), allows(access, ANN), allows(access, BOB)) == (nobody, ann, bob)


def test_rules_are_read_from_the_file_and_from_the_environment() -> None:
    assert parse("public") == parse(["public"]) == PUBLIC
    assert parse("signed-in") == SIGNED_IN
    assert parse(["group:staff", "user:eve", "group:staff"]) == parse("group:staff, user:eve") == STAFF
    assert parse(["user:https://id.example.org|42"]) == ("user:https://id.example.org|42",)
    assert parse(show(STAFF)) == STAFF


@pytest.mark.parametrize(
    "raw",
    [
        "",
        [],
        "staff",
        ["staff"],
        ["group:"],
        ["group:a b"],
        ["public", "group:a"],
        ["signed-in", "user:a"],
        5,
        [5],
        None,
    ],
)
def test_what_is_no_rule_is_refused_with_what_was_expected(raw: object) -> None:
    with pytest.raises(ValueError, match='expected "public", "signed-in", or a list'):
        parse(raw)
