"""An engine of the tests' own beside the one that is there, in a network namespace that leads nowhere real."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.engines.conftest import IMAGE

LEGACY_IPTABLES = "/usr/local/lib/htagweb/iptables"  # where scripts/docker-setup puts them on kernels that need them


@contextmanager
def engine(
    client: docker.APIClient, *options: str, within: Sequence[str] = ("unshare", "--net"), **config: Any
) -> Iterator[str]:
    """Its address; it has the sandboxes' image of `client`'s. `within` starts a program in the wanted namespace."""
    for needed in ("dockerd", within[0]):
        if shutil.which(needed) is None:
            pytest.skip(f"there is no {needed} to start an engine of our own with")
    folder = Path(tempfile.mkdtemp(prefix="hw-", dir="/tmp"))  # short: sockets lie in it
    (folder / "daemon.json").write_text(json.dumps(config))
    words = {"config-file": "daemon.json", "data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    environment["PATH"] = f"{LEGACY_IPTABLES}:{environment['PATH']}"
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [*within, "dockerd", *(f"--{option}={folder / name}" for option, name in words.items()),
         f"--host=unix://{folder}/docker.sock", *options],
        stdout=log,
        stderr=log,
        env=environment,
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
