"""What a user of the platform imports and types. The `htagweb` command is in `htagweb.cli`.

    from htagweb import WebServer

serves a class of htag from a program of your own; docs/package.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .server import AppServer, Runner, WebServer, WebServerWS

__all__ = ["AppServer", "Runner", "WebServer", "WebServerWS"]


def __getattr__(name: str) -> Any:
    """The servers on demand: the command, and whoever asks for the package alone, needs no web framework."""
    if name in __all__:
        from . import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
