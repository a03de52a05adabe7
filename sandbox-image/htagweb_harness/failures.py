"""htag catches what an app raises, and logs it. A log handler notices it there, where the exception is still known."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable

from .loading import format_trace, one_line
from .pages import FILES_HINT


class Failures(logging.Handler):
    """Attached to htag's logger. `take` returns the last exception that passed since it was asked before.

    `on_memory` is called when what passed is a MemoryError.
    """

    def __init__(self, app_dir: str, *, prints: bool, on_memory: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._app_dir = app_dir
        self._prints = prints  # htag 1 leaves the printing to logging, htag 2 does it itself
        self._on_memory = on_memory
        self._last: BaseException | None = None
        logging.getLogger("htag").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if error is not None and record.levelno >= logging.ERROR:
            if isinstance(error, MemoryError):
                self._on_memory()
            self._last = error
            if forbidden(error):
                print(FILES_HINT, file=sys.stderr)
        # Else the app's own handlers do it: it has configured logging.
        if self._prints and not logging.getLogger().handlers:
            print(self.trace(error) if error is not None else record.getMessage(), file=sys.stderr)

    def take(self) -> BaseException | None:
        last, self._last = self._last, None
        return last

    def trace(self, error: BaseException) -> str:
        return format_trace(error, self._app_dir)


def forbidden(error: BaseException | None) -> bool:
    """Whether the app tried to write where it can't."""
    return isinstance(error, OSError) and error.errno == errno.EROFS


def explain(error: BaseException) -> str:
    """One line for a visitor or a table."""
    if isinstance(error, MemoryError):
        return f"it needed more memory than it may have ({one_line(error)})"
    return f"{one_line(error)}. {FILES_HINT}" if forbidden(error) else one_line(error)
