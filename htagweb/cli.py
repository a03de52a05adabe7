"""The `htagweb` command: what runs, what it wrote, and to end it.

Exit codes: 0 done, 1 failed, 2 misused, 3 nothing matched. Tables for people, --json for programs; messages on stderr.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from . import packages
from .admin import Row
from .checking import check
from .console import FAILED, MISUSED, NOTHING, AsJson, duration, fail, orchestrator, print_json, say
from .new_app import Refused as RefusedName
from .new_app import new_app, source
from .people import audit, token_app, users_app
from .tables import SHORT_ID, clean, print_facts, print_table, show

app = typer.Typer(
    help="What runs on this htagweb platform, what it wrote, and to end it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
apps_app = typer.Typer(help="The published apps, and what is wrong with them.")
app.add_typer(apps_app, name="apps", invoke_without_command=True)
app.add_typer(users_app, name="users", invoke_without_command=True)
app.add_typer(token_app, name="token", invoke_without_command=True)
app.command()(audit)


def _hex(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,32}", text.lower()):
        raise typer.BadParameter(f"expected the hex digits of a sandbox's id, got {text!r}")
    return text.lower()


SandboxPrefix = Annotated[
    str, typer.Argument(metavar="ID", parser=_hex, help="A sandbox's id, its first digits, or an error id.")
]


@app.command()
def serve(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="A folder of apps, a file, or an app as module:Class.")
    ] = ".",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Serve the apps that you are writing, without Docker: each in a process of its own, but no wall around it."""
    from .__main__ import serve  # the operators' verbs need none of it

    raise typer.Exit(serve(what, host, port))


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The sandboxes, and why each is still there."""
    with orchestrator() as admin:
        rows, warnings = admin.sandboxes(), admin.warnings()
    for warning in warnings:
        say(f"Warning: {warning}")
    if as_json:
        print_json(rows)
    elif rows:
        _print_sandboxes(rows)
    else:
        say("No sandbox runs.")


@app.command()
def inspect(sandbox: SandboxPrefix, as_json: AsJson = False) -> None:
    """All that is known of one sandbox, also after its end."""
    with orchestrator() as admin:
        row = admin.sandbox(sandbox)
    if as_json:
        print_json(row)
    else:
        print_facts(row)


@app.command()
def logs(sandbox: SandboxPrefix) -> None:
    """What the app in a sandbox wrote, tracebacks included."""
    with orchestrator() as admin:
        text = admin.logs(sandbox)
    if sys.stdout.isatty():
        text = clean(text, keep="\n\t")  # an app must not move the operator's cursor
    sys.stdout.write(text if not text or text.endswith("\n") else f"{text}\n")


@app.command()
def reap(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", parser=_hex, help="These sandboxes.")] = None,
    idle: Annotated[
        float | None, typer.Option(parser=duration, metavar="TIME", help="Idle for this long, such as 10m.")
    ] = None,
    app_name: Annotated[str | None, typer.Option("--app", metavar="NAME", help="Sandboxes of this app.")] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Sandboxes of this user.")] = None,
    outdated: Annotated[bool, typer.Option("--outdated", help="Sandboxes of an app's older versions.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every sandbox.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really end them; without it they are only shown.")] = False,
    as_json: AsJson = False,
) -> None:
    """End the sandboxes that fit all that is given."""
    narrowed = bool(ids) or idle is not None or app_name is not None or user is not None or outdated
    if narrowed == everything:
        fail("Say which sandboxes: ids, --idle, --app, --user, --outdated, or --all by itself.", MISUSED)
    with orchestrator() as admin:
        rows = [row for row in admin.sandboxes() if row.get("state") != "ended"]
        # A warm one belongs to nobody, and the pool would start another: it is ended only if named.
        rows = _of_ids(rows, ids) if ids else [row for row in rows if row.get("state") != "warm"]
        rows = [row for row in rows if _fits(row, idle, app_name, user) and (row.get("outdated") or not outdated)]
        if not rows:
            if as_json:
                print_json([])
            fail("No sandbox fits.", NOTHING)
        if yes:
            # Their visitors are told that there is a new version.
            answer = admin.reap([str(row["id"]) for row in rows], ending="updated" if outdated else "operator")
            ended = {row.get("id"): bool(row.get("ended")) for row in answer}
            # One that isn't in the answer had ended before: nothing is left to do.
            rows = [{key: row.get(key) for key in ("id", "app", "user")} for row in rows]
            rows = [{**row, "ended": ended.get(row["id"], True)} for row in rows]
        else:
            rows = [{**row, "ended": False} for row in rows]
    if as_json:
        print_json(rows)
    elif yes:
        columns = ("id", "app", "user", "ended")
        print_table([column.upper() for column in columns], [[show(key, row[key]) for key in columns] for row in rows])
    else:
        _print_sandboxes(rows)
    if not yes:
        say(f"{_count(rows)} would end. Add --yes to end them.")
    elif not all(row["ended"] for row in rows):
        fail(f"{_count([row for row in rows if not row['ended']])} could not be ended.", FAILED)


@app.command()
def drain(
    off: Annotated[bool, typer.Option("--off", help="Let visitors in again.")] = False, as_json: AsJson = False
) -> None:
    """Let nobody new in, and show whose sandboxes run still. They go on until they end by themselves."""
    with orchestrator() as admin:
        found = admin.drain(on=not off)
        rows = [row for row in admin.sandboxes() if row.get("user") and row.get("state") != "ended"]
    if as_json:
        print_json(found)
        return
    if rows:
        _print_sandboxes(rows)
    if off:
        say("Visitors are let in again.")
    else:
        own = "itself" if len(rows) == 1 else "themselves"
        still = f"{_count(rows)} still to end by {own}" if rows else "No visitor has a sandbox any more"
        say(f"Nobody new is let in. {still}. htagweb drain --off ends that, and so does a restart.")


@app.command()
def pool(as_json: AsJson = False) -> None:
    """Sandboxes that wait for a visitor: of each kind, how many are wanted and ready."""
    with orchestrator() as admin:
        rows = admin.pool()
    if as_json:
        print_json(rows)
    elif rows:
        columns = ("image", "generation", "memory_bytes", "app", "wanted", "ready", "starting")
        print_table(
            ["IMAGE", "HTAG", "MEMORY", "LOADED", "WANTED", "READY", "STARTING"],
            [[show(key, row.get(key)) or "-" for key in columns] for row in rows],
        )
    else:
        say("The warm pool is off, or no app is published.")


@app.command()
def metrics() -> None:
    """The orchestrator's numbers, as Prometheus reads them."""
    with orchestrator() as admin:
        sys.stdout.write(admin.metrics())


