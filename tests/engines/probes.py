"""What a test runs in a sandbox instead of the harness, and how it hears of it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from htagweb_orchestrator.model import SandboxId

# Runs before each probe: `tell` hands a value to the test, and `refused` says which error a call ended in.
PRELUDE = """
import ctypes, errno, json, os, socket, sys, time

def tell(value):
    with open("/run/app/told.new", "w") as file:
        json.dump(value, file)
    os.rename("/run/app/told.new", "/run/app/told")

def refused(call, *args):
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""
"""


def new_id() -> SandboxId:
    return SandboxId(secrets.token_hex(16))


def read(file: Path) -> str:
    """What stands in it, "" while there is none."""
    return file.read_text() if file.exists() else ""


async def eventually(condition: Callable[[], Any], *, within_s: float = 15.0) -> Any:
    """Return the condition's first true value; fail after `within_s`."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        await asyncio.sleep(0.02)
    return value
