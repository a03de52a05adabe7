"""Calls to Docker's API from a coroutine: each in a thread, each with a deadline, never more than there are threads."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import docker
import requests
import urllib3

from ..errors import EngineUnavailable

T = TypeVar("T")
Client = docker.APIClient
Call = Callable[[Client], T]

# docker.errors.APIError, among these, is an answer; every other one means that there was none.
DRIVER_ERRORS = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class _Bounded(docker.APIClient):
    """With its timeout for pulls as well, where the driver would wait for ever for the next word."""

    def _set_request_timeout(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self.timeout
        return kwargs


def connect(base_url: str, timeout_s: float, *, bounded: bool = False) -> Client:
    """A client that speaks the engine's own API version. It asks the engine for that, so this blocks."""
    _knock(base_url, timeout_s)
    kind = _Bounded if bounded else docker.APIClient
    return kind(base_url=base_url, version="auto", timeout=math.ceil(timeout_s))


def _knock(base_url: str, timeout_s: float) -> None:
    """Where nobody listens, the driver would leave its socket to the garbage collector."""
    scheme, _, path = base_url.partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(timeout_s)
            knock.connect(path)


def unavailable(base_url: str, error: Exception) -> EngineUnavailable:
    """The driver's error as ours: a refusal in the engine's words, or silence."""
    if isinstance(error, docker.errors.APIError):
        return EngineUnavailable(f"the container engine refused: {error.explanation or error}")
    return EngineUnavailable(f"no container engine answers at {base_url}: {error}")


class DockerCalls:
    """Runs blocking calls in threads of its own, one API client a thread.

    A thread that the engine leaves hanging can't be ended; it keeps its place until it comes back. So a place is taken
    before a call is handed over, and a dead engine costs `threads` threads, whatever is asked of it.

    `silence_s` is for calls that go on for long and tell of it: how long the engine may say nothing meanwhile.
    """

    def __init__(self, base_url: str, *, timeout_s: float, threads: int = 8, silence_s: float | None = None) -> None:
        self.base_url = base_url
        self.timeout_s = timeout_s
        self._silence_s = silence_s
        self.hung = 0  # calls whose caller has given up, and whose thread has not come back
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="docker")
        self._places = asyncio.Semaphore(threads)
        self._local = threading.local()
        self._clients: set[Client] = set()
        self._undoing: set[asyncio.Task[Any]] = set()

    async def run(self, call: Call[T], *, undo: Call[object] | None = None) -> T:
        """Return what `call` returns. Raises docker.errors.APIError as it is (the caller knows what a 404 means), and
        EngineUnavailable if there was no answer within the deadline.

        `undo` is called when a `call` comes back after its caller has given up, unless the engine refused it: it was
        done, or nobody knows, and nobody else would remove what it made.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._places.acquire()
        except TimeoutError as error:
            raise EngineUnavailable(f"the container engine at {self.base_url} hangs: no call comes back") from error
        answer = asyncio.wrap_future(self._threads.submit(self._in_thread, call))
        answer.add_done_callback(lambda _: self._places.release())
        try:
            async with asyncio.timeout(self.timeout_s):
                return await asyncio.shield(answer)
        except (TimeoutError, asyncio.CancelledError) as gave_up:
            self.hung += 1
            answer.add_done_callback(lambda late: self._came_back_late(late, undo))
            if isinstance(gave_up, asyncio.CancelledError):
                raise
            raise EngineUnavailable(
                f"the container engine at {self.base_url} did not answer within {self.timeout_s:g} s"
            ) from gave_up

    def close(self) -> None:
        """Wait for nothing: a hung thread would keep us."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in list(self._clients):
            client.close()
        self._clients.clear()

    def _came_back_late(self, late: asyncio.Future[Any], undo: Call[object] | None) -> None:
        self.hung -= 1
        if late.cancelled() or isinstance(late.exception(), docker.errors.APIError) or undo is None:
            return
        task = asyncio.get_running_loop().create_task(self._undo(undo))
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def _undo(self, undo: Call[object]) -> None:
        try:
            await self.run(undo)
        except (docker.errors.APIError, EngineUnavailable):
            pass  # what stayed is found by its label, like everything that a crash leaves

    def _in_thread(self, call: Call[T]) -> T:
        try:
            return call(self._client())
        except docker.errors.APIError:
            raise
        except DRIVER_ERRORS as error:
            self._forget_client()  # the engine may come back as another version
            raise unavailable(self.base_url, error) from error

    def _client(self) -> Client:
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            # The driver waits longer than we do: a call that is done late is better known of than not.
            driver_s = self._silence_s or 3 * self.timeout_s
            client = self._local.client = connect(self.base_url, driver_s, bounded=self._silence_s is not None)
            self._clients.add(client)
        return client

    def _forget_client(self) -> None:
        client: Client | None = getattr(self._local, "client", None)
        if client is not None:
            self._local.client = None
            self._clients.discard(client)
            client.close()
