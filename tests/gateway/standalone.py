"""The reduced gateway as a process of its own, so that its memory can be told from the test's.

`python -m tests.gateway.standalone SOCKET` prints its port.
"""

from __future__ import annotations

import asyncio
import os
import sys

from htagweb_gateway.door import FrontWebSocket
from htagweb_orchestrator.model import UnixAddress

from .scripted import Front, gateway


async def serve(path: str) -> None:
    app = Front(UnixAddress(path=path, uid=os.getuid()), message_rate=1_000_000)
    async with gateway(app, ws=FrontWebSocket) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
