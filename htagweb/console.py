"""What the command's verbs share: the way to the orchestrator, words on stderr, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from htagweb_orchestrator.quantities import duration_s

from .admin import Admin, Refused
from .tables import clean

FAILED, MISUSED, NOTHING = 1, 2, 3

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def orchestrator() -> Iterator[Admin]:
    """A refusal becomes its sentence and an exit code."""
    try:
        with Admin.from_env() as admin:
            yield admin
    except Refused as refused:
        fail(str(refused), {400: MISUSED, 404: NOTHING, 409: MISUSED}.get(refused.status, FAILED))


def duration(text: str) -> float:
    """Of an option, in seconds."""
    try:
        return duration_s(text)
    except ValueError:
        raise typer.BadParameter(f"expected a duration such as 90s, 15m, 12h, got {text!r}") from None


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def say(text: str) -> None:
    print(clean(text), file=sys.stderr)


def fail(text: str, code: int) -> NoReturn:
    say(text)
    raise typer.Exit(code)
