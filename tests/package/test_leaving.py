"""A server with users' pages open is told to end: it does, soon, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from starlette.types import Message
from websockets.sync.client import connect

from htagweb.leaving import EventStreams, ended_soon
from tests.sites import Sites

from .conftest import Write
from .tab import Tab, User

SERVER = """
import pathlib, time
from htag import Tag
from htagweb import WebServer

class App(Tag.div):
    def init(self):
        self += Tag.button("wait", _onclick=self.bind.wait())
    def wait(self):
        pathlib.Path("waiting").touch()
        time.sleep(100)

async def sockets(request):
    return await app.handle(request, App, http_only=False)

app = WebServer(App)
app.add_route("/sockets", sockets)
"""

GUNICORN = ["gunicorn", "-w", "4", "-b", "127.0.0.1:0", "--preload", "-k"]
BOOT_S = 40.0
SOON_S = 15.0  # gunicorn kills after 30
GONE_S = 20.0

T = TypeVar("T")


class Server:
    def __init__(self, command: list[str], folder: Path, sites: Sites) -> None:
        self.mark = uuid.uuid4().hex
        path = os.pathsep.join([str(sites.root / "site-gen1"), *filter(None, sys.path)])
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path, "MARK": self.mark},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.client = httpx.Client(timeout=BOOT_S, trust_env=False)

    def wait(self) -> None:
        """Until it listens."""
        said = until(lambda: re.search(r"(?:Listening at: |running on )http://[^:]+:(\d+)", self.said()), self)
        self.port = int(said[1])
        self.client.base_url = f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        return self.log.read_text()

    def processes(self) -> list[int]:
        """Its own, and all that came of them."""
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(int(pid))
        return found

    def end(self) -> None:
        self.client.close()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()


def until(found: Callable[[], T | None], server: Server, within_s: float = BOOT_S) -> T:
    deadline = time.monotonic() + within_s
    while (it := found()) is None:
        assert time.monotonic() < deadline, server.said()
        time.sleep(0.05)
    return it


@contextlib.contextmanager
def stream(server: Server, tab: Tab) -> Iterator[None]:
    path = f"{tab.base}_stream?instance={tab.instance}&page={tab.name}&got=0"
    with server.client.stream("GET", path, headers=tab.user.headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield


@contextlib.contextmanager
def socket(server: Server, tab: Tab) -> Iterator[None]:
    path = f"{tab.base}_ws?instance={tab.instance}&page={tab.name}&got=0"
    with connect(f"ws://127.0.0.1:{server.port}{path}", additional_headers=tab.user.headers, proxy=None):
        yield


@contextlib.contextmanager
def click(server: Server, tab: Tab) -> Iterator[None]:
    """One that takes longer than anybody waits."""
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(tab.send, "wait")
        waiting = server.log.parent / "waiting"
        until(lambda: waiting.exists() or None, server)
        yield
        with contextlib.suppress(httpx.TransportError):
            sent.result()


Held = Callable[[Server, Tab], contextlib.AbstractContextManager[None]]
H11, OWN = "uvicorn_worker.UvicornH11Worker", "uvicorn_worker.UvicornWorker"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("command", "held", "told", "to_all"),
    [
        pytest.param([*GUNICORN, H11], stream, signal.SIGINT, False, id="gunicorn-stream-int"),
        pytest.param([*GUNICORN, OWN], stream, signal.SIGTERM, False, id="gunicorn-stream-term"),
        pytest.param([*GUNICORN, H11], socket, signal.SIGINT, True, id="gunicorn-socket-ctrl-c"),
        pytest.param([*GUNICORN, H11], click, signal.SIGINT, False, id="gunicorn-click-int"),
        pytest.param(["uvicorn", "--port", "0"], stream, signal.SIGINT, False, id="uvicorn-stream-int"),
    ],
)
def test_a_server_that_is_told_to_end_ends_soon_and_leaves_nothing(
    write: Write, sites: Sites, command: list[str], held: Held, told: signal.Signals, to_all: bool
) -> None:
    server = Server([*command, "server:app"], write("server.py", SERVER).parent, sites)
    try:
        server.wait()
        tab = User(server.client).open("/sockets" if held is socket else "/")  # type: ignore[arg-type]
        workers = 4 if command[0] == "gunicorn" else 1
        until(lambda: server.said().count("startup complete") == workers or None, server)
        with held(server, tab):
            (os.killpg if to_all else os.kill)(server.popen.pid, told)
            server.popen.wait(SOON_S)
        until(lambda: None if server.processes() else True, server, GONE_S)
    finally:
        server.end()
    assert held is click or "Traceback" not in server.said()  # that one is broken off


async def test_a_stream_that_has_just_ended_by_itself_is_not_ended_again() -> None:
    streams, sent = EventStreams(), []

    async def send(message: Message) -> None:
        sent.append(message["type"])

    with streams.following(send) as followed:
        await followed({"type": "http.response.start", "headers": [(b"content-type", b"text/event-stream")]})
        await followed({"type": "http.response.body", "body": b"the last"})
        streams.end()
        await asyncio.gather(*streams._ends)
    assert sent == ["http.response.start", "http.response.body"]


async def test_a_program_that_serves_once_more_has_its_streams_back() -> None:
    streams, sent = EventStreams(), []

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    streams.end()
    with ended_soon(streams), streams.following(send) as followed:
        await followed({"type": "http.response.start", "headers": [(b"content-type", b"text/event-stream")]})
        await followed({"type": "http.response.body", "body": b"one", "more_body": True})
    assert sent == [b"", b"one"]
