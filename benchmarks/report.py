"""The file that all benchmarks write to, each its own section, between its markers. What stands outside is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

FILE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
SECTIONS = {
    "data path": "The data path",
    "start": "Starting",
    "neighbours": "Neighbours",
    "memory": "Memory",
    "runtimes": "gVisor",
    "catalogue": "The catalogue",
    "package": "The package beside the original",
}
_HEAD = "# Benchmarks\n\nWhat stands between two markers was written by the command that it names.\n"


def write_section(name: str, text: str, file: Path = FILE) -> None:
    """Put `text` in place of what stood in the section `name`, one of SECTIONS. A file that is missing is made."""
    begin, end = _markers(name)
    page = file.read_text() if file.exists() else _HEAD
    for each, title in SECTIONS.items():
        if each == name and begin not in page:
            page = page.rstrip() + f"\n\n## {title}\n\n{begin}\n{end}\n"
    section = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    file.write_text(section.sub(lambda _: f"{begin}\n\n{text.strip()}\n\n{end}", page))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first hold figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
