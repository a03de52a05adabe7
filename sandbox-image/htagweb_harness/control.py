"""The control connection, in a thread of its own: it outlives handlers that block the app's event loop.

Nothing here may print (see output.py), wait for the app, or raise into the thread's end: when this thread stops, so
does the sandbox.
"""

from __future__ import annotations

import math
import os
import selectors
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from .frames import BadFrame, Inbox, decode, encode
from .listening import introduced
from .output import Output
from .parent import OUT_OF_MEMORY, let_go

FIRST_HELLO_S = 60.0  # an orchestrator that is alive says hello within milliseconds
OUTPUT_EVERY_S = 0.05  # 20 output frames a second: far below what the orchestrator allows in all
LAST_WORDS_S = 0.5
OUTBOX_BYTES = 2 * 1024 * 1024  # an orchestrator that stops reading costs no more memory than that

# The app may replace os._exit (and the harness does, to say something before the end).
_exit = os._exit


class Peer(Protocol):
    """Who the thread talks to inside the sandbox. Called in the control thread: must not wait."""

    def hello(self) -> dict[str, Any]:
        """The answer to a hello."""
        ...

    def connected(self) -> None:
        """A hello was answered: what an earlier connection did not take may be sent again."""
        ...

    def file(self, data: bytes) -> None:
        """The next file of the load under way."""
        ...

    def received(self, message: dict[str, Any]) -> int:
        """Anything but hello. Returns how many files follow."""
        ...

    def look(self, now: float) -> float:
        """The time has come that `look_by` named. Returns when to look again."""
        ...


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.inbox = Inbox()
        self.outbox = bytearray()
        self.greeted = False


