"""An engine of the tests' own beside the one that is there, in a network namespace that leads nowhere real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.engines.conftest import IMAGE

LEGACY_IPTABLES = "/usr/local/lib/htagweb/iptables"  # where scripts/docker-setup puts them on kernels that need them


class DoesNotStart(Exception):
    pass


class OwnEngine:
    """A dockerd that can be stopped and started again over the same folder. `within` starts a program in the wanted
    namespace."""

    def __init__(self, *options: str, within: Sequence[str], **config: Any) -> None:
        for needed in ("dockerd", within[0]):
            if shutil.which(needed) is None:
                pytest.skip(f"there is no {needed} to start an engine of our own with")
        self._folder = Path(tempfile.mkdtemp(prefix="hw-", dir="/tmp"))  # short: sockets lie in it
        (self._folder / "daemon.json").write_text(json.dumps(config))
        names = {"config-file": "daemon.json", "data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        words = [f"--{option}={self._folder / name}" for option, name in names.items()]
        self.address = f"unix://{self._folder}/docker.sock"
        self._command = [*within, "dockerd", *words, f"--host={self.address}", *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Raises DoesNotStart."""
        # Of one that was killed: as long as anything has that pid, if only a zombie, it would be waited for.
        (self._folder / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
        environment["PATH"] = f"{LEGACY_IPTABLES}:{environment['PATH']}"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
        _wait(self._process, self._folder)

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """SIGTERM ends its containers; SIGKILL leaves them to the next start."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal_number)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def remove(self) -> None:
        if self._process is None:  # what a kill left running ends with the next one
            with suppress(DoesNotStart):
                self.start()
        self.stop()
        # An engine mounts its folder on itself, and one that was killed had no time to take that back.
        subprocess.run(["umount", "-l", self._folder / "data"], capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def own_engine(
    client: docker.APIClient, *options: str, within: Sequence[str] = ("unshare", "--net"), **config: Any
) -> Iterator[OwnEngine]:
    """It runs, and has the sandboxes' image of `client`'s."""
    engine = OwnEngine(*options, within=within, **config)
    try:
        try:
            engine.start()
        except DoesNotStart as error:
            pytest.skip(f"no engine can be started here: {error}")
        own = docker.APIClient(base_url=engine.address, version="auto", timeout=120)
        try:
            own.load_image(client.get_image(IMAGE))  # type: ignore[no-untyped-call]
        finally:
            own.close()
        yield engine
    finally:
        engine.remove()


@contextmanager
def engine(client: docker.APIClient, *options: str, **config: Any) -> Iterator[str]:
    """The address of one."""
    with own_engine(client, *options, **config) as own:
        yield own.address


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with socket.socket(socket.AF_UNIX) as knock:
            try:
                knock.connect(str(folder / "docker.sock"))
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise DoesNotStart((folder / "log").read_text()[-500:]) from None
        time.sleep(0.1)
