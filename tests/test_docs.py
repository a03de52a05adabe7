"""The documentation says what is so, and the folders are the architecture that it draws."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from htagweb.cli import app as command
from htagweb_gateway.endings import ending_words
from htagweb_orchestrator.keys import KEYS, PLUMBING
from htagweb_orchestrator.model import AppName, Ending, Route, SandboxId, State, UserId
from tests.package.seeds import RUNS, SERVER

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()

PACKAGES = {
    "htagweb": ROOT / "htagweb",
    "htagweb_gateway": ROOT / "gateway" / "htagweb_gateway",
    "htagweb_orchestrator": ROOT / "orchestrator" / "htagweb_orchestrator",
    "htagweb_harness": ROOT / "sandbox-image" / "htagweb_harness",
}
GROUND_FLOOR = {f"htagweb_orchestrator.{name}" for name in ("access", "api", "model", "errors", "address", "logs")}
ENGINES = "htagweb_orchestrator.engines"


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


# -- links, commands, names ------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are made from them: small letters, dashes for spaces, the rest left out."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"(?m)^#+ (.+)$", text)}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text()))
    for target in re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE):
        assert target in targets, target
    for script in re.findall(r"\bscripts/[\w-]+", text):
        assert (ROOT / script).is_file(), script
    typed = re.findall(r"docker compose (?:exec |run --rm )(\w+)(?: htagweb (\w+))?", text)
    services = set(re.findall(r"(?m)^  ([\w-]+):$", (ROOT / "compose.yaml").read_text().partition("\nservices:")[2]))
    verbs = verbs_of_the_command()
    for service, verb in typed:
        assert service in services, service
        assert not verb or verb in verbs, verb
    for verb, options in re.findall(r"(?:`|orchestrator )htagweb ([a-z]+)((?: [^`\n|]*)?)", text):
        assert verb in verbs, verb
        for option in re.findall(r"--[a-z-]+", options):
            assert option in verbs[verb] | {"--help"}, f"{verb} {option}"


def verbs_of_the_command() -> dict[str, set[str]]:
    """Each verb's options, those of the verbs below it included."""
    group = typer.main.get_command(command)
    commands = getattr(group, "commands", {})
    return {
        name: {
            option
            for each in (verb, *getattr(verb, "commands", {}).values())
            for param in each.params
            for option in param.opts
        }
        for name, verb in commands.items()
    }


def test_nobody_is_sent_to_the_package_of_that_name_on_the_index() -> None:
    for page in PAGES:
        assert not re.search(r"pip3? install (-\S+ )*[\"']?htagweb\b", page.read_text()), page


def test_the_first_screen_has_the_example_as_it_is_published() -> None:
    code, runs, server = re.findall(r"(?s)```python\n(.*?)```", README)
    assert (runs, server) == (RUNS, SERVER)
    assert code in (ROOT / "apps" / "hello.py").read_text()
    assert "docs/catalogue.png" in README
    assert (ROOT / "docs" / "catalogue.png").stat().st_size < 200_000


# -- tables ----------------------------------------------------------------------------------------------------------


def rows(page: str) -> list[list[str]]:
    found = re.findall(r"(?m)^\| (.+) \|$", (ROOT / page).read_text())
    return [[cell.strip() for cell in row.split(" | ")] for row in found]


def test_every_variable_is_documented() -> None:
    sources = [path for folder in PACKAGES.values() for path in folder.rglob("*.py")]
    shells = [ROOT / "compose.yaml", *(ROOT / "scripts").iterdir()]
    named = {key.env for key in (KEYS | PLUMBING).values()}
    for path in sources:
        named |= set(re.findall(r"environ(?:\.get\(|\[)\"(HTAGWEB_\w+)\"", path.read_text()))
    for path in shells:
        named |= set(re.findall(r"\$\{?(HTAGWEB_\w+)", path.read_text()))
    documented = {name for row in rows("docs/configuration.md") for name in re.findall(r"HTAGWEB_\w+", " ".join(row))}
    assert named <= documented


def test_the_readmes_table_agrees_with_that_of_the_configuration() -> None:
    defaults = {row[0]: row[1] for row in rows("docs/configuration.md") if len(row) == 4}  # an app may have its own
    shown = [row for row in rows("README.md") if row[0].strip("`") in {key.name for key in KEYS.values()}]
    assert len(shown) >= 18
    for name, default, _ in shown:
        assert default == defaults[name], name


