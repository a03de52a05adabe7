"""What an app says that it needs: inline metadata (PEP 723) in its main file, or a requirements.txt beside it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping

# Both as the specifications give them, but for the names of groups.
_SCRIPT = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_HTAG = re.compile(r"\s*htag\s*(\[[^\]]*\])?\s*\(?\s*(?P<versions>(===|[<>=~!]=?)[^;#]*)", re.IGNORECASE)
_VERSION = re.compile(r"(===|==|~=|<=|>=|<|>)\s*(\d+)((?:\.\d+)*)")


def requirements_of(files: Mapping[str, bytes], main: str) -> list[str]:
    """Requirement lines, as they stand there. What can't be read is left out."""
    found = files.get("requirements.txt", b"").decode("utf-8", "replace").splitlines()
    script = _SCRIPT.search(files[main].decode("utf-8-sig", "replace").replace("\r\n", "\n"))
    if script:
        toml = "".join(line[2:] if line.startswith("# ") else line[1:] for line in script["content"].splitlines(True))
        try:
            dependencies = tomllib.loads(toml).get("dependencies", [])
        except tomllib.TOMLDecodeError:
            dependencies = []
        if isinstance(dependencies, list):
            found += [line for line in dependencies if isinstance(line, str)]
    return found


def pinned_generation(requirements: Iterable[str]) -> int | None:
    """1 for `htag<2`, `htag==1.0.0` and the like, 2 for `htag>=2`; None if both or nothing would do."""
    for line in requirements:
        htag = _HTAG.match(line)
        for sign, major, rest in _VERSION.findall(htag["versions"] if htag else ""):
            below_2 = int(major) < 2
            if sign in ("===", "==", "~="):
                return 1 if below_2 else 2
            if sign in ("<", "<=") and (below_2 or (sign == "<" and int(major) == 2 and not rest.strip(".0"))):
                return 1
            if sign in (">", ">=") and not below_2:
                return 2
    return None
