"""WebSockets that send a message, wait for its echo and send the next, or that are merely open."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from .traffic import CLICK, read

_MASK = b"\x12\x34\x56\x78"
FRAME = bytes([0x81, 0x80 | len(CLICK)]) + _MASK + bytes(byte ^ _MASK[at % 4] for at, byte in enumerate(CLICK))
ECHO = bytes([0x81, len(CLICK)]) + CLICK


class Browser(asyncio.Protocol):
    def __init__(self, handshake: bytes, on_echo: Callable[[float], bool]) -> None:
        """`on_echo` is told the seconds that a message took, and says whether to send another one."""
        loop = asyncio.get_running_loop()
        self._handshake = handshake
        self._on_echo = on_echo
        self._received = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self.open: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no child of asyncio's
        assert self._transport is not None
        self._transport.write(self._handshake)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.open.done():
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if end:
                self._received = rest
                if head.startswith(b"HTTP/1.1 101 "):
                    self.open.set_result(None)
                else:
                    self.open.set_exception(ConnectionError(head.decode("latin-1")))
        elif len(self._received) >= len(ECHO):
            now = time.perf_counter()
            if self._received != ECHO:
                self.done.set_exception(ConnectionError(f"another echo: {self._received!r}"))
                return
            self._received = b""
            if self._on_echo(now - self._sent):
                self.send()
            elif not self.done.done():
                self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for waiting in (self.open, self.done):
            if not waiting.done():
                waiting.set_exception(ConnectionError("closed"))
                waiting.exception()  # for those that nobody waits for

    def send(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(FRAME)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


async def connect(port: int, handshakes: list[bytes], on_echo: Callable[[float], bool]) -> list[Browser]:
    loop = asyncio.get_running_loop()
    browsers = []
    for handshake in handshakes:
        _, browser = await loop.create_connection(partial(Browser, handshake, on_echo), "127.0.0.1", port)
        await asyncio.wait_for(browser.open, 10)
        browsers.append(browser)
    return browsers


async def echo(port: int, handshakes: list[bytes], seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    end = 0.0

    def on_echo(latency: float) -> bool:
        latencies.append(latency)
        return time.perf_counter() < end

    browsers = await connect(port, handshakes, on_echo)
    began = time.perf_counter()
    end = began + seconds
    for browser in browsers:
        browser.send()
    async with asyncio.timeout(seconds + 10):
        await asyncio.gather(*(browser.done for browser in browsers))
    took = time.perf_counter() - began
    for browser in browsers:
        browser.close()
    latencies.sort()
    return {
        "count": len(latencies),
        "seconds": took,
        "errors": 0,
        "p50_us": latencies[len(latencies) // 2] * 1e6,
        "p99_us": latencies[len(latencies) * 99 // 100] * 1e6,
    }


async def hold(port: int, handshakes: list[bytes]) -> None:
    """Open them, say so, and keep them until the standard input ends."""
    browsers = await connect(port, handshakes, lambda _: False)
    print(json.dumps({"count": len(browsers)}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for browser in browsers:
        browser.close()


async def run(port: int, handshakes: list[bytes], seconds: float) -> None:
    if seconds:
        print(json.dumps(await echo(port, handshakes, seconds)))
    else:
        await hold(port, handshakes)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("port", type=int)
    arguments.add_argument("handshakes", type=Path, help="a file of requests, one a WebSocket")
    arguments.add_argument("seconds", type=float, help="how long to send; 0: only hold them open")
    given = arguments.parse_args()
    uvloop.run(run(given.port, read(given.handshakes), given.seconds))


if __name__ == "__main__":
    main()
