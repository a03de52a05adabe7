"""The one function that dials a sandbox, for the gateway and for the orchestrator alike.

A sandbox owns its sockets, so it may replace one by a link to another user's socket, or to the orchestrator's, and a
plain `connect(path)` would follow that. So: open the name itself (O_PATH|O_NOFOLLOW), look at what was opened, connect
to that very inode through /proc/self/fd, and check who answers.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct

from .model import Address, TcpAddress, UnixAddress


class DialFailed(OSError):
    """Nobody is there, or not the one who should be. The text is for logs, not for visitors."""


async def dial(address: Address, *, timeout_s: float) -> socket.socket:
    """Return a connected, non-blocking socket to a sandbox; the caller closes it.

    Raises DialFailed if it isn't there, is no socket, belongs to someone else, or did not accept within `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    if isinstance(address, TcpAddress):
        tcp = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            tcp.setblocking(False)
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(tcp, (address.host, address.port))
        except (OSError, TimeoutError) as error:
            tcp.close()
            raise DialFailed(f"{address.host}:{address.port}: {error or 'timed out'}") from error
        except BaseException:
            tcp.close()
            raise
        return tcp
    return await _dial_unix(address, timeout_s)


async def _dial_unix(address: UnixAddress, timeout_s: float) -> socket.socket:
    try:
        inode = os.open(address.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DialFailed(f"{address.path}: {error.strerror}") from error
    unix = None
    try:
        found = os.fstat(inode)
        if not stat.S_ISSOCK(found.st_mode):
            raise DialFailed(f"{address.path}: not a socket")
        if found.st_uid != address.uid:
            raise DialFailed(f"{address.path}: owned by uid {found.st_uid}, not {address.uid}")
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.setblocking(False)
        await _connect(unix, f"/proc/self/fd/{inode}", timeout_s)
        _, peer, _ = struct.unpack("3i", unix.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if address.peer_uid and peer != address.uid:
            raise DialFailed(f"{address.path}: answered by uid {peer}, not {address.uid}")
        connected, unix = unix, None
        return connected
    except DialFailed:
        raise
    except (OSError, TimeoutError) as error:
        raise DialFailed(f"{address.path}: {error or 'timed out'}") from error
    finally:
        os.close(inode)
        if unix is not None:
            unix.close()


async def _connect(unix: socket.socket, path: str, timeout_s: float) -> None:
    """A Unix connect never waits when non-blocking: a full backlog is EAGAIN at once. So wait here instead."""
    async with asyncio.timeout(timeout_s):
        delay_s = 0.001
        while True:
            try:
                unix.connect(path)
                return
            except BlockingIOError:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, 0.05)