def test_every_ending_is_documented_with_its_words() -> None:
    table = {row[0].strip("`"): row[2] for row in rows("docs/sandbox.md") if len(row) == 3}
    for ending in Ending:
        route = Route(user=UserId("u"), app=AppName("a"), sandbox=SandboxId("0" * 32), state=State.ENDED, ending=ending)
        title = "none: it had no visitor" if ending is Ending.SURPLUS else ending_words(route).title
        assert table.get(ending.value) == title, ending


def test_every_field_of_the_list_is_documented() -> None:
    text = (ROOT / "docs" / "operators.md").read_text()
    (shown,) = re.findall(r"(?s)```json\n\[\n  \{(.*?)\}\n\]", text)
    fields = re.findall(r'"(\w+)":', shown)
    assert fields == [row[0].strip("`") for row in rows("docs/operators.md") if row[0].strip("`") in fields]
    assert {"id", "user", "app", "state", "age_s", "idle_s", "left_s", "why", "ws", "memory_bytes"} <= set(fields)


# -- imports ---------------------------------------------------------------------------------------------------------


def imports(path: Path, package: str = "") -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it. `from x import y` is x, and x.y if that is one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            yield from (
                f"{module}.{alias.name}" if is_module(f"{module}.{alias.name}") else module for alias in node.names
            )


def is_module(name: str) -> bool:
    top, *rest = name.split(".")
    if top not in PACKAGES:
        return False
    path = PACKAGES[top].joinpath(*rest)
    return path.with_suffix(".py").is_file() or path.is_dir()


def ours(top: str) -> Iterator[tuple[str, set[str]]]:
    """Each module of a package of ours, and what it imports of ours."""
    for path in sorted(PACKAGES[top].rglob("*.py")):
        parts = path.relative_to(PACKAGES[top]).with_suffix("").parts
        package = ".".join([top, *parts[:-1]])
        name = package if parts[-1] == "__init__" else f"{package}.{parts[-1]}"
        yield name, {each for each in imports(path, package) if each.partition(".")[0] in PACKAGES}


def test_the_gateway_sees_the_ground_floor_of_the_orchestrator_only() -> None:
    for name, imported in ours("htagweb_gateway"):
        others = {each for each in imported if not each.startswith("htagweb_gateway")}
        assert others <= GROUND_FLOOR, f"{name}: {others - GROUND_FLOOR}"


def test_the_ground_floor_stands_by_itself() -> None:
    for name, imported in ours("htagweb_orchestrator"):
        if name in GROUND_FLOOR:
            assert imported <= GROUND_FLOOR, name


def test_the_orchestrator_knows_nobody_above_it() -> None:
    for name, imported in ours("htagweb_orchestrator"):
        assert {each.partition(".")[0] for each in imported} <= {"htagweb_orchestrator"}, name


def test_one_place_picks_the_engine() -> None:
    for name, imported in ours("htagweb_orchestrator"):
        engines = {each for each in imported if each.startswith(f"{ENGINES}.")}
        if name.startswith(ENGINES):
            # docker_calls and docker are one engine; base belongs to all.
            kinds = {each.removeprefix(f"{ENGINES}.").partition("_")[0] for each in engines}
            assert kinds <= {"base", name.removeprefix(f"{ENGINES}.").partition("_")[0]}, name
        elif name != "htagweb_orchestrator.composition":
            assert engines <= {f"{ENGINES}.base"}, name


def test_the_harness_imports_nothing_of_ours() -> None:
    for name, imported in ours("htagweb_harness"):
        assert {each.partition(".")[0] for each in imported} <= {"htagweb_harness"}, name


def test_the_command_knows_no_engine_and_no_harness() -> None:
    for name, imported in ours("htagweb"):
        assert not {each for each in imported if each.startswith((ENGINES, "htagweb_harness"))}, name


@pytest.mark.parametrize(
    "library", ["docker", "starlette", "uvicorn", "htag", "httpx", "websockets", "pytest", "testcontainers"]
)
def test_what_is_named_is_used(library: str) -> None:
    unparsable = ROOT / "tests" / "apps" / "unparsable.py"
    files = [path for folder in (*PACKAGES.values(), ROOT / "tests", ROOT / "apps") for path in folder.rglob("*.py")]
    assert any(each.partition(".")[0] == library for path in files if path != unparsable for each in imports(path))
