"""`auth = "header"`: a trusted proxy in front signs people in, and says with each request who is asking.

A person has a sign-in of his own all the same, made when he first opens a page: by that he is known everywhere, and can
be signed out. It counts for as long as the proxy says the same of whoever sends its cookie.
"""

from __future__ import annotations

from typing import Any

from htagweb_orchestrator.model import Headers, Person, UserId

from .edge import Edges
from .identity import Visitor

GROUPS = 200  # of one person


class ProxySignIn:
    """`withheld` are the fields that no app is shown, whoever sent them."""

    def __init__(self, fields: Headers, edges: Edges) -> None:
        self._edges = edges
        self._user, self._name, self._email, self._groups = (
            name.lower().encode("ascii") for name in (fields.user, fields.name, fields.email, fields.groups)
        )
        self.withheld = frozenset({self._user, self._name, self._email, self._groups})

    def person(self, scope: dict[str, Any]) -> Person | None:
        """Whom the proxy names; None where no trusted one does. Fields that anybody else sends say nothing."""
        if not self._edges.from_proxy(scope):
            return None
        said: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name in self.withheld:
                said.setdefault(name, []).append(_text(value))
        user = said.get(self._user, [])
        if len(user) != 1 or not user[0]:  # two of them: one the visitor's own, which the proxy let pass
            return None
        groups = (group.strip() for value in said.get(self._groups, ()) for group in value.split(","))
        return Person(
            id=UserId(user[0]),
            name=" ".join(said.get(self._name, ())),
            email=" ".join(said.get(self._email, ())),
            groups=tuple(dict.fromkeys(group for group in groups if group))[:GROUPS],
        )

    def confirmed(self, visitor: Visitor | None, person: Person | None) -> Visitor | None:
        """The visitor, as far as the proxy agrees."""
        if visitor is None or visitor.sign_in is None:
            return visitor if person is None else None
        if visitor.sign_in.method != "header":  # an operator's link
            return visitor
        return visitor if visitor.sign_in.person == person else None


def _text(value: bytes) -> str:
    try:
        text = value.decode("utf-8").strip()
    except UnicodeDecodeError:
        text = value.decode("latin-1").strip()
    return text if text.isprintable() else ""
