"""An internet, a LAN and a cloud's metadata service that exist on this machine only.

Two network namespaces with one cable between them. An engine runs in the one; in the other, a small server answers at
every address. Neither has any other way out, so whatever a sandbox sends stays here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

PORT = 80
INTERNET, LAN, METADATA, HOST = "203.0.113.1", "192.168.77.1", "169.254.169.254", "198.51.100.2"
_CABLE = "198.51.100.1"
_SERVER = f"""
import socketserver
class Here(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"here")
socketserver.ThreadingTCPServer.allow_reuse_address = True
with socketserver.ThreadingTCPServer(("0.0.0.0", {PORT}), Here) as server:
    print("ready", flush=True)
    server.serve_forever()
"""


@dataclass(frozen=True)
class Outside:
    """`within` starts a program where the engine is; `host` is the engine's machine as its neighbours see it."""

    within: tuple[str, ...]
    internet: str = INTERNET
    lan: str = LAN
    metadata: str = METADATA
    host: str = HOST

    @property
    def places(self) -> dict[str, str]:
        return {"internet": self.internet, "lan": self.lan, "metadata": self.metadata, "host": self.host}


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)


@contextmanager
def outside() -> Iterator[Outside]:
    for needed in ("ip", "nsenter"):
        if shutil.which(needed) is None:
            pytest.skip(f"there is no {needed} to make an outside of our own with")
    inner, outer = f"hw-in-{os.getpid()}", f"hw-out-{os.getpid()}"
    within = {name: ("nsenter", f"--net=/run/netns/{name}") for name in (inner, outer)}
    servers: list[subprocess.Popen[str]] = []
    try:
        for name in (inner, outer):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", inner, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", outer)
        _run("ip", "-n", inner, "address", "add", f"{HOST}/24", "dev", "eth0")
        for address in (f"{_CABLE}/24", f"{INTERNET}/32", f"{LAN}/32", f"{METADATA}/32"):
            _run("ip", "-n", outer, "address", "add", address, "dev", "eth0")
        for name in (inner, outer):
            _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", inner, "route", "add", "default", "via", _CABLE)
        for name in (inner, outer):  # on the engine's own machine, too, something listens
            server = subprocess.Popen([*within[name], sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
            servers.append(server)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        yield Outside(within[inner])
    finally:
        for server in servers:
            server.kill()
            server.communicate()
        for name in (inner, outer):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=10, check=False)
