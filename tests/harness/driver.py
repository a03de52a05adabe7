"""A real harness in a process of its own, and the orchestrator's end of its control connection."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, unix_connect

from tests.sites import REPOSITORY, Sites

DEADLINE_S = 15.0
PACKAGE = REPOSITORY / "sandbox-image" / "htagweb_harness"

Frame = dict[str, Any]


class Link:
    """One control connection. What the harness says is kept in `heard`, in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.heard: list[Frame] = []
        self.closed = False
        self.acks = True
        self.refuse: Callable[[Frame], str | None] = lambda frame: None
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                assert size <= 256 * 1024
                frame = json.loads(await self._reader.readexactly(size))
                if frame["type"] == "session" and self.acks:
                    self.send({"type": "session.ack", "seq": frame["seq"], "error": self.refuse(frame)})
                async with self._news:
                    self.heard.append(frame)
                    self._news.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            async with self._news:
                self.closed = True
                self._news.notify_all()

    def send(self, frame: Frame, *files: bytes) -> None:
        for payload in (json.dumps(frame).encode(), *files):
            self._writer.write(len(payload).to_bytes(4, "big") + payload)

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def until(self, done: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        async with asyncio.timeout(deadline_s), self._news:
            await self._news.wait_for(done)

    async def frame(self, *types: str, after: int = 0, **fields: Any) -> Frame:
        """The first frame of one of these types, and with these fields, from position `after` on."""

        def found() -> list[Frame]:
            return [
                frame
                for frame in self.heard[after:]
                if frame["type"] in types and all(frame.get(key) == value for key, value in fields.items())
            ]

        await self.until(lambda: bool(found()) or self.closed)
        assert found(), f"the connection ended without {types}; heard {self.heard}"
        return found()[0]

    async def hello(self, orphan_timeout_s: float = 60) -> Frame:
        self.send({"type": "hello", "protocol": 1, "orphan_timeout_s": orphan_timeout_s})
        return await self.frame("hello")

    async def ping(self) -> None:
        n = sum(frame["type"] == "ping" for frame in self.heard) + 1
        self.send({"type": "ping", "n": n})
        await self.frame("ping", n=n)

    @property
    def output(self) -> str:
        return "".join(frame["text"] for frame in self.heard if frame["type"] == "output")

    async def said(self, text: str) -> None:
        await self.until(lambda: text in self.output or self.closed)
        assert text in self.output, self.output

    def close(self) -> None:
        self._task.cancel()
        self._writer.close()


class Harness:
    """`run` is the sandbox's run directory, `link` the newest control connection."""

    def __init__(self, folder: Path, command: list[str], process: asyncio.subprocess.Process) -> None:
        self.command = command
        self.run = folder / "run"
        self.app_dir = folder / "app"
        self.secrets_dir = folder / "secrets"
        self.process = process
        self.link: Link
        self._links: list[Link] = []
        transport = httpx.AsyncHTTPTransport(uds=str(self.run / "app.sock"))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://sandbox", timeout=DEADLINE_S)

    async def connect(self) -> Link:
        reader, writer = await asyncio.open_unix_connection(str(self.run / "control.sock"))
        self.link = Link(reader, writer)
        self._links.append(self.link)
        return self.link

    async def load(
        self, source: str | dict[str, str], entry: str = "app:App", *, expect: str = "ready", **fields: Any
    ) -> Frame:
        files = {"app.py": source} if isinstance(source, str) else source
        contents = [text.encode() for text in files.values()]
        listed = [{"path": path, "size": len(data)} for path, data in zip(files, contents, strict=True)]
        message = {
            "type": "load", "app": "toy", "version": "v1", "entry": entry, "files": listed, "env": {}, "dev": False,
            "interaction_timeout_s": 60, "session_size": 65536, "http_only": False,
            "parano": False,
        }  # fmt: skip
        self.link.send({**message, **fields}, *contents)
        answer = await self.link.frame("ready", "failed", stage="load")
        assert answer["type"] == expect, answer
        return answer

    async def claim(
        self, *, query: str = "", session: Frame | None = None, profile: Frame | None = None, expect: str = "ready"
    ) -> Frame:
        claim = {"type": "claim", "session": session or {}, "query": query, "prefix": "/toy", "profile": profile}
        self.link.send(claim)
        answer = await self.link.frame("ready", "failed", stage="claim")
        assert answer["type"] == expect, (answer, self.link.output)
        return answer

    async def ended(self, deadline_s: float = DEADLINE_S) -> int:
        async with asyncio.timeout(deadline_s):
            return await self.process.wait()

    @asynccontextmanager
    async def websocket(self, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
        uri = f"ws://sandbox{path}"
        async with unix_connect(
            str(self.run / "app.sock"), uri, compression=None, max_size=None, **options
        ) as websocket:
            yield websocket

    async def close(self) -> None:
        await self.http.aclose()
        for link in self._links:
            link.close()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def booted(sites: Sites, generation: int) -> AsyncIterator[Harness]:
    """A harness that has bound its sockets, and nobody has spoken to."""
    folder = Path(tempfile.mkdtemp(prefix="hx-"))  # short: a Unix socket's path has about 100 bytes
    try:
        for name in ("run", "app", "secrets", "harness"):
            (folder / name).mkdir()
        shutil.copy(PACKAGE / "__main__.py", folder / "harness")
        (folder / "harness" / "htagweb_harness").symlink_to(PACKAGE)
        command = [sys.executable, "-I", "-S", str(folder / "harness"), "--generation", str(generation)]
        command += ["--run", str(folder / "run"), "--app-dir", str(folder / "app")]
        command += ["--secrets-dir", str(folder / "secrets")]
        for site in sites.path(generation):
            command += ["--site", str(site)]
        with (folder / "boot.log").open("w") as boot_log:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=boot_log
            )
        harness = Harness(folder, command, process)
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not (harness.run / "control.sock").exists():
                    assert process.returncode is None, (folder / "boot.log").read_text()
                    await asyncio.sleep(0.01)
            yield harness
        finally:
            await harness.close()
    finally:
        shutil.rmtree(folder)
