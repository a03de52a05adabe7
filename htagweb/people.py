"""The command's verbs about people: users, token, audit."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from .admin import Row
from .console import FAILED, MISUSED, NOTHING, AsJson, duration, fail, orchestrator, print_json, say
from .tables import print_table, show

users_app = typer.Typer(help='Who may sign in (with auth = "password"), and who is signed in.')
token_app = typer.Typer(help="Operators' tokens, for programs, and one-time sign-in links.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What is typed to sign in.")]
Groups = Annotated[
    list[str] | None, typer.Option("--group", metavar="GROUP", help="May be given several times; admin: an operator.")
]
OfUser = Annotated[str | None, typer.Option("--user", metavar="ID", help="Of this user.")]
OfApp = Annotated[str | None, typer.Option("--app", metavar="NAME", help="Of this app.")]
FullName = Annotated[str | None, typer.Option("--full-name", metavar="TEXT", help="What apps are told.")]
Email = Annotated[str | None, typer.Option(metavar="ADDRESS", help="What apps are told.")]


@users_app.callback()
def users(context: typer.Context, as_json: AsJson = False) -> None:
    """The accounts, and whoever else is signed in."""
    if not context.invoked_subcommand:
        users_list(as_json)


@users_app.command("list")
def users_list(as_json: AsJson = False) -> None:
    """The same."""
    with orchestrator() as admin:
        rows = admin.users()
    if as_json:
        print_json(rows)
    elif rows:
        columns = {
            "name": "NAME",
            "full_name": "FULL NAME",
            "email": "EMAIL",
            "groups": "GROUPS",
            "state": "STATE",
            "signed_in": "SIGNED IN",
            "sandboxes": "SANDBOXES",
            "last_sign_in_ago_s": "LAST SIGN-IN",
            "last_refused_ago_s": "LAST REFUSED",
        }
        print_table(list(columns.values()), [[_cell(key, row.get(key)) for key in columns] for row in rows])
    else:
        say("There is no account, and nobody is signed in.")


@users_app.command("data")
def users_data(user: OfUser = None, app: OfApp = None, as_json: AsJson = False) -> None:
    """What apps keep for their users, in /data."""
    with orchestrator() as admin:
        rows = _fitting(admin.data(), user, app)
    if as_json:
        print_json(rows)
    elif rows:
        _print_data(rows)
    else:
        say("Nothing is kept.")


@users_app.command("remove-data")
def users_remove_data(
    user: OfUser = None,
    app: OfApp = None,
    everything: Annotated[bool, typer.Option("--all", help="Of every user and app.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really remove it; without it it is only shown.")] = False,
) -> None:
    """Remove what apps keep for their users. What a sandbox has now stays: end that first."""
    if (user is not None or app is not None) == everything:
        fail("Say whose: --user, --app, or --all by itself.", MISUSED)
    with orchestrator() as admin:
        rows = _fitting(admin.data(), user, app)
        if not rows:
            fail("Nothing of that is kept.", NOTHING)
        if not yes:
            _print_data(rows)
            say("Add --yes to remove it.")
            return
        done = admin.remove_data(user, app)
    print_table(
        ["USER", "APP", "REMOVED"], [[show(key, row.get(key)) for key in ("user", "app", "removed")] for row in done]
    )
    if not all(row.get("removed") for row in done):
        fail("What is in use was left: htagweb reap ends it.", FAILED)


def _fitting(rows: list[Row], user: str | None, app: str | None) -> list[Row]:
    return [row for row in rows if user in (None, row.get("user")) and app in (None, row.get("app"))]


def _print_data(rows: list[Row]) -> None:
    columns = {
        "user": "USER",
        "app": "APP",
        "bytes": "SIZE",
        "files": "FILES",
        "used_ago_s": "USED",
        "in_use": "IN USE",
    }
    shown = [row | {"size_bytes": row.get("bytes")} for row in rows]
    keys = ["size_bytes" if key == "bytes" else key for key in columns]
    print_table(list(columns.values()), [[show(key, row.get(key)) for key in keys] for row in shown])


@users_app.command("add")
def users_add(name: Name, groups: Groups = None, full_name: FullName = None, email: Email = None) -> None:
    """Make an account. The password is asked for, or read from stdin's first line."""
    password = _password()
    with orchestrator() as admin:
        note = admin.add_user(
            {
                "name": name,
                "password": password,
                "full_name": full_name or "",
                "email": email or "",
                "groups": groups or [],
            }
        )
    if note:
        say(note)


