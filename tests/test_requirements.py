"""What apps say that they need: where it stands, what is refused, and what an image brings already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htagweb_orchestrator.brings import Brings
from htagweb_orchestrator.model import ASGI
from htagweb_orchestrator.requirements import (
    MAX_BYTES,
    MAX_REQUIREMENTS,
    BadRequirement,
    Needs,
    needs_of,
    pinned_generation,
)
from htagweb_orchestrator.wheels import Wheels
from tests.wheels import wheel

HELLO = "from htag import Tag\n\nclass App(Tag.div):\n    pass\n"
BRINGS = Brings(
    environment={"python_full_version": "3.13.5", "python_version": "3.13", "sys_platform": "linux"},
    packages={"starlette": "0.52.1", "uvicorn": "0.54.0", "pillow": "13.0.0"},
    fixed=("starlette", "uvicorn"),
    htag={"1": "1.0.0", "2": "2.0.28"},
)


def script(*lines: str) -> str:
    return "\n".join(["# /// script", *(f"# {line}" for line in lines), "# ///", HELLO])


def needs(source: str = HELLO, **files: str) -> Needs:
    others = {name.replace("_", "."): text.encode() for name, text in files.items()}
    return needs_of({"app.py": source.encode(), **others}, "app.py")


def refusal(source: str = HELLO, **files: str) -> tuple[str, int, str]:
    with pytest.raises(BadRequirement) as refused:
        needs(source, **files)
    return refused.value.path, refused.value.line, str(refused.value)


# -- where it stands -------------------------------------------------------------------------------------------------


def test_inline_metadata_wins_over_the_files_beside() -> None:
    source = script('requires-python = ">=3.11"', 'dependencies = ["Tiny_Package >= 1", "htag"]')
    found = needs(source, requirements_txt="other\n", pyproject_toml="")
    assert found.lines == ("htag", "tiny-package>=1")
    assert found.python == ">=3.11"


def test_a_requirements_txt_is_read_as_pip_reads_it() -> None:
    digest = "0" * 64
    text = f"# ours\ntiny==1.0 \\\n  --hash=sha256:{digest}\n\nother [x] ; python_version > '3'  # why\r\n"
    assert needs(requirements_txt=text).lines == (
        'other[x]; python_version > "3"',
        f"tiny==1.0 --hash=sha256:{digest}",
    )


def test_a_pyproject_is_read_where_there_is_nothing_else() -> None:
    project = '[project]\nname = "x"\nrequires-python = "~=3.12"\ndependencies = ["tiny"]\n'
    assert needs(pyproject_toml=project) == Needs(lines=("tiny",), python="~=3.12")
    assert needs(pyproject_toml="[tool.ruff]\n") == Needs()


def test_the_platforms_own_name_needs_no_package() -> None:
    assert needs(script('dependencies = ["htagweb>=1"]')).lines == ()


def test_order_case_and_spaces_make_no_other_set() -> None:
    assert needs(requirements_txt="B_b>1\na.a\n") == needs(requirements_txt="A-A\nb-B >1\nb-b>1\n")


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-r more.txt", "the option -r can't be used here: what an app needs is listed in one file"),
        ("-e .", "the option -e can't be used here: where packages come from is the platform's to say"),
        ("--index-url http://x/", "the option --index-url can't be used here"),
        ("tiny --global-option=x", "the option --global-option can't be used here"),
        ("tiny --hash=md5:00", "the option --hash can't be used here"),
        ("tiny @ https://x/tiny.whl", "tiny is to come from an address: where packages come from is the platform's"),
        ("tiny @ git+ssh://x/y", "tiny is to come from an address"),
        ("git+https://x/y", "git+https://x/y is no requirement; expected such as name or name>=1.2"),
        ("./tiny", "./tiny is no requirement"),
        ("tiny==", "tiny== is no requirement"),
        ("tiny; " + "(" * 100 + "os_name == 'x'" + ")" * 100, "tiny; (((("),
        ("a" * 501, "a requirement of more than 500 characters"),
    ],
)
def test_what_is_refused_is_said_in_words_with_its_line(line: str, said: str) -> None:
    path, number, text = refusal(requirements_txt=f"# comment\n{line}\n")
    assert (path, number) == ("requirements.txt", 2)
    assert text.startswith(said)
    assert refusal(script(f"dependencies = ['{line}']"))[0] == "app.py"


@pytest.mark.parametrize(
    ("source", "line", "said"),
    [
        (script("x = '{}'".format("x" * 66_000)), 1, "more than 64k of TOML"),
        (script("dependencies = 3"), 0, "dependencies is no list of texts"),
        (script("dependencies = [", '  "tiny'), 3, "not TOML: "),
        (script("") + script(""), 0, "two blocks of script metadata"),
        (script("x = " + "[" * 50_000), 1, "TOML that is nested too deep"),
        (script("x = 1", "a." * 30_000 + "a = 1"), 3, "a key with more than 50 dots"),
        (script("x = " + "1" * 5000), 1, "not TOML: Exceeds the limit"),
        (script("requires-python = 3"), 0, "requires-python is no text"),
        (script('requires-python = "3.x"'), 0, "requires-python = '3.x' can't be read"),
    ],
)
def test_metadata_that_cant_be_read_is_no_metadata_to_be_left_out(source: str, line: int, said: str) -> None:
    path, number, text = refusal(source)
    assert (path, number) == ("app.py", line)
    assert text.startswith(said)


def test_metadata_ends_with_the_last_line_that_could_end_it() -> None:
    """As the specification's pattern has it."""
    assert needs("# /// script\n# ///\n" + HELLO) == Needs()
    source = "# /// other\n# ///\n#\n" + script('dependencies = ["a"]') + "# /// script\n# no end\n"
    assert needs(source).lines == ("a",)
    assert refusal(script('dependencies = ["a"]', "///"))[2].startswith("not TOML")


