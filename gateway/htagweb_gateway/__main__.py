"""The gateway's process: uvicorn with N workers, each a Gateway of its own."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn

from htagweb_orchestrator import logs

from .app import Gateway
from .identity import Identity, signing_key
from .metrics import Metrics, serving
from .orchestrator_client import OrchestratorClient

LISTEN_PORT, METRICS_PORT = 8000, 9464
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


class Worker(Gateway):
    """A gateway, and what Prometheus asks beside it."""

    metrics: Metrics

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with super().running():
            if not (port := _port("HTAGWEB_METRICS_PORT", METRICS_PORT)):
                yield
                return
            async with serving(self.metrics.text, host=_host(), port=port):
                yield


def create() -> Worker:
    """One worker's application, from the environment that the container was given."""
    logs.configure()
    _settle()
    control = Path(os.environ.get("HTAGWEB_CTL_DIR", "/run/htagweb/ctl")) / "orch.sock"
    state = Path(os.environ.get("HTAGWEB_STATE_DIR", "/var/lib/htagweb"))
    client = OrchestratorClient(str(control))
    worker = Worker(orchestrator=client, visitors=client, identity=Identity(signing_key(state / "cookie.key")))
    worker.metrics = Metrics(worker, client.metrics)
    return worker


def _settle() -> None:
    """Have less of the time go into memory: this process does one thing only, and for long."""
    gc.freeze()  # what is here now stays
    gc.set_threshold(10_000)  # a request leaves hardly a cycle behind; looking for them 14 times as often costs 4 %
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        # A piece of a body is up to 256 KiB. Given back to the kernel each time, it comes with a fault for every page.
        libc.mallopt(M_MMAP_THRESHOLD, 1024 * 1024)
        libc.mallopt(M_TRIM_THRESHOLD, 16 * 1024 * 1024)


def _host() -> str:
    return os.environ.get("HTAGWEB_LISTEN_HOST", "0.0.0.0")


def _port(name: str, default: int) -> int:
    """Exits with a sentence where it is none."""
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        sys.exit(f"{name}: expected a port, 0 to 65535, got {text!r}")
    return int(text)


def main() -> int:
    port = _port("HTAGWEB_LISTEN_PORT", LISTEN_PORT)
    if port and _port("HTAGWEB_METRICS_PORT", METRICS_PORT) == port:
        sys.exit(f"HTAGWEB_METRICS_PORT: {port} is the visitors' port; expected another one, or 0 for none")
    uvicorn.run(
        "htagweb_gateway.__main__:create",
        factory=True,
        host=_host(),
        port=port,
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
