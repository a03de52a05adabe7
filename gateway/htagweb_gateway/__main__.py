"""The gateway's process: uvicorn with N workers, each a Gateway of its own."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import uvicorn

from htagweb_orchestrator import logs

from .app import Gateway
from .identity import Identity, signing_key
from .orchestrator_client import OrchestratorClient


def create() -> Gateway:
    """One worker's application, from the environment that the container was given."""
    logs.configure()
    gc.freeze()  # what is here now stays
    gc.set_threshold(10_000)  # a request leaves hardly a cycle behind; looking for them 14 times as often costs 4 %
    control = Path(os.environ.get("HTAGWEB_CTL_DIR", "/run/htagweb/ctl")) / "orch.sock"
    state = Path(os.environ.get("HTAGWEB_STATE_DIR", "/var/lib/htagweb"))
    return Gateway(orchestrator=OrchestratorClient(str(control)), identity=Identity(signing_key(state / "cookie.key")))


def main() -> int:
    uvicorn.run(
        "htagweb_gateway.__main__:create",
        factory=True,
        host=os.environ.get("HTAGWEB_LISTEN_HOST", "0.0.0.0"),
        port=int(os.environ.get("HTAGWEB_LISTEN_PORT", "8000")),
        workers=int(os.environ.get("HTAGWEB_WORKERS", "1")),
        http="htagweb_gateway.protocol:FrontProtocol",
        ws="htagweb_gateway.protocol:FrontWebSocket",
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
