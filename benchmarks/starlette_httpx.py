"""The proxy as tutorials write it: Starlette, httpx, websockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import httpx
import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

UPSTREAM = os.environ["BENCH_UPSTREAM"]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}


@contextlib.asynccontextmanager
async def client(app: Starlette) -> AsyncIterator[None]:
    transport = httpx.AsyncHTTPTransport(uds=UPSTREAM)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox", timeout=65) as app.state.client:
        yield


async def http(request: Request) -> StreamingResponse:
    upstream: httpx.AsyncClient = request.app.state.client
    headers = [(name, value) for name, value in request.headers.items() if name not in HOP_BY_HOP]
    body = request.stream() if request.method == "POST" else None
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    asked = upstream.build_request(request.method, target, headers=headers, content=body)
    answer = await upstream.send(asked, stream=True)
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        headers={name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP},
        background=BackgroundTask(answer.aclose),
    )


async def websocket(browser: WebSocket) -> None:
    async with websockets.unix_connect(UPSTREAM, f"ws://sandbox{browser.url.path}", compression=None) as sandbox:
        await browser.accept()

        async def up() -> None:
            with contextlib.suppress(WebSocketDisconnect):
                while True:
                    await sandbox.send(await browser.receive_text())

        async def down() -> None:
            async for message in sandbox:
                await browser.send_text(str(message))

        pumps = [asyncio.create_task(up()), asyncio.create_task(down())]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()


app = Starlette(
    routes=[WebSocketRoute("/bench/ws", websocket), Route("/{path:path}", http, methods=["GET", "POST"])],
    lifespan=client,
)

if __name__ == "__main__":
    uvicorn.run(
        app, port=int(os.environ["BENCH_PORT"]), log_level="error", access_log=False, ws_per_message_deflate=False
    )
