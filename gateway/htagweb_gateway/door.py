"""uvicorn's WebSocket protocol, whose connection a tunnel takes over after the handshake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from .frames import GOING_AWAY
from .visitor_socket import has_left


class FrontWebSocket(WebSocketsSansIOProtocol):
    """`uvicorn.Config(ws=FrontWebSocket)`. It is in the scope as "htagweb.door", for a tunnel to take it over."""

    on_lost: Callable[[], None] | None = None
    _close: Callable[[int], None] | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["htagweb.door"] = self  # type: ignore[typeddict-unknown-key]

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            self.transport.abort()  # clients wait for the answer to their handshake
            return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # else uvicorn logs each refusal as an application that didn't answer

    def shutdown(self) -> None:
        if self._close is not None:
            self._close(GOING_AWAY)
        elif self.handshake_complete:
            super().shutdown()
        else:
            self.conn.send_response(self.conn.reject(503, "the server is going down, try again in a moment\n"))
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    # What a tunnel calls (`tunnel.Door`)

    def open(self, head: bytes, close: Callable[[int], None]) -> asyncio.Transport | None:
        if self.transport.is_closing():
            return None
        self.transport.write(head)
        self.handshake_complete = True
        self._close = close
        del self.conn, self.request, self.response  # some kilobytes, kept as long as the socket is open
        return self.transport

    def gone(self) -> bool:
        return has_left(self.transport)
