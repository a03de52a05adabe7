"""`htagweb apps log`, `build` and `prune`: the packages that apps name, and the images that hold them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from htagweb_orchestrator.kinds import DNS_LABEL

from .console import FAILED, NOTHING, AsJson, fail, orchestrator, print_json, say
from .tables import clean, print_table, show


def _app_name(text: str) -> str:
    if not DNS_LABEL.fullmatch(text):
        raise typer.BadParameter(f"expected the name of an app, got {text!r}")
    return text


AppArgument = Annotated[str, typer.Argument(metavar="NAME", parser=_app_name, help="The app's name.")]


def log(name: AppArgument) -> None:
    """What was said while an app's packages were installed."""
    with orchestrator() as admin:
        text = admin.build_log(name)
    if not text:
        fail("Nothing was installed for this app.", NOTHING)
    print(clean(text, keep="\n\t") if sys.stdout.isatty() else text, end="" if text.endswith("\n") else "\n")


def build(name: AppArgument) -> None:
    """Install an app's packages again, after a failure or for newer ones, and try it out. What is there serves on."""
    with orchestrator() as admin:
        admin.build(name)
    say(f"It is on its way: htagweb apps shows how far, htagweb apps log {name} what is said.")


def prune(
    yes: Annotated[bool, typer.Option("--yes", help="Really remove them; without it they are only shown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove images with apps' packages that no app and no sandbox uses."""
    with orchestrator() as admin:
        rows = admin.prune(yes=yes)
    if as_json:
        print_json(rows)
    elif rows:
        columns = ("image", "created", "size_bytes", "removed")
        print_table(["IMAGE", "CREATED", "SIZE", "REMOVED"], [[show(key, row[key]) for key in columns] for row in rows])
    if not rows:
        fail("Every image is in use.", NOTHING)
    size = show("size_bytes", sum(int(row["size_bytes"]) for row in rows))
    count = f"{len(rows)} image{'' if len(rows) == 1 else 's'}"
    if not yes:
        say(f"{count} with {size} would be removed. Add --yes to remove them.")
    elif not all(row["removed"] for row in rows):
        fail("Not all could be removed: a container uses them.", FAILED)
