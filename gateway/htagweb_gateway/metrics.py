"""GET /metrics, on a port of its own that no visitor reaches: the orchestrator's numbers, and what this worker knows.

Nothing is counted on a request's way: what there is, is looked up when somebody asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from htagweb_orchestrator.errors import OrchestratorError

from .app import Gateway

log = logging.getLogger(__name__)

HEAD_BYTES, HEAD_S = 8192, 5.0
ANSWER_S = 10.0
MOST = 8  # connections at a time

Source = Callable[[], Awaitable[bytes]]


class Own(Collector):
    """Workers share the port, so each says which one it is: by its process id."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.up = False  # whether the orchestrator answered

    def collect(self) -> Iterator[GaugeMetricFamily]:
        gateway = self._gateway
        yield GaugeMetricFamily("htagweb_up", "1 if the orchestrator answered.", value=float(self.up))
        for name, doc, value in (
            ("htagweb_gateway_watching", "1 while this worker follows the orchestrator.", gateway.watching),
            ("htagweb_gateway_websockets", "Open WebSockets of this worker.", gateway.sockets),
            ("htagweb_gateway_requests", "Requests of this worker that are with a sandbox.", gateway.requests),
        ):
            family = GaugeMetricFamily(name, doc, labels=["worker"])
            family.add_metric([str(os.getpid())], float(value))
            yield family


class Metrics:
    """`orchestrator` is asked for its numbers. Without it there are this worker's own, and htagweb_up is 0."""

    def __init__(self, gateway: Gateway, orchestrator: Source) -> None:
        self._orchestrator = orchestrator
        self._own = Own(gateway)
        self._registry = CollectorRegistry()
        self._registry.register(self._own)

    async def text(self) -> bytes:
        try:
            told = await self._orchestrator()
        except OrchestratorError:
            told = b""
        self._own.up = bool(told)
        return told + generate_latest(self._registry)


@contextlib.asynccontextmanager
async def serving(text: Source, *, host: str, port: int) -> AsyncIterator[int]:
    """Answer at this port, 0 for any, which is returned. Other workers may do so, too: each caller gets one of them.

    Where that can't be had, it is logged: visitors are served without.
    """
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        try:
            if len(answering) <= MOST:
                async with asyncio.timeout(HEAD_S + ANSWER_S):
                    writer.write(await _answer(reader, text))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # who asks so, or doesn't wait, gets no answer
        except Exception:
            log.exception("the metrics could not be told")
        finally:
            answering.discard(task)
            writer.close()

    try:
        server = await asyncio.start_server(answer, host, port, limit=HEAD_BYTES, reuse_port=True)
    except OSError as error:
        log.error(
            "the metrics can't be served: %s; set HTAGWEB_METRICS_PORT to a free port, or to 0 for none",
            error.strerror or error,
            extra={"port": port},
        )
        yield 0
        return
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


async def _answer(reader: asyncio.StreamReader, text: Source) -> bytes:
    async with asyncio.timeout(HEAD_S):
        head = await reader.readuntil(b"\r\n\r\n")
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path != b"/metrics":
        return _response(b"404 Not Found", b"The metrics are at /metrics.\n")
    if method != b"GET":
        return _response(b"405 Method Not Allowed", b"The metrics can be read only.\n")
    return _response(b"200 OK", await text(), b"; version=0.0.4")


def _response(status: bytes, body: bytes, version: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 %b\r\nContent-Type: text/plain%b; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (status, version, len(body), body)
    )
