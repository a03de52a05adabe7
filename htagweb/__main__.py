"""`python -m htagweb`: a server for the apps that you are writing.

python -m htagweb               the apps of this folder
python -m htagweb apps          the apps of that one
python -m htagweb hello.py      one app; or hello:App, where a file has several
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType


def serve(what: str = ".", host: str = "127.0.0.1", port: int = 8000, open_browser: bool = False) -> int:
    """`what` is a folder, a file, or "module:Class"; returns the exit code."""
    from .folder import FolderServer
    from .server import WebServerWS
    from .source import htag_generation

    if sys.path and os.path.abspath(sys.path[0]) != os.getcwd():
        sys.path.insert(0, os.getcwd())
    try:
        htag_generation()
        server = FolderServer(Path(what)) if Path(what).is_dir() else WebServerWS(_app(what), debug=True)
    except (TypeError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    server.run(host, port, openBrowser=open_browser)
    return 0


def _app(what: str) -> str:
    """As "module:Class", which can be imported: also of `hello.py`, `hello.py:App`, or `hello` for the first. Raises
    TypeError."""
    from htagweb_orchestrator.model import ASGI
    from htagweb_orchestrator.source import NotAnApp, examine

    drive, path = os.path.splitdrive(what)  # Windows: C:\apps\hello.py
    said, _, name = path.partition(":")
    said = drive + said
    file = Path(said)
    if not said.endswith(".py") and not name:
        file = Path(f"{said}.py")
    if not file.is_file():
        module, _, _ = said.partition(".") if name else said.rpartition(".")[0].partition(".")
        if not said.endswith(".py") and module.isidentifier() and importlib.util.find_spec(module) is not None:
            return what
        raise TypeError(f"{what} is neither a folder nor an app: give a folder, a file, or module:Class")
    if not file.stem.isidentifier():
        better = re.sub(r"\W", "_", file.stem)
        raise TypeError(f"{file} can't be imported by that name: rename it to {better}.py")
    loaded = sys.modules.get(file.stem)
    if loaded is not None and not _is_file(loaded, file):
        raise TypeError(f"{file} has the name of a module that is in use here: rename it, to {file.stem}_app.py say")
    if not name:
        try:
            found = examine({file.name: file.read_bytes()}, file.name)
        except NotAnApp as error:
            raise TypeError(f"{file}{f', line {error.line}' if error.line else ''}: {error}") from error
        if found.generation == ASGI:
            raise TypeError(f"{file} has no htag app in it, such as class App(Tag.div)")
        name = found.entry.rpartition(":")[2]
    sys.path.insert(0, os.path.abspath(file.parent))
    return f"{file.stem}:{name}"


def _is_file(module: ModuleType, file: Path) -> bool:
    return os.path.realpath(getattr(module, "__file__", None) or "") == os.path.realpath(file)


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m htagweb",
        description="Serves the htag apps that you are writing. Each opens in a process of its own, with your rights: "
        "that is no isolation boundary. A changed file is loaded anew, and its open page too.",
    )
    parser.add_argument(
        "what", nargs="?", default=".", help="a folder, an app's file, or an app as module:Class (default: this folder)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    options = parser.parse_args()
    return serve(options.what, options.host, options.port, options.open)


if __name__ == "__main__":
    sys.exit(main())
