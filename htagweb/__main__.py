"""`python -m htagweb`: a server for the apps that you are writing.

python -m htagweb               the apps of this folder
python -m htagweb apps          the apps of that one
python -m htagweb hello:App     one app
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def serve(what: str = ".", host: str = "127.0.0.1", port: int = 8000, open_browser: bool = False) -> int:
    """`what` is a folder, or "module:Class"; returns the exit code."""
    from .folder import FolderServer
    from .server import WebServerWS
    from .source import htag_generation

    if sys.path and os.path.abspath(sys.path[0]) != os.getcwd():
        sys.path.insert(0, os.getcwd())
    try:
        htag_generation()
        if Path(what).is_dir():
            server: WebServerWS = FolderServer(Path(what))
        elif ":" in what or (what.rpartition(".")[0] and not what.endswith(".py") and os.sep not in what):
            server = WebServerWS(what, debug=True)
        else:
            print(f"{what} is neither a folder nor an app: give a folder, or module:Class", file=sys.stderr)
            return 2
    except (TypeError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    server.run(host, port, openBrowser=open_browser)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m htagweb",
        description="Serves the htag apps that you are writing. Each opens in a process of its own, with your rights: "
        "that is no isolation boundary. A changed file is loaded anew, and its open page too.",
    )
    parser.add_argument(
        "what", nargs="?", default=".", help="a folder, or an app as module:Class (default: this folder)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    options = parser.parse_args()
    return serve(options.what, options.host, options.port, options.open)


if __name__ == "__main__":
    sys.exit(main())
