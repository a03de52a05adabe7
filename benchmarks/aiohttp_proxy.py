"""The same with aiohttp on both sides, as notebook servers do it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

UPSTREAM = os.environ["BENCH_UPSTREAM"]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}
CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def client(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(
        "http://sandbox",
        connector=aiohttp.UnixConnector(UPSTREAM, limit=0),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as app[CLIENT]:
        yield


async def handle(request: web.Request) -> web.StreamResponse:
    if request.headers.get("upgrade", "").lower() == "websocket":
        return await websocket(request)
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
    body = request.content if request.body_exists else None
    async with request.app[CLIENT].request(
        request.method, request.rel_url, headers=headers, data=body, allow_redirects=False
    ) as answer:
        kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
        response = web.StreamResponse(status=answer.status)
        response.headers.extend(kept)
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def websocket(request: web.Request) -> web.StreamResponse:
    browser = web.WebSocketResponse(compress=False)
    async with request.app[CLIENT].ws_connect(request.rel_url, compress=0) as sandbox:
        await browser.prepare(request)

        async def up() -> None:
            async for message in browser:
                await sandbox.send_str(message.data)

        async def down() -> None:
            async for message in sandbox:
                await browser.send_str(message.data)

        pumps = [asyncio.create_task(up()), asyncio.create_task(down())]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
    return browser


def main() -> None:
    app = web.Application(client_max_size=0)
    app.cleanup_ctx.append(client)
    app.router.add_route("*", "/{path:.*}", handle)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(app, host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), access_log=None, print=None)


if __name__ == "__main__":
    main()
