"""An engine of the tests' own that has gVisor as a runtime, beside the one that is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from tests.engines.conftest import IMAGE

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
    """The address of an engine in a network namespace of its own, with the sandboxes' image of `client`'s."""
    for needed in ("dockerd", "unshare"):
        if shutil.which(needed) is None:
            pytest.skip(f"there is no {needed} to start an engine of our own with")
    folder = Path(tempfile.mkdtemp(prefix="hw-", dir="/tmp"))  # short: sockets lie in it
    config = {"runtimes": {"runsc": {"path": program, "runtimeArgs": ARGUMENTS}}}
    (folder / "daemon.json").write_text(json.dumps(config))
    words = {"config-file": "daemon.json", "data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        ["unshare", "--net", "dockerd", *(f"--{option}={folder / name}" for option, name in words.items()),
         f"--host=unix://{folder}/docker.sock", "--bridge=none", "--iptables=false", "--ip6tables=false"],
        stdout=log,
        stderr=log,
        env={name: value for name, value in os.environ.items() if name != "DOCKER_HOST"},
    )  # fmt: skip
    try:
        address = f"unix://{folder}/docker.sock"
        _wait(process, folder)
        own = docker.APIClient(base_url=address, version="auto", timeout=120)
        try:
            own.load_image(client.get_image(IMAGE))  # type: ignore[no-untyped-call]
        finally:
            own.close()
        yield address
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        with socket.socket(socket.AF_UNIX) as knock:
            try:
                knock.connect(str(folder / "docker.sock"))
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"no engine can be started here: {(folder / 'log').read_text()[-500:]}")
        time.sleep(0.1)
