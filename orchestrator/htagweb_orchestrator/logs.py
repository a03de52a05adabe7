"""Logs of the platform's processes: one line of JSON an event, or plain text on a terminal."""

from __future__ import annotations

import logging
import sys

import structlog

_NOISY = ("httpx", "httpcore", "httpx2", "httpcore2", "authlib", "uvicorn.error", "docker", "urllib3", "websockets")


def configure(level: int = logging.INFO) -> None:
    """Format everything that goes through `logging`; the facts of an event are in its `extra`."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    plain = sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(colors=True) if plain else structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in (
        "httpx",
        "httpcore",
        "httpx2",
        "httpcore2",
        "authlib",
        "uvicorn.error",
        "docker",
        "urllib3",
        "websockets",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
