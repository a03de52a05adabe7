"""How a server ends that has users' pages open: soon, whichever server it is and whoever is told first.

A server that is told to end waits for the answers that run, and only then ends our lifespan. The event stream of an
open page would run for ever, so it is ended when the signal comes. And gunicorn, where Ctrl-C reaches its master, sends
its workers SIGQUIT, of which uvicorn's worker only takes note: they were killed after gunicorn's `graceful_timeout`,
half a minute later.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from starlette.types import Message, Send

from .fellows import under_gunicorn

QUICK_S = 2.0  # what runs when SIGQUIT comes may take so long; the same as after `run()`


class EventStreams:
    """The answers that have no end of their own."""

    def __init__(self) -> None:
        self._open: set[_Answer] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._ended = False

    @contextlib.contextmanager
    def following(self, send: Send) -> Iterator[Send]:
        """While an answer is given; what is yielded takes the place of `send`."""
        answer = _Answer(send)

        async def followed(message: Message) -> None:
            await answer.send(message)
            if message["type"] == "http.response.start" and _is_stream(message):
                self._open.add(answer)
                if self._ended:
                    await answer.end()

        try:
            yield followed
        finally:
            self._open.discard(answer)

    def begin(self) -> None:
        """For a program that serves once more after it has ended."""
        self._ended = False

    def end(self) -> None:
        """All of them, and those that begin from now on."""
        self._ended = True
        self._ends |= {asyncio.create_task(answer.end()) for answer in self._open}


class _Answer:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._over = False

    async def send(self, message: Message) -> None:
        if not self._over:
            self._over = message["type"] == "http.response.body" and not message.get("more_body", False)
            await self._send(message)

    async def end(self) -> None:
        """Whoever gives it hears that the visitor has left."""
        if not self._over:
            self._over = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_stream(message: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message.get("headers", ())
    )


@contextlib.contextmanager
def ended_soon(streams: EventStreams) -> Iterator[None]:
    """While uvicorn starts and serves, in the main thread: its signals end the streams, and SIGQUIT ends the server."""
    streams.begin()
    before: dict[int, Any] = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    server: Any = getattr(before[signal.SIGTERM], "__self__", None)
    if threading.current_thread() is not threading.main_thread() or type(server).__module__ != "uvicorn.server":
        yield
        return
    loop = asyncio.get_running_loop()

    def told(number: int, frame: FrameType | None) -> None:
        before[number](number, frame)
        loop.call_soon_threadsafe(streams.end)

    def quit_soon() -> None:
        streams.end()
        server.should_exit = True
        loop.call_later(QUICK_S, setattr, server, "force_exit", True)

    for each in before:
        signal.signal(each, told)
    if under_gunicorn():
        loop.add_signal_handler(signal.SIGQUIT, quit_soon)
    try:
        yield
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is told:  # not where the server has put back what it found
                signal.signal(each, handler)