class Control:
    """Owns the listening socket, the one connection, and the output. The public names may be used by any thread."""

    def __init__(self, listener: socket.socket, output: Output, peer: Peer, secret: str = "") -> None:
        """With a secret, it is the first that a connection has to bring."""
        listener.setblocking(False)
        self._listener = listener
        self._secret = secret
        self._output = output
        self._peer = peer
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._lock = threading.Lock()  # of these two, and of _look_at
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._connection: _Connection | None = None
        self._orphan_timeout_s = FIRST_HELLO_S
        self._alone_since = time.monotonic()
        self._output_at = 0.0
        self._look_at = math.inf
        self._end_at: float | None = None
        self._exit_code: int | None = None
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def greeted(self) -> bool:
        """Whether an orchestrator is there."""
        connection = self._connection
        return connection is not None and connection.greeted

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a frame; without a connection it is lost, and so it is when 2 MiB already wait. Raises BadFrame."""
        frame = encode(message)
        with self._lock:
            if self._queued_bytes + len(frame) > OUTBOX_BYTES:
                return
            self._queued_bytes += len(frame)
            self._queue.append(frame)
        self._wake()

    def look_by(self, at: float) -> None:
        """Have `Peer.look` called at that monotonic time, or earlier."""
        with self._lock:
            sooner = at < self._look_at
            if sooner:
                self._look_at = at
        if sooner:
            self._wake()

    def note(self, text: str) -> None:
        """Put a text among the app's output. In the control thread only."""
        self._output.add(text.encode("utf-8", "replace"))

    def end_by(self, at: float) -> None:
        """End the process at that monotonic time, whatever the app does."""
        self._end_at = at
        self._wake()

    def leave(self, code: int = 0) -> None:
        """End the process once output and queued frames are sent, or half a second has passed. Doesn't return."""
        if threading.current_thread() is self._thread:
            self._last_words()
            _exit(code)
        self._exit_code = code
        self._wake()
        self._thread.join(2 * LAST_WORDS_S)
        _exit(code)

    def _wake(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except OSError:
            pass  # full: the thread will wake anyhow

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        for source in (self._listener, self._wake_in, self._output):
            self._selector.register(source, selectors.EVENT_READ)
        while True:
            try:
                self._turn()
            except MemoryError:
                if let_go():
                    _exit(OUT_OF_MEMORY)
                self._drop()
            except Exception:
                self._output.add(traceback.format_exc().encode())
                self._drop()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._wait_s()):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake_in:
                self._wake_in.recv(4096)
            elif key.fileobj is self._output:
                self._output.read()
            elif self._connection is not None and key.fileobj is self._connection.sock:
                self._read(self._connection)
        now = time.monotonic()
        if now >= self._look_at:
            with self._lock:
                self._look_at = math.inf
            at = self._peer.look(now)
            with self._lock:
                self._look_at = min(self._look_at, at)
        if self._connection is not None:
            self._write(self._connection, now)
        if self._exit_code is not None:
            self._last_words()
            _exit(self._exit_code)
        if self._end_at is not None and now >= self._end_at:
            self.leave()
        if not self.greeted and now - self._alone_since >= self._orphan_timeout_s:
            _exit(0)

    def _wait_s(self) -> float:
        now = time.monotonic()
        wait_s = 3600.0
        if self.greeted:
            if self._output:
                wait_s = self._output_at + OUTPUT_EVERY_S - now
        else:
            wait_s = self._alone_since + self._orphan_timeout_s - now
        if self._end_at is not None:
            wait_s = min(wait_s, self._end_at - now)
        wait_s = min(wait_s, self._look_at - now)
        return max(0.0, wait_s)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if self._secret and not introduced(sock, self._secret):
            sock.close()
            return
        self._drop()  # the newest wins: the older orchestrator is gone, or about to be
        self._connection = _Connection(sock)
        self._selector.register(sock, selectors.EVENT_READ)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._selector.unregister(connection.sock)
        connection.sock.close()
        if connection.greeted:
            self._alone_since = time.monotonic()
        self._clear_queue()

    def _clear_queue(self) -> None:
        with self._lock:
            self._queue.clear()
            self._queued_bytes = 0

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(256 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop()
            return
        try:
            for payload in connection.inbox.feed(data):
                if connection.inbox.binary:
                    connection.inbox.binary -= 1
                    self._peer.file(payload)
                else:
                    self._dispatch(connection, decode(payload))
        except BadFrame as error:
            self._output.add(f"control: {error}\n".encode())
            self._drop()

    def _dispatch(self, connection: _Connection, message: dict[str, Any]) -> None:
        if message["type"] != "hello":
            connection.inbox.binary = self._peer.received(message)
            return
        self._clear_queue()  # what was meant for nobody, or for the orchestrator before
        self._orphan_timeout_s = float(message.get("orphan_timeout_s", self._orphan_timeout_s))
        connection.outbox += encode(self._peer.hello())
        connection.greeted = True
        self._peer.connected()

    def _write(self, connection: _Connection, now: float) -> None:
        if not connection.greeted:
            return
        while self._queue and len(connection.outbox) < 64 * 1024:
            self._take_queued(connection)
        # Only into an empty outbox: the ring, not this buffer, decides what a slow reader misses.
        if self._output and not connection.outbox and now >= self._output_at + OUTPUT_EVERY_S:
            self._output_at = now
            text, dropped = self._output.take()
            connection.outbox += encode({"type": "output", "text": text, "dropped": dropped})
        try:
            while connection.outbox:
                del connection.outbox[: connection.sock.send(connection.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop()
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outbox or self._queue else 0)
        if self._selector.get_key(connection.sock).events != wanted:
            self._selector.modify(connection.sock, wanted)

    def _take_queued(self, connection: _Connection) -> None:
        with self._lock:
            frame = self._queue.popleft()
            self._queued_bytes -= len(frame)
        connection.outbox += frame

    def _last_words(self) -> None:
        """Send all that is left: the operator learns why only from this."""
        self._output.read()
        connection = self._connection
        if connection is None or not connection.greeted:
            return
        while self._queue:
            self._take_queued(connection)
        while self._output:
            text, dropped = self._output.take()
            connection.outbox += encode({"type": "output", "text": text, "dropped": dropped})
        try:
            connection.sock.settimeout(LAST_WORDS_S)
            connection.sock.sendall(connection.outbox)
        except OSError:
            pass
