"""TOML that others wrote: read in a time that goes with its length, or refused in a sentence with its line."""

from __future__ import annotations

import re
import tomllib
from typing import Any

MAX_DOTS = 50
"""In one key, those of texts left aside. tomllib takes the square of a dotted key's length."""

# Texts and comments, as TOML has them; what doesn't end is one as well, so that nothing is looked through twice.
_NO_KEY = re.compile(
    r'"""(?:[^\\]|\\.|\\\Z)*?(?:"""+|\Z)|' + r"'''.*?(?:'''+|\Z)|" + r'"(?:[^"\\\n]|\\.)*"?|' + r"'[^'\n]*'?|#[^\n]*",
    re.DOTALL,
)
_BETWEEN_KEYS = re.compile(r"[=,{}\[\]]")
_AT = re.compile(r" ?\(at line (\d+), column \d+\)$")


class BadToml(Exception):
    """`str()` is what is wrong, without a file's name. `line` is 0 where it isn't known."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.line = line


def read(text: str, *, most: int) -> dict[str, Any]:
    """`most` is how many characters it may have. Raises BadToml."""
    if len(text) > most:
        raise BadToml(f"more than {most // 1024}k of TOML")
    # A text of several lines leaves as many empty ones.
    bare = _NO_KEY.sub(lambda found: "\n" * found[0].count("\n"), text)
    for number, line in enumerate(bare.split("\n"), 1):
        if line.count(".") > MAX_DOTS and any(part.count(".") > MAX_DOTS for part in _BETWEEN_KEYS.split(line)):
            raise BadToml(f"a key with more than {MAX_DOTS} dots", number)
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise BadToml("TOML that is nested too deep") from error
    except ValueError as error:  # besides TOMLDecodeError: a number of too many digits
        at = _AT.search(str(error))
        problem = str(error)[: at.start()] if at else str(error)
        last = len(text.splitlines()) if isinstance(error, tomllib.TOMLDecodeError) else 0  # "at end of document"
        raise BadToml(f"not TOML: {problem}", int(at[1]) if at else last) from error