@apps_app.callback()
def apps(context: typer.Context, as_json: AsJson = False) -> None:
    """The published apps."""
    if context.invoked_subcommand:
        return
    with orchestrator() as admin:
        rows, warnings = admin.apps(), admin.warnings()
    for warning in warnings:
        say(f"Warning: {warning}")
    if as_json:
        print_json(rows)
    elif rows:
        columns = ("name", "title", "generation", "version", "sandboxes", "state", "problem")
        print_table(
            ["APP", "TITLE", "HTAG", "VERSION", "SANDBOXES", "STATE", "PROBLEM"],
            [[show(key, row.get(key, "")) for key in columns] for row in rows],
        )
        for row in rows:
            for warning in row.get("warnings") or ():
                say(f"{row.get('name')}: {warning}")
    else:
        say("No app is published.")


for verb, does in (("log", packages.log), ("build", packages.build), ("prune", packages.prune)):
    apps_app.command(verb)(does)


@apps_app.command("check")
def apps_check(
    path: Annotated[
        Path | None,
        typer.Argument(help="The folder with the apps [default: $HTAGWEB_APPS_DIR, /apps], or one app in it."),
    ] = None,
) -> None:
    """Say what would stop the configuration or an app from working. Runs nothing of them."""
    checked = check(path)
    if checked.apps:
        print_table(
            ["APP", "TITLE", "HTAG", "ENTRY", "PROBLEM"],
            [
                [each.name, each.title, show("generation", each.generation), each.entry or "-", each.problem]
                for each in checked.apps
            ],
        )
    for line in (*checked.warnings, *checked.problems):
        say(line)
    if checked.problems or any(each.problem for each in checked.apps):
        raise typer.Exit(FAILED)
    if not checked.apps:
        say("There is no app here.")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Small letters, digits and dashes: it becomes a part of the address.")],
    gen: Annotated[int, typer.Option("--gen", min=1, max=2, help="The generation of htag that it is for.")] = 1,
    into: Annotated[
        Path, typer.Option("--into", metavar="FOLDER", allow_dash=True, help="Where the apps lie; - to print it.")
    ] = Path("apps"),
) -> None:
    """Write a small app that works, to begin with."""
    try:
        if str(into) == "-":
            print(source(name, gen), end="")
            return
        path = new_app(name, gen, into)
    except RefusedName as refused:
        fail(str(refused), FAILED)
    print(path)
    say(f"Where {into} is published, it is at /{name}/ in a second or two.")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Try whether this engine keeps sandboxes in, and say what else is worth knowing of it."""
    with orchestrator() as admin:
        rows = admin.doctor()
    if as_json:
        print_json(rows)
    else:
        columns = ("check", "runtime", "result", "found")
        print_table(
            [column.upper() for column in columns], [[show(key, row.get(key)) for key in columns] for row in rows]
        )
    for row in rows:
        if row.get("advice"):
            say(str(row["advice"]))
    tried = [row for row in rows if row.get("runtime")]
    say(f"{sum(row.get('result') == 'holds' for row in tried)} of {len(tried)} checks hold.")
    if any(row.get("result") in ("broken", "wrong") for row in rows):
        raise typer.Exit(FAILED)


def main() -> None:
    app(prog_name="htagweb")


def _of_ids(rows: list[Row], prefixes: list[str]) -> list[Row]:
    chosen: dict[str, Row] = {}
    for prefix in prefixes:
        fitting = [row for row in rows if str(row["id"]).startswith(prefix)]
        if len(fitting) > 1:
            fail(f"{_count(fitting)} begin with {prefix}: give more digits.", MISUSED)
        if not fitting:
            say(f"No sandbox begins with {prefix}.")
        chosen |= {str(row["id"]): row for row in fitting}
    return list(chosen.values())


def _fits(row: Row, idle_s: float | None, app_name: str | None, user: str | None) -> bool:
    """A sandbox that is still starting is idle for no time."""
    return (
        (idle_s is None or (row.get("idle_s") or 0.0) >= idle_s)
        and (app_name is None or row.get("app") == app_name)
        and (user is None or row.get("user") == user)
    )


def _print_sandboxes(rows: list[Row]) -> None:
    columns: dict[str, Callable[[Row], str]] = {"ID": lambda row: str(row.get("id"))[:SHORT_ID]}
    for key in ("app", "state", "age_s", "idle_s", "left_s", "why", "ws", "memory_bytes", "cpu_s", "user"):
        columns[key.removesuffix("_s").removesuffix("_bytes").upper()] = lambda row, key=key: show(key, row.get(key))  # type: ignore[misc]
    print_table(list(columns), [[column(row) for column in columns.values()] for row in rows])


def _count(rows: list[Row]) -> str:
    return f"{len(rows)} sandbox{'' if len(rows) == 1 else 'es'}"
