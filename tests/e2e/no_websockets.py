"""A proxy in front as some companies have it: everything passes but WebSocket upgrades."""

from __future__ import annotations

import asyncio
import threading


class NoWebSockets:
    """Listens on a port of its own and forwards to `port`, with the Upgrade header cut out of every request's head."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        serving = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = serving.result(5)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection: that is simple, and right however bodies are framed."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"upgrade:", b"connection:"))]
            lines.insert(1, b"Connection: close")
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
            up_writer.write(b"\r\n".join(lines))
            body = asyncio.create_task(self._copy(reader, up_writer))
            await self._copy(up_reader, writer)
            body.cancel()
            up_writer.close()
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
