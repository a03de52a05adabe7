"""The orchestrator's end of the control protocol (docs/control-protocol.md): one connection to one harness.

Nothing that arrives here is believed further than the sandbox's own user. Frames are bounded in size and rate, and so
is what waits to be read by the other side; a peer that breaks the bounds loses the connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from .address import dial
from .model import Address, Person, SandboxId, Struct, TcpAddress

log = logging.getLogger(__name__)

PROTOCOL = 1
MAX_FRAME = 256 * 1024
FRAMES_PER_S, BURST = 200.0, 400.0
FRAME_BYTES = 4096  # a longer frame counts as several: what costs us time is the bytes
OUTSTANDING = 1024 * 1024  # bytes of session changes that a sandbox may leave unread


class HarnessFailed(Exception):
    """The harness said `failed`, or the connection ended while an answer was due. `traceback` is the app's."""

    def __init__(self, error: str, traceback: str = "") -> None:
        super().__init__(error)
        self.traceback = traceback


class TooSlow(HarnessFailed):
    """An answer took longer than one interaction may."""


class Breach(Exception):
    """What came is not the control protocol. `str()` is for the operator."""


class Hello(Struct, frozen=True, tag="hello"):
    protocol: int
    generation: int
    stage: str
    version: str = ""
    htag: str = ""
    python: str = ""


class Ready(Struct, frozen=True, tag="ready"):
    stage: str
    took_ms: dict[str, float] = msgspec.field(default_factory=dict)


class Failed(Struct, frozen=True, tag="failed"):
    stage: str
    error: str
    traceback: str = ""


class SessionChange(Struct, frozen=True, tag="session"):
    seq: int
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    delete: list[str] = msgspec.field(name="del", default_factory=list)


class Output(Struct, frozen=True, tag="output"):
    text: str
    dropped: int = 0


class Busy(Struct, frozen=True, tag="busy"):
    label: str
    up_to_s: float


class Pong(Struct, frozen=True, tag="ping"):
    n: int


class TimedOut(Struct, frozen=True, tag="timeout"):
    pass


class Exit(Struct, frozen=True, tag="exit"):
    reason: str = ""


Message = Hello | Ready | Failed | SessionChange | Output | Busy | Pong | TimedOut | Exit
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class _Typed(msgspec.Struct):
    type: str


class Listener(Protocol):
    """What the control plane does with what a harness says by itself."""

    def output(self, sandbox: SandboxId, text: str, dropped: int) -> None: ...
    def exits(self, sandbox: SandboxId, reason: str) -> None: ...
    def busy(self, sandbox: SandboxId, label: str, up_to_s: float) -> None: ...
    def overran(self, sandbox: SandboxId) -> None:
        """An interaction takes longer than it may."""
        ...

    async def session_changed(
        self, sandbox: SandboxId, changed: Mapping[str, Any], deleted: Sequence[str]
    ) -> str | None:
        """Store it; the error text if it was refused."""
        ...

    def link_lost(self, sandbox: SandboxId, breach: str) -> None:
        """The connection has ended; `breach` says what the sandbox did against the protocol, if that is why."""
        ...


