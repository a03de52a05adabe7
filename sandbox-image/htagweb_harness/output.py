"""What the app writes to stdout and stderr: caught in a pipe, kept in a bounded ring until it can be sent.

The control thread reads the pipe, so an app that floods it, or blocks its own event loop, never waits for long and
never blocks itself. This module must not print: its caller is the only reader of the pipe.
"""

from __future__ import annotations

import codecs
import os
import socket
import sys
import threading

try:
    import fcntl
except ImportError:  # Windows, where only sockets can be waited for
    fcntl = None  # type: ignore[assignment]

RING_BYTES = 64 * 1024
CHUNK_BYTES = 32 * 1024  # of one frame: JSON escapes may make six bytes of one, and a frame is limited to 256 KiB
PIPE_BYTES = 256 * 1024  # more than Linux' 64 KiB, so that a flooding app rarely waits for its reader


class Output:
    """Written to by the whole process, read by the control thread alone."""

    def __init__(self) -> None:
        reader, self._writer = os.pipe()
        self._reader = reader if fcntl is not None else _pumped(reader)
        if fcntl is not None:
            os.set_blocking(reader, False)
            try:
                fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            except (OSError, AttributeError):
                pass  # the user's pipe quota is used up, or this isn't Linux; it works with less
        self._ring = bytearray()
        self._dropped = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def fileno(self) -> int:
        return self._reader if isinstance(self._reader, int) else self._reader.fileno()

    def capture(self) -> int:
        """Send stdout and stderr here from now on. Returns a descriptor of what stderr was, for the caller to close."""
        before = os.dup(2)
        os.dup2(self._writer, 1)
        os.dup2(self._writer, 2)
        os.close(self._writer)
        # Line by line: what an app printed before it was killed is what its operator needs most.
        for fd, name in ((1, "stdout"), (2, "stderr")):
            stream = open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        return before

    def read(self, at_most: int = 1024 * 1024) -> None:
        """Move what lies in the pipe into the ring, without waiting."""
        while at_most > 0:
            try:
                data = os.read(self._reader, 65536) if isinstance(self._reader, int) else self._reader.recv(65536)
            except BlockingIOError:
                return
            if not data:
                return
            at_most -= len(data)
            self.add(data)

    def add(self, data: bytes) -> None:
        self._ring += data
        excess = len(self._ring) - RING_BYTES
        if excess > 0:
            del self._ring[:excess]
            self._dropped += excess

    def __bool__(self) -> bool:
        return bool(self._ring)

    def take(self) -> tuple[str, int]:
        """The oldest text that is kept, at most a frame's worth, and how many bytes before it were left out."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._decoder.reset()
        chunk = bytes(self._ring[:CHUNK_BYTES])
        del self._ring[: len(chunk)]
        return self._decoder.decode(chunk), dropped


def _pumped(pipe: int) -> socket.socket:
    """The pipe's reader as a socket."""
    here, there = socket.socketpair()
    here.setblocking(False)

    def pump() -> None:
        while data := os.read(pipe, 65536):
            there.sendall(data)

    threading.Thread(target=pump, name="output", daemon=True).start()
    return here
