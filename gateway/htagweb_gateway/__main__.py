"""The gateway's process: uvicorn with N workers, each a Gateway of its own."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

import uvicorn

from htagweb_orchestrator import logs

from .app import Gateway
from .identity import Identity, signing_key
from .orchestrator_client import OrchestratorClient

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def create() -> Gateway:
    """One worker's application, from the environment that the container was given."""
    logs.configure()
    _settle()
    control = Path(os.environ.get("HTAGWEB_CTL_DIR", "/run/htagweb/ctl")) / "orch.sock"
    state = Path(os.environ.get("HTAGWEB_STATE_DIR", "/var/lib/htagweb"))
    client = OrchestratorClient(str(control))
    return Gateway(orchestrator=client, visitors=client, identity=Identity(signing_key(state / "cookie.key")))


def _settle() -> None:
    """Have less of the time go into memory: this process does one thing only, and for long."""
    gc.freeze()  # what is here now stays
    gc.set_threshold(10_000)  # a request leaves hardly a cycle behind; looking for them 14 times as often costs 4 %
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        # A piece of a body is up to 256 KiB. Given back to the kernel each time, it comes with a fault for every page.
        libc.mallopt(M_MMAP_THRESHOLD, 1024 * 1024)
        libc.mallopt(M_TRIM_THRESHOLD, 16 * 1024 * 1024)


def main() -> int:
    uvicorn.run(
        "htagweb_gateway.__main__:create",
        factory=True,
        host=os.environ.get("HTAGWEB_LISTEN_HOST", "0.0.0.0"),
        port=int(os.environ.get("HTAGWEB_LISTEN_PORT", "8000")),
        workers=int(os.environ.get("HTAGWEB_WORKERS", "1")),
        http="htagweb_gateway.protocol:FrontProtocol",
        ws="htagweb_gateway.door:FrontWebSocket",
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # edge.py decides whom to believe
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
