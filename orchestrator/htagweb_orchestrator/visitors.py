"""Keeps the promise of api.SessionVerbs: who visits, what is on record of him, and operators' calls on their way in."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .accounts import Account, Accounts
from .admission import network
from .audit import Audit, Event
from .control import ControlPlane
from .errors import NotAnOperator, SessionStoreFailed, SignInLimited, SignInRefused
from .model import ANONYMOUS, AppName, Person, UserId, Welcome, sign_in_id
from .passwords import Failures, Passwords
from .sign_ins import ADMIN, LINK, OPERATOR, SignIns
from .spent import Spent
from .tokens import Tokens

log = logging.getLogger(__name__)

MOST_ID, MOST_GROUPS = 256, 1000
_WRONG = "The name or the password is wrong."
_NOT_HERE = "This server doesn't let people sign in that way."
_STORE = "The server can't reach its records just now. Try again in a moment."


class Visitors:
    def __init__(
        self,
        *,
        auth: str,
        take: bool,
        control: ControlPlane,
        accounts: Accounts,
        sign_ins: SignIns,
        passwords: Passwords,
        failures: Failures,
        tokens: Tokens,
        audit: Audit,
    ) -> None:
        """`take`: what an anonymous visitor had becomes the person's when he signs in."""
        self._auth = auth
        self._take = take
        self._control = control
        self._accounts = accounts
        self._sign_ins = sign_ins
        self._passwords = passwords
        self._failures = failures
        self._tokens = tokens
        self._audit = audit
        self._spent = Spent()

    async def session(self, user: UserId, app: AppName) -> dict[str, Any]:
        return await self._control.belongings.session(user, app)

    async def patch_session(
        self, user: UserId, app: AppName, changed: Mapping[str, Any], deleted: Sequence[str]
    ) -> None:
        await self._control.belongings.patch_session(user, app, changed, deleted)

    async def sign_in(
        self, name: str, password: str, *, client: str = "", sid: str = "", visitor: UserId | None = None
    ) -> Welcome:
        if self._auth != "password":
            raise SignInRefused(_NOT_HERE)
        name = name.strip().lower()[:MOST_ID]
        address = network(client)
        self._attempt(name, address)
        try:
            account, fits = await self._tried(name, password, address)
            if account is None or account.disabled or not fits:
                self._refused(name if account else "", "disabled" if account and fits else "wrong", client)
                raise SignInRefused(_WRONG)
            self._failures.forgive(name, address)
            if self._passwords.outdated(account.hash):
                fresh = await self._passwords.hash(password)
                if await self._accounts.rehash(name, account.hash, fresh):
                    account = msgspec.structs.replace(account, hash=fresh)
            welcome = await self._welcome(account.person, "password", client, sid, visitor)
            # Who changes an account ends its sign-ins after that: one that began in between is seen by one of the two.
            if await self._accounts.get(name) != account:
                await self._sign_ins.end([welcome.sign_in.id])
                self._refused(name, "changed", client)
                raise SignInRefused(_WRONG)
            return welcome
        except sqlite3.Error as error:
            raise _store_failed(error) from error

    async def _tried(self, name: str, password: str, address: str) -> tuple[Account | None, bool]:
        """The account of that name, and whether the password is its own. Who can't even be asked has not failed."""
        try:
            account = await self._accounts.get(name)
            return account, await self._passwords.verify(account.hash if account else None, password)
        except (SignInLimited, sqlite3.Error):
            self._failures.withdraw(name, address)
            raise

    async def admit(
        self, person: Person, method: str, *, client: str = "", sid: str = "", visitor: UserId | None = None
    ) -> Welcome:
        if method not in ("oidc", "header") or method != self._auth:
            self._refused("", "method", client, method=method[:MOST_ID], at_most_every_s=60.0)
            raise SignInRefused(_NOT_HERE)
        if not _fits(person):
            log.warning("a person who can't be one here", extra={"person": person.id[:MOST_ID]})
            name = person.id[:MOST_ID] if person.id.isprintable() else ""
            self._refused("", "name", client, method=method, name=name, at_most_every_s=60.0)
            raise SignInRefused("The name under which you signed in can't be used here.")
        try:
            return await self._welcome(person, method, client, sid, visitor)
        except sqlite3.Error as error:
            raise _store_failed(error) from error

    async def redeem(self, token: str, *, client: str = "", sid: str = "", visitor: UserId | None = None) -> Welcome:
        address = network(client)
        self._attempt("", address)  # nobody guesses 256 bits: by address only, so that nobody is kept out by others
        try:
            if not await self._tokens.redeem(token):
                self._refused("", "bad link", client)
                raise SignInRefused("This link is no longer good. A new one is made by: htagweb token link")
            self._failures.forgive("", address)
            operator = Person(id=UserId(OPERATOR), name="Operator", groups=(ADMIN,))
            return await self._welcome(operator, LINK, client, sid, visitor)
        except sqlite3.Error as error:
            raise _store_failed(error) from error

    async def spend(self, mark: str, life_s: float) -> bool:
        return self._spent.spend(mark[:MOST_ID], life_s)

    async def operator(self, secret: str, client: str = "") -> str:
        """The name of the operator whose token this is. Raises NotAnOperator."""
        if (person := self._sign_ins.operator(secret)) is not None:
            return person.id
        if (token := await self._tokens.check(secret)) is not None:
            return f"token:{token.label}"
        self._audit.add(Event.OPERATION_REFUSED, "", client=client, at_most_every_s=10.0)
        raise NotAnOperator("This needs an operator's token: sign in as one, or make one by: htagweb token create")

    async def sign_out(self, sid: str, *, everywhere: bool = False) -> None:
        found = self._sign_ins.of_secret(sid)
        if found is None:
            return
        try:
            if everywhere:
                await self._sign_ins.end_of(found.person.id)
            else:
                await self._sign_ins.end([found.id])
        except sqlite3.Error as error:
            raise _store_failed(error) from error
        self._audit.add(Event.SIGNED_OUT, found.person.id, everywhere=everywhere or None)

    def _attempt(self, name: str, address: str) -> None:
        try:
            self._failures.attempt(name, address)
        except SignInLimited as error:
            self._audit.add(Event.SIGN_IN_REFUSED, "", why=error.reason, client=address, at_most_every_s=60.0)
            raise

    def _refused(self, who: str, why: str, client: str, *, at_most_every_s: float = 0.0, **facts: str) -> None:
        self._audit.add(Event.SIGN_IN_REFUSED, who, why=why, client=client, at_most_every_s=at_most_every_s, **facts)

    async def _welcome(self, person: Person, method: str, client: str, sid: str, visitor: UserId | None) -> Welcome:
        """The new sign-in, with the old one dead, and with what the anonymous visitor had if he may keep it."""
        welcome = await self._sign_ins.begin(person, method)
        if sid:
            await self._sign_ins.end([sign_in_id(sid)])
        if self._take and visitor is not None and visitor.startswith(ANONYMOUS):
            try:
                await self._control.belongings.hand_over(visitor, person)
            except (SessionStoreFailed, OSError) as error:
                # He is signed in; what was on record of the visitor stays behind.
                log.error("not handed over: %s", error, extra={"person": person.id})
        await self._control.belongings.introduce(person)
        self._audit.add(Event.SIGNED_IN, person.id, method=method, client=client)
        return welcome


def _fits(person: Person) -> bool:
    """Is this a person as accounts make them? What a provider says ends up in tables, and in every gateway's memory."""
    ident = person.id
    words = (ident, person.name, person.email, *person.groups)
    return (
        bool(ident)
        and not ident.startswith(ANONYMOUS)
        and ident != OPERATOR
        and len(person.groups) <= MOST_GROUPS
        and all(len(word) <= MOST_ID and word.isprintable() for word in words)
    )


def _store_failed(error: sqlite3.Error) -> SessionStoreFailed:
    log.error("the store can't be used: %s", error)
    return SessionStoreFailed(_STORE)
