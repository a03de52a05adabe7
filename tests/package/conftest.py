"""An environment as a user of the package has it: htag beside htagweb, and a folder with his files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from htagweb.server import WebServer
from tests.sites import Sites

from .tab import TestClient, User

Write = Callable[[str, str], Path]
Served = Callable[[WebServer], TestClient]


@contextlib.contextmanager
def imports_from(*folders: Path) -> Iterator[None]:
    """While this lasts, these folders are on sys.path, as installed or as the program's own; then nothing is left."""
    path, modules, here = list(sys.path), dict(sys.modules), os.getcwd()
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = path
        os.chdir(here)
        for name, module in list(sys.modules.items()):
            file = str(getattr(module, "__file__", None) or "")
            if name not in modules and any(file.startswith(str(folder)) for folder in folders):
                del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Put a file into the user's folder."""

    def write(name: str, source: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    return write


@pytest.fixture(params=[1])
def environment(request: pytest.FixtureRequest, sites: Sites, tmp_path: Path) -> Iterator[int]:
    """The generation of htag that is installed."""
    with imports_from(tmp_path, sites.root / f"site-gen{request.param}"):
        yield request.param


@pytest.fixture
def served(environment: int) -> Iterator[Served]:
    """Start a server, its lifespan included."""
    with contextlib.ExitStack() as stack:

        def served(server: WebServer, **options: Any) -> TestClient:
            return stack.enter_context(TestClient(server, **options))

        yield served


@pytest.fixture
def user(served: Served) -> Callable[[WebServer], User]:
    """Start a server; return its first user."""
    return lambda server: User(served(server))
