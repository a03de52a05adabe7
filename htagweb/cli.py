"""The `htagweb` command: what runs, what it wrote, and to end it.

Exit codes: 0 done, 1 failed, 2 misused, 3 nothing matched. Tables for people, --json for programs; messages on stderr.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from htagweb_orchestrator.quantities import duration_s

from .admin import Admin, Refused, Row
from .checking import check
from .tables import SHORT_ID, clean, print_facts, print_table, show

FAILED, MISUSED, NOTHING = 1, 2, 3

app = typer.Typer(
    help="What runs on this htagweb platform, what it wrote, and to end it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
apps_app = typer.Typer(help="The published apps, and what is wrong with them.")
app.add_typer(apps_app, name="apps", invoke_without_command=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _hex(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,32}", text.lower()):
        raise typer.BadParameter(f"expected the hex digits of a sandbox's id, got {text!r}")
    return text.lower()


def _duration(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError:
        raise typer.BadParameter(f"expected a duration such as 90s, 15m, 12h, got {text!r}") from None


SandboxPrefix = Annotated[
    str, typer.Argument(metavar="ID", parser=_hex, help="A sandbox's id, its first digits, or an error id.")
]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The sandboxes, and why each is still there."""
    with _orchestrator() as admin:
        rows, warnings = admin.sandboxes(), admin.warnings()
    for warning in warnings:
        _say(f"Warning: {warning}")
    if as_json:
        _print_json(rows)
    elif rows:
        _print_sandboxes(rows)
    else:
        _say("No sandbox runs.")


@app.command()
def inspect(sandbox: SandboxPrefix, as_json: AsJson = False) -> None:
    """All that is known of one sandbox, also after its end."""
    with _orchestrator() as admin:
        row = admin.sandbox(sandbox)
    if as_json:
        _print_json(row)
    else:
        print_facts(row)


@app.command()
def logs(sandbox: SandboxPrefix) -> None:
    """What the app in a sandbox wrote, tracebacks included."""
    with _orchestrator() as admin:
        text = admin.logs(sandbox)
    if sys.stdout.isatty():
        text = clean(text, keep="\n\t")  # an app must not move the operator's cursor
    sys.stdout.write(text if not text or text.endswith("\n") else f"{text}\n")


@app.command()
def reap(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", parser=_hex, help="These sandboxes.")] = None,
    idle: Annotated[
        float | None, typer.Option(parser=_duration, metavar="TIME", help="Idle for this long, such as 10m.")
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
        _fail("Say which sandboxes: ids, --idle, --app, --user, --outdated, or --all by itself.", MISUSED)
    with _orchestrator() as admin:
        rows = [row for row in admin.sandboxes() if row.get("state") != "ended"]
        # A warm one belongs to nobody, and the pool would start another: it is ended only if named.
        rows = _of_ids(rows, ids) if ids else [row for row in rows if row.get("state") != "warm"]
        rows = [row for row in rows if _fits(row, idle, app_name, user) and (row.get("outdated") or not outdated)]
        if not rows:
            if as_json:
                _print_json([])
            _fail("No sandbox fits.", NOTHING)
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
        _print_json(rows)
    elif yes:
        columns = ("id", "app", "user", "ended")
        print_table([column.upper() for column in columns], [[show(key, row[key]) for key in columns] for row in rows])
    else:
        _print_sandboxes(rows)
    if not yes:
        _say(f"{_count(rows)} would end. Add --yes to end them.")
    elif not all(row["ended"] for row in rows):
        _fail(f"{_count([row for row in rows if not row['ended']])} could not be ended.", FAILED)


@app.command()
def pool(as_json: AsJson = False) -> None:
    """Sandboxes that wait for a visitor: of each kind, how many are wanted and ready."""
    with _orchestrator() as admin:
        rows = admin.pool()
    if as_json:
        _print_json(rows)
    elif rows:
        columns = ("image", "generation", "memory_bytes", "app", "wanted", "ready", "starting")
        print_table(
            ["IMAGE", "HTAG", "MEMORY", "LOADED", "WANTED", "READY", "STARTING"],
            [[show(key, row.get(key)) or "-" for key in columns] for row in rows],
        )
    else:
        _say("The warm pool is off, or no app is published.")


@apps_app.callback()
def apps(context: typer.Context, as_json: AsJson = False) -> None:
    """The published apps."""
    if context.invoked_subcommand:
        return
    with _orchestrator() as admin:
        rows = admin.apps()
    if as_json:
        _print_json(rows)
    elif rows:
        columns = ("name", "title", "generation", "version", "sandboxes", "problem")
        print_table(
            ["APP", "TITLE", "HTAG", "VERSION", "SANDBOXES", "PROBLEM"],
            [[show(key, row.get(key, "")) for key in columns] for row in rows],
        )
        for row in rows:
            for warning in row.get("warnings") or ():
                _say(f"{row.get('name')}: {warning}")
    else:
        _say("No app is published.")


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
        _say(line)
    if checked.problems or any(each.problem for each in checked.apps):
        raise typer.Exit(FAILED)
    if not checked.apps:
        _say("There is no app here.")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Try whether this engine keeps sandboxes in, and say what else is worth knowing of it."""
    with _orchestrator() as admin:
        rows = admin.doctor()
    if as_json:
        _print_json(rows)
    else:
        columns = ("check", "runtime", "result", "found")
        print_table(
            [column.upper() for column in columns], [[show(key, row.get(key)) for key in columns] for row in rows]
        )
    for row in rows:
        if row.get("advice"):
            _say(str(row["advice"]))
    tried = [row for row in rows if row.get("runtime")]
    _say(f"{sum(row.get('result') == 'holds' for row in tried)} of {len(tried)} checks hold.")
    if any(row.get("result") in ("broken", "wrong") for row in rows):
        raise typer.Exit(FAILED)


def main() -> None:
    app(prog_name="htagweb")


@contextmanager
def _orchestrator() -> Iterator[Admin]:
    """A refusal becomes its sentence and an exit code."""
    try:
        with Admin.from_env() as admin:
            yield admin
    except Refused as refused:
        _fail(str(refused), {404: NOTHING, 409: MISUSED}.get(refused.status, FAILED))


def _of_ids(rows: list[Row], prefixes: list[str]) -> list[Row]:
    chosen: dict[str, Row] = {}
    for prefix in prefixes:
        fitting = [row for row in rows if str(row["id"]).startswith(prefix)]
        if len(fitting) > 1:
            _fail(f"{_count(fitting)} begin with {prefix}: give more digits.", MISUSED)
        if not fitting:
            _say(f"No sandbox begins with {prefix}.")
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


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _say(text: str) -> None:
    print(clean(text), file=sys.stderr)


def _fail(text: str, code: int) -> NoReturn:
    _say(text)
    raise typer.Exit(code)