class HarnessLink:
    """An open control connection. Made by `connect`; ends when either side closes, or on a breach of the protocol."""

    def __init__(
        self, sandbox: SandboxId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener: Listener
    ) -> None:
        self._sandbox = sandbox
        self._reader = reader
        self._writer = writer
        self._listener = listener
        self._answers: dict[str, asyncio.Future[Message]] = {}
        self._pings = 0
        self._closed = False
        self.stage = ""  # of the sandbox, as its hello said
        self._task = asyncio.create_task(self._read(), name=f"control {sandbox[:12]}")

    @classmethod
    async def connect(
        cls, sandbox: SandboxId, address: Address, listener: Listener, *, orphan_timeout_s: float, timeout_s: float
    ) -> tuple[HarnessLink, Hello]:
        """Dial and say hello. Raises DialFailed, HarnessFailed or TimeoutError; nothing is left open then."""
        async with asyncio.timeout(timeout_s):
            sock = await dial(address, timeout_s=timeout_s)
            try:
                reader, writer = await asyncio.open_connection(sock=sock, limit=MAX_FRAME)
            except BaseException:
                sock.close()
                raise
            if isinstance(address, TcpAddress):
                writer.write(address.secret.encode())
            link = cls(sandbox, reader, writer, listener)
            try:
                hello = await link._ask(
                    "hello", {"type": "hello", "protocol": PROTOCOL, "orphan_timeout_s": orphan_timeout_s}
                )
            except BaseException:
                link.close()
                raise
        if not isinstance(hello, Hello) or hello.protocol != PROTOCOL:
            link.close()
            raise HarnessFailed("the sandbox image is of another release: docker compose build makes a new one")
        return link, hello

    async def load(self, message: Mapping[str, Any], files: Sequence[tuple[str, bytes]]) -> Ready:
        """Send an app's files and have it imported. The caller sets the deadline. Raises HarnessFailed."""
        listed = [{"path": path, "size": len(data)} for path, data in files]
        future = self._expect("load")
        await self._send({"type": "load", **message, "files": listed})
        for _, data in files:
            self._write(data)
            await self._drain()
        return self._ready(await future)

    async def claim(self, message: Mapping[str, Any]) -> Ready:
        """Give the sandbox its user; returns when the first page was rendered. Raises HarnessFailed."""
        return self._ready(await self._ask("claim", {"type": "claim", **message}))

    async def session(self, changed: Mapping[str, Any], deleted: Sequence[str]) -> None:
        if self._writer.transport.get_write_buffer_size() > OUTSTANDING:
            # Another sandbox of the same user decides how much is sent here, so this must not pile up.
            self._writer.transport.abort()
            raise HarnessFailed("the sandbox does not read what it is told")
        await self._send({"type": "session", "set": dict(changed), "del": list(deleted)})

    async def profile(self, person: Person) -> None:
        """Who its user is now; for an anonymous visitor who has signed in."""
        await self._send({"type": "profile", "profile": msgspec.to_builtins(person)})

    async def ping(self) -> None:
        """Returns once the app's event loop has answered. Raises HarnessFailed when the connection ends."""
        self._pings += 1
        await self._ask(f"ping {self._pings}", {"type": "ping", "n": self._pings})

    async def end(self, reason: str, grace_s: float) -> None:
        await self._send({"type": "end", "reason": reason, "grace_s": grace_s})

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Close at once; a second call does nothing. The listener is not told."""
        if self._closed:
            return
        self._closed = True
        self._task.cancel()
        self._writer.close()
        self._fail(HarnessFailed("the control connection was closed"))

    # -- one frame -----------------------------------------------------------------------------------------------

    def _write(self, payload: bytes) -> None:
        self._writer.write(len(payload).to_bytes(4, "big"))
        self._writer.write(payload)

    async def _send(self, message: Mapping[str, Any]) -> None:
        if self._closed:
            raise HarnessFailed("the control connection was closed")
        self._write(json.dumps(message, separators=(",", ":")).encode())
        await self._drain()

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise HarnessFailed("the control connection broke") from error

    def _expect(self, what: str) -> asyncio.Future[Message]:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[what] = future
        future.add_done_callback(lambda _: self._answers.pop(what, None))
        return future

    async def _ask(self, what: str, message: Mapping[str, Any]) -> Message:
        future = self._expect(what)
        try:
            await self._send(message)
            return await future
        finally:
            future.cancel()

    @staticmethod
    def _ready(answer: Message) -> Ready:
        if isinstance(answer, Failed):
            raise HarnessFailed(answer.error, answer.traceback)
        assert isinstance(answer, Ready)
        return answer

    def _answer(self, what: str, message: Message) -> None:
        future = self._answers.get(what)
        if future is not None and not future.done():
            future.set_result(message)

    def _fail(self, error: HarnessFailed) -> None:
        for future in list(self._answers.values()):
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody may be waiting any more: that is no error to log

    # -- the reading side ----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        breach = ""
        try:
            await self._take_frames()
        except Breach as error:
            breach = str(error)
            log.warning("control protocol broken", extra={"sandbox": self._sandbox, "why": breach})
        except (asyncio.IncompleteReadError, ConnectionError, HarnessFailed):
            pass
        except Exception:
            log.exception("control connection failed", extra={"sandbox": self._sandbox})
        if not self._closed:
            self._closed = True
            self._writer.close()
            self._fail(HarnessFailed(breach or "the sandbox ended before it answered"))
            self._listener.link_lost(self._sandbox, breach)

    async def _take_frames(self) -> None:
        loop = asyncio.get_running_loop()
        tokens, then = BURST, loop.time()
        while True:
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            if size > MAX_FRAME:
                raise Breach(f"the sandbox sent a control frame of {size} bytes")
            payload = await self._reader.readexactly(size)
            now = loop.time()
            tokens, then = min(BURST, tokens + (now - then) * FRAMES_PER_S) - max(1.0, size / FRAME_BYTES), now
            if tokens < 0:  # not reading is the whole punishment: the sandbox waits, nobody else does
                await asyncio.sleep(-tokens / FRAMES_PER_S)
            message = _understood(payload)
            if message is not None:
                await self._dispatch(message)

    async def _dispatch(self, message: Message) -> None:
        match message:
            case Hello():
                self.stage = message.stage
                self._answer("hello", message)
            case Ready() | Failed():
                self._answer(message.stage, message)
            case Pong():
                self._answer(f"ping {message.n}", message)
            case Output():
                self._listener.output(self._sandbox, message.text, message.dropped)
            case Exit():
                self._listener.exits(self._sandbox, message.reason[:200])
            case SessionChange():
                error = await self._listener.session_changed(self._sandbox, message.set, message.delete)
                await self._send({"type": "session.ack", "seq": message.seq, "error": error})
            case Busy():
                self._listener.busy(self._sandbox, message.label, message.up_to_s)
            case TimedOut():
                claim = self._answers.get("claim")
                if claim is None:
                    self._listener.overran(self._sandbox)
                elif not claim.done():
                    claim.set_exception(TooSlow("the first page took longer than an interaction may"))


def _understood(payload: bytes) -> Message | None:
    """None for what only a newer harness says. Raises Breach."""
    try:
        try:
            return _decoder.decode(payload)
        except msgspec.ValidationError:
            if msgspec.json.decode(payload, type=_Typed).type in _KNOWN:
                raise
            return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Breach(f"the sandbox sent a control frame that can't be read: {str(error)[:200]}") from error


_KNOWN = {"hello", "ready", "failed", "session", "output", "busy", "ping", "timeout", "exit"}
