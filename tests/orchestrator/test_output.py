"""What apps wrote is kept, bounded, for a while after their end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htagweb_orchestrator.model import SandboxId
from htagweb_orchestrator.output import FILE_SIZE, KEPT, OutputFiles

ONE = SandboxId("1" * 32)
OTHER = SandboxId("2" * 32)


@pytest.fixture
def output(tmp_path: Path) -> OutputFiles:
    return OutputFiles(tmp_path / "output")


def test_what_was_written_is_read_again_in_order(output: OutputFiles) -> None:
    output.add(ONE, "first\n")
    output.add(ONE, "second\n", dropped=7)
    assert output.read(ONE) == "first\n[7 bytes left out]\nsecond\n"
    assert output.read(OTHER) is None


@given(sizes=st.lists(st.integers(0, FILE_SIZE + 1000), max_size=12))
def test_a_file_never_grows_beyond_its_limit_and_ends_with_what_came_last(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    output = OutputFiles(tmp_path_factory.mktemp("output"))
    written = ""
    for number, size in enumerate(sizes):
        text = chr(ord("a") + number) * size
        written += text
        output.add(ONE, text)
        kept = output.read(ONE) or ""
        assert len(kept) <= FILE_SIZE
        assert written.endswith(kept)
        assert len(kept) >= min(len(written), FILE_SIZE // 2)


def test_the_limit_holds_over_a_restart(tmp_path: Path) -> None:
    for _ in range(3):
        OutputFiles(tmp_path).add(ONE, "x" * (FILE_SIZE - 1))
    assert len(OutputFiles(tmp_path).read(ONE) or "") <= FILE_SIZE


def test_text_that_is_no_text_is_kept_as_far_as_it_goes(output: OutputFiles) -> None:
    output.add(ONE, "half a pair: \ud800\n")
    assert output.read(ONE) == "half a pair: ?\n"


def test_they_are_found_by_prefix(output: OutputFiles) -> None:
    output.add(ONE, "a")
    output.add(OTHER, "b")
    assert output.matching("1") == [ONE]
    assert set(output.matching("")) == {ONE, OTHER}


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    output = OutputFiles(tmp_path)
    ids = [SandboxId(f"{number:032x}") for number in range(KEPT + 3)]
    for age, sandbox in enumerate(reversed(ids)):
        output.add(sandbox, "x")
        os.utime(tmp_path / f"{sandbox}.log", (1000 - age, 1000 - age))
    output.prune()
    assert sorted(output.matching("")) == ids[3:]
