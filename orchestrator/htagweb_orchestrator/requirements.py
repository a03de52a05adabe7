"""What an app says that it needs: inline metadata (PEP 723) in its main file, else a requirements.txt or a
pyproject.toml beside it. Nothing of it is run, and only names and versions are taken: no address, no other file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from . import toml
from .model import Struct
from .toml import BadToml

MAX_REQUIREMENTS = 200
MAX_BYTES = 1024 * 1024  # of the file: reading it holds the interpreter's lock
MAX_PARENTHESES = 20  # they are read by a function that calls itself
MAX_TOML = 64 * 1024  # characters
MAX_LENGTH = 500  # characters of one, its hashes left aside

_HASH = re.compile(r"\s--hash[= ](sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})(?=\s|$)")
_OPTION = re.compile(r"(^|\s)(?P<option>--?[a-zA-Z][\w-]*)")
_VERSION = re.compile(r"(===|==|~=|<=|>=|<|>)\s*(\d+)((?:\.\d+)*)")


class BadRequirement(Exception):
    """`str()` is what is wrong, without the file's name: only the caller knows what the operator calls it."""

    def __init__(self, path: str, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.path, self.line = path, line


class Needs(Struct, frozen=True):
    """`lines` are requirements as pip reads them, each brought into one form, in order. `python` is a specifier."""

    lines: tuple[str, ...] = ()
    python: str = ""

    def requirements(self) -> list[Requirement]:
        return [Requirement(line.partition(" --hash=")[0]) for line in self.lines]


def needs_of(files: Mapping[str, bytes], main: str) -> Needs:
    """Raises BadRequirement for what can't be read, and for what is refused."""
    script = _script(files, main)
    if script is not None:
        return _needs(main, _strings(main, script.get("dependencies", [])), script.get("requires-python", ""))
    if "requirements.txt" in files:
        return _needs("requirements.txt", _lines(_text(files, "requirements.txt")))
    if "pyproject.toml" in files:
        project = _toml("pyproject.toml", _text(files, "pyproject.toml")).get("project", {})
        if isinstance(project, dict):
            dynamic = project.get("dynamic", [])
            if isinstance(dynamic, list) and "dependencies" in dynamic:
                raise BadRequirement(
                    "pyproject.toml", "dependencies that a build would find out can't be used: list them"
                )
            found = _strings("pyproject.toml", project.get("dependencies", []))
            return _needs("pyproject.toml", found, project.get("requires-python", ""))
    return Needs()


def pinned_generation(needs: Needs) -> int | None:
    """1 for `htag<2`, `htag==1.0.0` and the like, 2 for `htag>=2`; None if both or nothing would do."""
    for requirement in needs.requirements():
        if requirement.name != "htag":
            continue
        for sign, major, rest in _VERSION.findall(str(requirement.specifier)):
            below_2 = int(major) < 2
            if sign in ("===", "==", "~="):
                return 1 if below_2 else 2
            if sign in ("<", "<=") and (below_2 or (sign == "<" and int(major) == 2 and not rest.strip(".0"))):
                return 1
            if sign in (">", ">=") and not below_2:
                return 2
    return None


def _needs(path: str, found: Iterable[tuple[int, str]], python: object = "") -> Needs:
    lines: set[str] = set()
    for number, text in found:
        if line := _plain(path, number, text):
            lines.add(line)
        if len(lines) > MAX_REQUIREMENTS:
            raise BadRequirement(path, f"more than {MAX_REQUIREMENTS} requirements", number)
    if not isinstance(python, str):
        raise BadRequirement(path, "requires-python is no text")
    try:
        return Needs(lines=tuple(sorted(lines)), python=str(SpecifierSet(python)))
    except InvalidSpecifier:
        raise BadRequirement(path, f"requires-python = {python!r} can't be read; expected such as >=3.11") from None


def _plain(path: str, number: int, text: str) -> str:
    """One requirement in one form; "" for what is there in any case."""
    hashes = sorted({found[1] for found in _HASH.finditer(text)})
    text = _HASH.sub("", text).strip()
    if option := _OPTION.search(text):
        why = "what an app needs is listed in one file" if option["option"] in ("-r", "-c") else _NOT_THE_APPS
        raise BadRequirement(path, f"the option {option['option']} can't be used here: {why}", number)
    if len(text) > MAX_LENGTH:
        raise BadRequirement(path, f"a requirement of more than {MAX_LENGTH} characters", number)
    try:
        if text.count("(") > MAX_PARENTHESES:
            raise InvalidRequirement(text)
        requirement = Requirement(text)
    except InvalidRequirement:
        shown = text if text.isprintable() else repr(text)
        raise BadRequirement(
            path, f"{shown[:100]} is no requirement; expected such as name or name>=1.2", number
        ) from None
    if requirement.url:
        raise BadRequirement(path, f"{requirement.name} is to come from an address: {_NOT_THE_APPS}", number)
    requirement.name = canonicalize_name(requirement.name)
    if requirement.name == "htagweb":  # the stand-in in each sandbox
        return ""
    return " ".join([str(requirement), *(f"--hash={each}" for each in hashes)])


_NOT_THE_APPS = "where packages come from is the platform's to say"


def _script(files: Mapping[str, bytes], main: str) -> dict[str, Any] | None:
    """The block of PEP 723. Line by line: the specification's own pattern takes ages over a file made for that."""
    blocks: dict[int, int] = {}  # where each begins -> where it ends: with the last such line of the comment
    begun = 0
    lines = _text(files, main).split("\n")
    for number, line in enumerate(lines, 1):
        if not begun and line == "# /// script":
            begun = number
        if begun and not (line == "#" or line.startswith("# ")):
            begun = 0
        if begun and line == "# ///" and number > begun + 1:
            blocks[begun] = number
    if not blocks:
        return None
    if len(blocks) > 1:
        raise BadRequirement(main, "two blocks of script metadata: only one is allowed")
    [(begun, end)] = blocks.items()
    return _toml(main, "".join(f"{line[2:]}\n" for line in lines[begun : end - 1]), begun)


def _toml(path: str, text: str, above: int = 0) -> dict[str, Any]:
    try:
        return toml.read(text, most=MAX_TOML)
    except BadToml as error:
        raise BadRequirement(path, str(error), above + error.line) from error


def _strings(path: str, value: object) -> list[tuple[int, str]]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadRequirement(path, "dependencies is no list of texts")
    return [(0, each) for each in value]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The requirements in a requirements.txt, each with the line that it begins on."""
    begun, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        begun += re.sub(r"(^|\s)#.*$", "", line)
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        if begun.strip():
            yield first, begun.strip()
        begun, first = "", 0
    if begun.strip():
        yield first, begun.strip()


def _text(files: Mapping[str, bytes], path: str) -> str:
    if len(files[path]) > MAX_BYTES:
        raise BadRequirement(path, f"a file of more than {MAX_BYTES // 1024}k can't be looked through for requirements")
    return files[path].decode("utf-8-sig", "replace").replace("\r\n", "\n")
