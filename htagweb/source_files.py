"""Which files an app consists of, as far as its own imports say: when one of them changes, it is another version."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

MOST = 200  # files of one app that are looked at


class SourceFiles:
    """The module `file` and what it imports from within `folder`, found by `ast` without running it."""

    def __init__(self, file: str, folder: str) -> None:
        self._file = Path(file)
        self._folder = Path(folder)
        self._imports: dict[Path, tuple[int, tuple[Path, ...]]] = {}  # file -> its time, what it imports

    def state(self) -> str:
        """Another text after each change. Blocks for a few `stat`s."""
        facts = hashlib.sha256()
        waiting, seen = [self._file], set[Path]()
        while waiting and len(seen) < MOST:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            try:
                found = path.stat()
            except OSError:
                facts.update(f"{path} is gone\n".encode())
                continue
            facts.update(f"{path} {found.st_mtime_ns} {found.st_size} {found.st_ino}\n".encode())
            waiting += self._imported(path, found.st_mtime_ns)
        return facts.hexdigest()

    def _imported(self, path: Path, modified_ns: int) -> tuple[Path, ...]:
        known = self._imports.get(path)
        if known is None or known[0] != modified_ns:
            known = modified_ns, tuple(dict.fromkeys(self._find(path)))
            self._imports[path] = known
        return known[1]

    def _find(self, path: Path) -> Iterator[Path]:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from self._files(self._folder, alias.name)
            elif isinstance(node, ast.ImportFrom):
                base = path.parents[node.level - 1] if node.level and node.level <= len(path.parents) else self._folder
                yield from self._files(base, node.module or "")
                for alias in node.names:
                    yield from self._files(base, f"{node.module}.{alias.name}" if node.module else alias.name)

    @staticmethod
    def _files(base: Path, module: str) -> Iterator[Path]:
        """Of a module and the packages above it, those that lie in `base`."""
        path = base
        for part in filter(None, module.split(".")):
            path = path / part
            for file in (path.with_name(f"{part}.py"), path / "__init__.py"):
                if os.path.isfile(file):
                    yield file