@users_app.command("set")
def users_set(
    name: Name,
    groups: Groups = None,
    no_groups: Annotated[bool, typer.Option("--no-groups", help="In no group any more.")] = False,
    full_name: FullName = None,
    email: Email = None,
) -> None:
    """Change what an account says. The groups given are all that it is in then; who loses or gets one signs in anew."""
    change: dict[str, Any] = {"full_name": full_name, "email": email}
    change["groups"] = [] if no_groups else groups or None
    change = {key: value for key, value in change.items() if value is not None}
    if not change or (no_groups and groups):
        fail("Say what to change: --group, --no-groups, --full-name, --email.", MISUSED)
    _change(name, change)


@users_app.command("passwd")
def users_passwd(name: Name) -> None:
    """Set another password, asked for or read from stdin's first line. Ends the person's sign-ins."""
    _change(name, {"password": _password()})


@users_app.command("disable")
def users_disable(name: Name) -> None:
    """Let a person sign in no more; ends the sign-ins and sandboxes there are."""
    _change(name, {"disabled": True})


@users_app.command("enable")
def users_enable(name: Name) -> None:
    """Let a disabled person sign in again."""
    _change(name, {"disabled": False})


@users_app.command("remove")
def users_remove(
    name: Name, yes: Annotated[bool, typer.Option("--yes", help="Really remove it; there is no way back.")] = False
) -> None:
    """Remove an account, its sign-ins, its sandboxes and its session."""
    if not yes:
        fail(f"This removes {name} and what is stored of {name}. Add --yes to do it.", MISUSED)
    with orchestrator() as admin:
        admin.remove_user(name)


@users_app.command("sign-out")
def users_sign_out(name: Name) -> None:
    """End all sign-ins of a person, in every browser."""
    with orchestrator() as admin:
        admin.sign_out(name)


@token_app.callback()
def token(context: typer.Context, as_json: AsJson = False) -> None:
    """The tokens there are; the secrets themselves are stored nowhere."""
    if not context.invoked_subcommand:
        token_list(as_json)


@token_app.command("list")
def token_list(as_json: AsJson = False) -> None:
    """The same."""
    with orchestrator() as admin:
        rows = admin.tokens()
    if as_json:
        print_json(rows)
    elif rows:
        columns = {"id": "ID", "label": "LABEL", "age_s": "AGE", "left_s": "LEFT", "used_ago_s": "LAST USED"}
        print_table(list(columns.values()), [[_cell(key, row.get(key)) for key in columns] for row in rows])
    else:
        say("There is no token.")


@token_app.command("create")
def token_create(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What it is for.")],
    life: Annotated[
        float | None,
        typer.Option(parser=duration, metavar="TIME", help="How long it is good [default: until revoked]."),
    ] = None,
) -> None:
    """Make a token that opens the operators' API, and print it, once."""
    with orchestrator() as admin:
        print(admin.create_token(label, life)["token"])
    say("This is shown once. It opens /-/api/v1/ as: Authorization: Bearer …")


@token_app.command("revoke")
def token_revoke(prefix: Annotated[str, typer.Argument(metavar="ID", help="Its first digits, or its label.")]) -> None:
    """Make a token good for nothing."""
    with orchestrator() as admin:
        admin.revoke_token(prefix)


@token_app.command("link")
def token_link() -> None:
    """Print the path of a link that signs an operator in: once, within an hour. Those made before are dead."""
    with orchestrator() as admin:
        print(admin.link())


def audit(
    who: Annotated[str, typer.Option(metavar="ID", help="Of this user or operator.")] = "",
    event: Annotated[str, typer.Option(metavar="WORD", help="Such as signed-in, sign-in-refused, started.")] = "",
    within: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="Not older than this, such as 1d.")
    ] = None,
    most: Annotated[int, typer.Option("-n", "--lines", min=1, max=10_000, help="The last so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Who signed in, started, was refused, was ended, and what operators did."""
    with orchestrator() as admin:
        rows = admin.audit(who=who, event=event, within_s=within, most=most)
    if as_json:
        print_json(rows)
        return
    if rows:
        print_table(["AT", "EVENT", "WHO", "FACTS"], [_entry(row) for row in rows])
    else:
        say("Nothing fits.")


def _change(name: str, change: dict[str, Any]) -> None:
    with orchestrator() as admin:
        admin.change_user(name, change)


def _password() -> str:
    """Never an argument: those are seen by everybody on the machine, and kept by shells."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        return sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        fail("A password is read as UTF-8, and this is something else.", MISUSED)


def _entry(row: Row) -> list[str]:
    facts = " ".join(f"{key}={value}" for key, value in row.items() if key not in ("at", "event", "who"))
    return [str(row.get("at")), str(row.get("event")), str(row.get("who") or "-"), facts]


def _cell(key: str, value: Any) -> str:
    return show(key, value) or "-"
