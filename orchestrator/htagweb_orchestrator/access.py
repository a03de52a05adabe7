"""Who may open an app. One function decides, the same in gateway and orchestrator: no I/O, no clock."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .model import Access, Person

PUBLIC: Access = ("public",)
SIGNED_IN: Access = ("signed-in",)
EXPECTED = 'expected "public", "signed-in", or a list such as ["group:staff", "user:ann"]'
_RULE = re.compile(r"(group|user):[^\x00-\x20\x7f,\"']{1,128}")


def allows(access: Access, person: Person | None) -> bool:
    """May this person (None: an anonymous visitor) open an app with this access? One rule that fits is enough."""
    if access == PUBLIC:
        return True
    if person is None:
        return False
    if access == SIGNED_IN:
        return True
    return f"user:{person.id}" in access or any(f"group:{group}" in access for group in person.groups)


def parse(raw: object) -> Access:
    """What an operator wrote: a word, or a list of rules; in the environment with commas. Raises ValueError."""
    items = [item.strip() for item in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(items, list) or not items:
        raise ValueError(EXPECTED)
    if items in (["public"], ["signed-in"]):
        return (items[0],)
    for item in items:
        if not isinstance(item, str) or _RULE.fullmatch(item) is None:
            raise ValueError(EXPECTED)
    return tuple(dict.fromkeys(items))


def show(access: Sequence[str]) -> str:
    return ",".join(access)
