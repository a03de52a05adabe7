"""The sandbox's end of the control protocol, small and scripted: what a harness says, honest or not.

Runs in the test's own event loop, on the sandbox's real directory; its sockets are given to the sandbox's uid.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from htagweb_orchestrator.engines.base import SandboxSpec

Frame = dict[str, Any]
WAIT_S = 5.0


class Harness:
    """An honest one. The others override what they do otherwise."""

    def __init__(self, spec: SandboxSpec, exits: Callable[[int], None]) -> None:
        self.spec = spec
        self.stage = "blank"
        self.version = ""
        self.heard: list[Frame] = []
        self.files: dict[str, bytes] = {}
        self.session: Frame = {}
        self.profile: Frame | None = None
        self.connections = 0
        self.reading = asyncio.Event()  # cleared: it leaves what was sent to it in the socket
        self.reading.set()
        self._exits = exits
        self._held_back: list[bytes] = []
        self._answers: dict[int, asyncio.Future[str | None]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._sockets: list[socket.socket] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._run(self.boot())

    # -- what a script overrides ---------------------------------------------------------------------------------

    async def boot(self) -> None:
        await self.listen()

    async def on_hello(self) -> None:
        self.say(type="hello", protocol=1, generation=1, stage=self.stage, version=self.version)

    async def on_load(self, load: Frame) -> None:
        self.say(type="ready", stage="load", took_ms={"import": 1.0})

    async def on_claim(self, claim: Frame) -> None:
        self.say(type="ready", stage="claim", took_ms={"render": 1.0})

    async def on_end(self, end: Frame) -> None:
        self.exit(0)

    # -- what a test makes it do ---------------------------------------------------------------------------------

    def say(self, **frame: Any) -> None:
        self.write(framed(json.dumps(frame).encode()))

    def write(self, data: bytes) -> None:
        """Bytes as they are; kept for the next connection if there is none."""
        if self._writer is None:
            self._held_back.append(data)
        else:
            self._writer.write(data)

    async def drained(self) -> None:
        """Wait until the orchestrator has taken what was written."""
        assert self._writer is not None
        async with asyncio.timeout(WAIT_S):
            await self._writer.drain()

    async def change(self, changed: Frame, delete: Sequence[str] = ()) -> str | None:
        """Change the session as the app would, and wait for the ack; its error, or None."""
        return await asyncio.wait_for(self.changing(changed, delete), WAIT_S)

    def changing(self, changed: Frame, delete: Sequence[str] = ()) -> asyncio.Future[str | None]:
        seq = len(self._answers) + 1
        answer = self._answers[seq] = asyncio.get_running_loop().create_future()
        self.say(type="session", seq=seq, set=changed, **{"del": list(delete)})
        return answer

    def exit(self, code: int) -> None:
        """Its process ends."""
        self._exits(code)

    def hang_up(self) -> None:
        assert self._writer is not None
        self._writer.close()
        self._writer = None

    @property
    def connected(self) -> bool:
        return self._writer is not None

    def told(self) -> list[Frame]:
        """Session changes that the orchestrator sent."""
        return [frame for frame in self.heard if frame["type"] == "session"]

    def heard_of(self, kind: str) -> Frame:
        return next(frame for frame in self.heard if frame["type"] == kind)

    # -- its process ---------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        folder = os.open(self.spec.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._sockets = [self._bind(folder, name) for name in ("app.sock", "control.sock")]
        finally:
            os.close(folder)
        asyncio.get_running_loop().add_reader(self._sockets[1], self._accept)

    def _bind(self, folder: int, name: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = f"/proc/self/fd/{folder}/{name}"  # the whole path may be longer than a socket's name can be
        listener.bind(path)
        listener.setblocking(False)
        listener.listen()
        os.chmod(path, 0o600)
        os.chown(path, self.spec.uid, self.spec.uid)
        return listener

    def write_boot_log(self, text: str) -> None:
        path = Path(self.spec.directory, "boot.log")
        path.write_text(text)
        os.chown(path, self.spec.uid, self.spec.uid)

    def killed(self) -> None:
        """Called by the machine: nothing of it runs any more; its socket files stay."""
        for task in self.tasks:
            task.cancel()
        self.refuse_connections()
        if self._writer is not None:
            self._writer.transport.abort()

    def refuse_connections(self) -> None:
        for listener in self._sockets:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._sockets = []

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _accept(self) -> None:
        peer, _ = self._sockets[1].accept()
        peer.setblocking(False)
        # However early it is cancelled, nothing stays open.
        self._run(self._serve(peer)).add_done_callback(lambda _: peer.close())

    async def _serve(self, peer: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=peer)
        self.connections += 1
        if self._writer is not None:
            self._writer.close()
        self._writer = writer
        try:
            while True:
                await self.reading.wait()
                await self._hear(json.loads(await _payload(reader)), reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            if self._writer is writer:
                self._writer = None

    async def _hear(self, frame: Frame, reader: asyncio.StreamReader) -> None:
        self.heard.append(frame)
        match frame["type"]:
            case "hello":
                await self.on_hello()
                held_back, self._held_back = self._held_back, []
                for data in held_back:
                    self.write(data)
            case "load":
                self.files = {file["path"]: await _payload(reader) for file in frame["files"]}
                self.stage, self.version = "loaded", frame["version"]
                await self.on_load(frame)
            case "claim":
                self.stage, self.session, self.profile = "claimed", frame["session"], frame["profile"]
                await self.on_claim(frame)
            case "session":
                self.session.update(frame["set"])
                for key in frame["del"]:
                    self.session.pop(key, None)
            case "profile":
                self.profile = frame["profile"]
            case "session.ack":
                self._answers[frame["seq"]].set_result(frame["error"])
            case "ping":
                self.say(type="ping", n=frame["n"])
            case "end":
                await self.on_end(frame)


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


async def _payload(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


class FailsAtLoad(Harness):
    async def on_load(self, load: Frame) -> None:
        traceback = 'Traceback (most recent call last):\n  File "/app/hello.py", line 1\nNameError: secret\n'
        self.say(type="failed", stage="load", error="NameError: secret", traceback=traceback)


class FailsAtClaim(Harness):
    async def on_claim(self, claim: Frame) -> None:
        self.say(type="failed", stage="claim", error="init error", traceback="ZeroDivisionError in init\n")


class NeverMakesItsSockets(Harness):
    async def boot(self) -> None:
        pass


class NeverSaysHello(Harness):
    async def on_hello(self) -> None:
        pass


class NeverLoads(Harness):
    async def on_load(self, load: Frame) -> None:
        pass


class DiesAtBoot(Harness):
    async def boot(self) -> None:
        self.write_boot_log("ModuleNotFoundError: No module named 'htag'\n")
        self.exit(1)


class DiesAtLoad(Harness):
    async def on_load(self, load: Frame) -> None:
        self.exit(139)


class HangsUpAtFiles(Harness):
    """Closes the connection while files are still being sent to it."""

    async def _hear(self, frame: Frame, reader: asyncio.StreamReader) -> None:
        if frame["type"] != "load":
            return await super()._hear(frame, reader)
        self.hang_up()
        raise ConnectionError


class LeavesAFile(Harness):
    """Its directory holds more than the two sockets when it is sealed."""

    async def boot(self) -> None:
        os.close(os.open(f"{self.spec.directory}/extra", os.O_CREAT | os.O_WRONLY))
        await self.listen()


class IsOfAnotherRelease(Harness):
    async def on_hello(self) -> None:
        self.say(type="hello", protocol=2, generation=1, stage="blank")


class IgnoresEnd(Harness):
    async def on_end(self, end: Frame) -> None:
        pass