def test_a_set_without_end_is_refused() -> None:
    many = "".join(f"p{n}\n" for n in range(MAX_REQUIREMENTS + 1))
    assert refusal(requirements_txt=many) == ("requirements.txt", MAX_REQUIREMENTS + 1, "more than 200 requirements")
    assert refusal(requirements_txt="#" * (MAX_BYTES + 1))[2].startswith("a file of more than 1024k")


def test_a_comment_made_to_be_looked_through_for_ever_is_not() -> None:
    assert needs("# /// script\n" * 40_000) == Needs()


def test_a_block_ends_with_its_comment() -> None:
    assert needs("# /// script\n# dependencies = ['tiny']\n#no\n# ///\n" + HELLO) == Needs()
    assert needs("# /// script\n# ///\n" + HELLO) == Needs()
    assert needs("# /// script\n#\n# dependencies = ['tiny']\n# ///\n# more\n" + HELLO).lines == ("tiny",)
    assert needs(script("dependencies = ['tiny']").replace("\n", "\r\n")).lines == ("tiny",)


def test_dependencies_that_only_a_build_knows_are_refused() -> None:
    assert "list them" in refusal(pyproject_toml='[project]\nname = "x"\ndynamic = ["dependencies"]\n')[2]


PIECES = st.sampled_from(
    [*"[](){}<>=!~;,'\"#@-\\/ \t\n\0é", "tiny", "1.0", "python_version", " or ", "--hash=", "://", "# "]
)
TEXTS = st.lists(PIECES, max_size=60).map("".join)


@given(TEXTS, st.sampled_from(["requirements.txt", "pyproject.toml", "script", "dependencies", "requires-python"]))
def test_whatever_stands_there_is_understood_or_refused(text: str, where: str) -> None:
    files = {"app.py": HELLO.encode()}
    if where == "script":
        files["app.py"] = "\n".join(["# /// script", *(f"# {line}" for line in text.split("\n")), "# ///"]).encode()
    elif where in ("dependencies", "requires-python"):
        value = json.dumps([text] if where == "dependencies" else text)
        files["pyproject.toml"] = f"[project]\n{where} = {value}\n".encode()
    else:
        files[where] = text.encode()
    try:
        found = needs_of(files, "app.py")
    except BadRequirement:
        return
    assert BRINGS.missing(found, 1) or BRINGS.unfit(found) or BRINGS.constraints(found, 1)
    assert all("\n" not in line and not line.startswith("-") for line in found.lines)


# -- which htag, and what is there -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "covered"),
    [
        ("htag", True),
        ("htag==2.0.28", True),
        ("htag>=2.0.30", False),
        ("starlette", True),
        ("pillow<12", False),
        ("pillow>=12", True),
        ("uvicorn[standard]", False),
        ("tiny", False),
        ("tiny; sys_platform == 'win32'", True),
        ("tiny; extra == 'more'", True),
        ("tiny; os_name ~= 'x'", False),
        ("starlette>=1", False),
    ],
)
def test_only_what_the_image_lacks_is_installed(line: str, covered: bool) -> None:
    assert (not BRINGS.missing(needs(requirements_txt=line), 2)) is covered


def test_what_the_harness_runs_on_stays_as_it_is() -> None:
    assert BRINGS.constraints(needs(requirements_txt="tiny"), 2) == [
        "starlette==0.52.1",
        "uvicorn==0.54.0",
        "htag==2.0.28",
    ]
    assert BRINGS.constraints(needs(requirements_txt="htag==2.0.20"), 2) == ["starlette==0.52.1", "uvicorn==0.54.0"]
    # FastAPI's releases of today want a newer Starlette than htag 2 can do with, and without htag it may have that.
    assert BRINGS.constraints(needs(requirements_txt="fastapi"), ASGI) == ["uvicorn==0.54.0"]
    assert pinned_generation(needs(requirements_txt="htag==2.0.20")) == 2


def test_an_app_for_another_python_is_told_so() -> None:
    assert BRINGS.unfit(Needs(python=">=3.14")) == "it needs Python >=3.14; sandboxes have 3.13.5"
    assert BRINGS.unfit(Needs(python=">=3.11")) == ""


# -- the folder of wheels --------------------------------------------------------------------------------------------


def test_a_build_gets_the_wheels_that_it_may_need_and_no_others(tmp_path: Path) -> None:
    wanted = {
        wheel(tmp_path, "tiny", "1.0", requires=["Tiny.Dep>1; extra == 'x'"]),
        wheel(tmp_path, "tiny", "2.0"),
        wheel(tmp_path, "tiny_dep", "3.0", requires=["tiny"]),
    }
    wheel(tmp_path, "stranger", "1.0")
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("no archive")
    (tmp_path / "no wheel at all.whl").write_text("")
    assert set(Wheels(tmp_path).of(["tiny", "broken"])) == {*wanted, tmp_path / "broken-1.0-py3-none-any.whl"}
    assert Wheels(tmp_path / "missing").of(["tiny"]) == ()


def test_a_new_wheel_is_noticed(tmp_path: Path) -> None:
    wheels = Wheels(tmp_path)
    before = wheels.state()
    assert wheels.state() == before
    wheel(tmp_path, "tiny", "1.0")
    assert wheels.state() != before
