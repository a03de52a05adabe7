"""The benchmarks run: every part of them for a second, with our gateway and, where it is installed, nginx."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import data_path
from benchmarks.load import WORKLOADS, Workload
from benchmarks.report import table, write_section
from benchmarks.stage import proxies


@pytest.mark.skipif(not shutil.which("wrk"), reason="the load generator isn't installed: scripts/bench does that")
def test_the_data_path_is_measured_beside_what_is_installed() -> None:
    few = [Workload(each.name, (1,), each.request) for each in (WORKLOADS[0], WORKLOADS[-1])]
    section = data_path.measure(proxies()[:2], rounds=1, seconds=1, workloads=few, idle=100)
    for measured in (*(each.name for each in few), data_path.MESSAGES, "an idle WebSocket, in kB, with 100 open"):
        assert measured in section
    assert "failed" not in section
    # Whoever answered anything has a figure in every column.
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| 70 B")]
    assert rows
    assert all(len(row) == len(rows[0]) for row in rows)


def test_a_section_is_replaced_and_what_stands_around_it_stays(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    write_section("start", "first", page)
    page.write_text(page.read_text() + "\nA note by hand.\n")
    write_section("data path", table(["", "a"], [["b", "1"]]), page)
    write_section("start", "second", page)
    text = page.read_text()
    assert "first" not in text
    assert text.index("second") < text.index("A note by hand.") < text.index("| b | 1 |")
