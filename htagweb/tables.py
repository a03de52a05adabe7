"""What people see of a row: tables, units, and no control characters, which a hostile app may have put there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from htagweb_orchestrator.quantities import show_duration, show_size

SHORT_ID = 12  # digits: what pages show as an error id, and enough for every command


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One line a row, however wide, so that a cell can be copied and grepped; with some looks on a terminal."""
    rows = [[clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in [columns, *rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    # rich would cut cells to fit the terminal, which wraps a line by itself.
    console = Console()
    console.width = max(console.width, Console(width=10_000).measure(table).maximum)
    console.print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """One fact a line."""
    shown = [(label(key), show(key, value)) for key, value in facts.items()]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{clean(name).ljust(width)}  {clean(value)}".rstrip())


def label(key: str) -> str:
    return key.removesuffix("_s").removesuffix("_bytes").replace("_", " ")


def show(key: str, value: Any) -> str:
    """A value with the unit that its key ends with: `age_s` 75 -> "1m 15s", `memory_bytes` -> "45.3m"."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case 0 if key == "generation":
            return "ASGI"
        case list():
            return ", ".join(map(str, value))
        case dict() if key == "steps":
            return ", ".join(f"{step} {took} ms" for step, took in value.items())
        case dict():
            return ", ".join(f"{label(inner)} {show(inner, part)}" for inner, part in value.items())
        case int() | float() if key == "cpu_s":
            return f"{value:.1f}s"
        case int() | float() if key.endswith("_s"):
            return show_duration(value)
        case int() if key.endswith("_bytes"):
            return show_size(value)
    return str(value)


def clean(text: str, keep: str = "") -> str:
    return "".join(char if char.isprintable() or char in keep else "\N{REPLACEMENT CHARACTER}" for char in text)
