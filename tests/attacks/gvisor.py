"""gVisor, where it is installed, as a runtime of an engine of the tests' own."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import docker
import pytest

from tests.attacks import own_engine

OLDEST = 2024  # runsc's releases are dates; Debian bookworm's makes no socket that the host sees
ARGUMENTS = ["--platform=systrap", "--host-uds=create", "--network=none"]


def runsc() -> str:
    """The program, or skip."""
    found = shutil.which("runsc")
    if found is None:
        pytest.skip("runsc isn't installed; scripts/runsc gets Debian's")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    released = re.search(r"(20\d\d)\d{4}", said)
    if released and int(released[1]) < OLDEST:
        pytest.skip(
            f"this runsc is of {released[1]}: too old for sockets that the host sees; scripts/runsc gets another"
        )
    return found


@contextmanager
def engine(program: str, client: docker.APIClient) -> Iterator[str]:
    """The address of an engine with `runsc` as a runtime."""
    no_network = ("--bridge=none", "--iptables=false", "--ip6tables=false")
    runtimes = {"runsc": {"path": program, "runtimeArgs": ARGUMENTS}}
    with own_engine.engine(client, *no_network, runtimes=runtimes) as address:
        yield address
