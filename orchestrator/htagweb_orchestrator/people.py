"""What operators do about people: accounts, tokens, and the audit log that says what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from .accounts import GROUP, NAME, Account, Accounts
from .audit import Audit, Event
from .control import ControlPlane
from .errors import BadRequest, NotThere, Taken
from .model import ANONYMOUS, Ending, Struct, UserId
from .passwords import LONGEST, Passwords
from .sign_ins import ADMIN, OPERATOR, SignIns
from .tokens import Tokens

Row = dict[str, Any]
SHORTEST = 8  # characters of a password
LONGEST_LIFE_S = 10 * 365 * 86_400.0  # of a token that has one


class NewAccount(Struct, frozen=True):
    name: str
    password: str
    full_name: str = ""
    email: str = ""
    groups: tuple[str, ...] = ()


class AccountChange(Struct, frozen=True):
    """What is None stays as it is."""

    password: str | None = None
    full_name: str | None = None
    email: str | None = None
    groups: tuple[str, ...] | None = None
    disabled: bool | None = None


class NewToken(Struct, frozen=True):
    label: str
    life_s: float | None = None


class People:
    """Whatever takes a right away ends the person's sign-ins at once, everywhere. Raises BadRequest, NotThere, Taken,
    and sqlite3.Error where the store can't be used."""

    def __init__(
        self,
        *,
        auth: str,
        control: ControlPlane,
        accounts: Accounts,
        sign_ins: SignIns,
        passwords: Passwords,
        tokens: Tokens,
        audit: Audit,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._auth = auth
        self._control = control
        self._accounts = accounts
        self._sign_ins = sign_ins
        self._passwords = passwords
        self._tokens = tokens
        self._audit = audit
        self._wall_s = wall_s

    # -- accounts ------------------------------------------------------------------------------------------------

    async def users(self) -> list[Row]:
        """Accounts, and whoever else is signed in, by name."""
        signed_in = self._sign_ins.all()
        browsers = Counter(each.person.id for each in signed_in)
        running = Counter(each.lease.user for each in self._control.sandboxes() if each.ending is None)
        last = await self._audit.last(Event.SIGNED_IN)
        refused = await self._audit.last(Event.SIGN_IN_REFUSED)
        accounts = {UserId(each.name): each for each in await self._accounts.all()}
        people = {each.person.id: each.person for each in signed_in} | {k: each.person for k, each in accounts.items()}
        now_s = self._wall_s()
        return [
            {
                "name": ident,
                "full_name": person.name,
                "email": person.email,
                "groups": list(person.groups),
                "state": _state(accounts.get(ident)),
                "signed_in": browsers[ident],
                "sandboxes": running[ident],
                "last_sign_in_ago_s": round(now_s - last[ident], 1) if ident in last else None,
                "last_refused_ago_s": round(now_s - refused[ident], 1) if ident in refused else None,
            }
            for ident, person in sorted(people.items())
        ]

    async def add(self, new: NewAccount) -> str:
        """What the operator should know of it, if anything."""
        if NAME.fullmatch(new.name) is None or new.name.startswith(ANONYMOUS) or new.name == OPERATOR:
            raise BadRequest(
                f"{new.name!r} can't be a name: small letters, digits and . _ @ + -, at most 64; "
                f"it must not be {OPERATOR} or begin with {ANONYMOUS}."
            )
        _check(new.password, new.groups)
        account = Account(
            name=new.name,
            hash=await self._passwords.hash(new.password),
            full_name=new.full_name,
            email=new.email,
            groups=new.groups,
        )
        if not await self._accounts.add(account):
            raise Taken(f"There is a user {new.name} already.")
        if self._auth != "password":
            return f'auth is "{self._auth}": nobody signs in by an account until it is "password".'
        return ""

    async def change(self, name: str, change: AccountChange) -> None:
        _check(change.password, change.groups or ())
        fields: dict[str, Any] = {
            field: value
            for field in ("full_name", "email", "groups", "disabled")
            if (value := getattr(change, field)) is not None
        }
        if change.password is not None:
            fields["hash"] = await self._passwords.hash(change.password)
        if await self._accounts.change(name, **fields) is None:
            raise NotThere(f"There is no user {name}.")
        if {"hash", "groups", "disabled"} & {*fields}:
            await self._sign_ins.end_of(UserId(name))
        if change.disabled:
            await self._end_sandboxes(UserId(name))

    async def remove(self, name: str) -> None:
        """The account, and what is on record of the person."""
        if not await self._accounts.remove(name):
            raise NotThere(f"There is no user {name}.")
        await self._sign_ins.end_of(UserId(name))
        await self._end_sandboxes(UserId(name))
        await self._control.belongings.forget(UserId(name))

    async def sign_out(self, name: str) -> None:
        """Of every browser; whoever came by another server's word, too."""
        if not await self._sign_ins.end_of(UserId(name)):
            raise NotThere(f"{name} is not signed in.")

    async def _end_sandboxes(self, user: UserId) -> None:
        mine = [each for each in self._control.sandboxes() if each.lease.user == user]
        await self._control.end(mine, Ending.OPERATOR)

    # -- tokens --------------------------------------------------------------------------------------------------

    def tokens(self) -> list[Row]:
        now_s = self._wall_s()
        return [
            {
                "id": each.id[:12],
                "label": each.label,
                "age_s": round(now_s - each.created_s, 1),
                "left_s": None if each.expires_s is None else round(max(0.0, each.expires_s - now_s), 1),
                "used_ago_s": None if each.used_s is None else round(now_s - each.used_s, 1),
            }
            for each in self._tokens.all()
        ]

    async def create_token(self, new: NewToken) -> Row:
        label = new.label.strip()
        if not label or len(label) > 64 or not label.isprintable():
            raise BadRequest("A token needs a label of at most 64 characters, which says what it is for.")
        if new.life_s is not None and not 1 <= new.life_s <= LONGEST_LIFE_S:
            raise BadRequest("A token's life is a second to ten years.")
        if self._tokens.labelled(label):
            raise Taken(f"There is a token {label} already.")
        secret, token = await self._tokens.create(label, life_s=new.life_s)
        return {"id": token.id[:12], "label": label, "token": secret}

    async def revoke_token(self, prefix: str) -> None:
        found = self._tokens.matching(prefix)
        if len(found) != 1:
            several = f"The ids of {len(found)} tokens begin with {prefix}: give more of it, or the label."
            raise NotThere(several if found else f"There is no token {prefix}.")
        await self._tokens.revoke(found[0].id)

    async def link(self) -> Row:
        """A path that signs an operator in, once."""
        return {"path": f"/-/login?token={await self._tokens.link()}"}

    async def first_link(self) -> str | None:
        """Such a path, where no account is an operator's, and nobody else says who is."""
        if self._auth not in ("anonymous", "password"):
            return None
        if any(ADMIN in each.groups and not each.disabled for each in await self._accounts.all()):
            return None
        return str((await self.link())["path"])

    # -- the audit log -------------------------------------------------------------------------------------------

    async def audit(self, *, who: str, event: str, within_s: float | None, most: int) -> list[Row]:
        since_s = 0.0 if within_s is None else self._wall_s() - within_s
        return await self._audit.entries(who=who, event=event, since_s=since_s, most=most)

    def operated(self, operator: str, call: str, status: int, *, about: str, client: str) -> None:
        """An operator has changed something, or has tried to."""
        self._audit.add(Event.OPERATED, operator, call=call, about=about, status=status, client=client)


def _check(password: str | None, groups: tuple[str, ...]) -> None:
    if password is not None and not SHORTEST <= len(password) <= LONGEST:
        raise BadRequest(f"A password has {SHORTEST} to {LONGEST} characters.")
    for group in groups:
        if GROUP.fullmatch(group) is None:
            raise BadRequest(f"{group!r} can't be a group: no spaces, commas, colons or quotes, at most 64 characters.")


def _state(account: Account | None) -> str:
    if account is None:
        return "no account"
    return "disabled" if account.disabled else "enabled"
