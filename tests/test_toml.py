"""TOML of others is read in a time that goes with its length, and nothing of it that anybody would write is refused."""

from __future__ import annotations

import time
import tomllib

import pytest

from htagweb_orchestrator.configuration import key_lines
from htagweb_orchestrator.toml import BadToml, read

MOST = 64 * 1024
LONG = "a." * 25_000 + "a"
MANY = [f"k{n}" for n in range(60)]


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG} = 1",
        f"[{LONG}]",
        f"[[{LONG}]]",
        f"x = {{ {LONG} = 1 }}",
        f'x = {{ y = """\n""", {LONG} = 1 }}',
        f'x = {{ y = """ \\""" " """", {LONG} = 1 }}',
        f"x = {{ y = '''\n \" ''''', {LONG} = 1 }}",
        f'x = [ # "\n{{ {LONG} = 1 }} ]',
        "'a'." * 12_000 + "a = 1",
        '"\\"".' * 12_000 + "a = 1",
        " . ".join(["a"] * 12_000) + " = 1",
        f"[{'.'.join(MANY)}]",
    ],
)
def test_a_key_without_end_is_refused_before_it_costs_anything(text: str) -> None:
    before_s = time.process_time()
    with pytest.raises(BadToml, match="a key with more than 50 dots"):
        read(text, most=MOST)
    assert time.process_time() - before_s < 2  # each took many seconds


@pytest.mark.parametrize("piece", ['"', "'", '"""', "'''", '\\"', "\\", "'\"", '"\\"', '\n"', '"""\\', '\\"""\n', "."])
def test_a_text_made_to_be_looked_through_for_ever_is_not(piece: str) -> None:
    many = piece * (MOST // len(piece) - 5)
    for text in (many, f'x = "{many}', f"{many}\\"):
        before_s = time.process_time()
        with pytest.raises(BadToml):
            read(text, most=MOST)
        assert time.process_time() - before_s < 2


@pytest.mark.parametrize(
    "text",
    [
        "[tool.some.thing]\nversion = 1.5\n" + "numbers = [\n" + "  1.5,\n" * 500 + "]",
        'dependencies = ["' + '", "'.join(f"package{n}==1.2.{n}" for n in range(200)) + '"]',
        "x = '" + "a." * 500 + "'",
        'x = """\n' + "a." * 500 + '\n\\""" # ' + "a." * 500 + '\n"""',
        "x = '''" + "a." * 500 + "\n" + "b." * 500 + "'''",
        "# " + "a." * 500,
        f"[{'.'.join(MANY[:51])}]",
        "weights = [" + ", ".join(["0.5"] * 500) + "]",
        "x = { " + ", ".join(f"{name}.weight = 0.5" for name in MANY) + " }",
    ],
)
def test_dots_of_texts_comments_numbers_and_other_keys_count_for_nothing(text: str) -> None:
    assert read(text, most=MOST) == tomllib.loads(text)


def test_a_number_that_is_refused_is_said_without_a_line_that_is_not_its_own() -> None:
    with pytest.raises(BadToml, match="Exceeds the limit") as refused:
        read("x = " + "1" * 5000 + "\ny = 1\n", most=MOST)
    assert refused.value.line == 0


def test_the_lines_of_a_long_list_are_found_soon() -> None:
    before_s = time.process_time()
    lines = key_lines("images = [\n" + '"one]",\n' + '"image",\n' * 20_000 + ']\nmemory = "1m"\n')
    assert (lines[("images",)], lines[("memory",)]) == (1, 20_004)
    assert time.process_time() - before_s < 5
