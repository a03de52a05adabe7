"""What only the kernel knows of a visitor's connection."""

from __future__ import annotations

import asyncio
import socket

TCP_ESTABLISHED = 1  # linux/tcp_states.h


def has_left(transport: asyncio.Transport) -> bool:
    """Whether he has closed or reset it, read or not."""
    if transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    try:
        state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except (OSError, AttributeError):  # no TCP, or not on this system
        return False
    return state != TCP_ESTABLISHED


def watch_for_stalls(transport: asyncio.Transport, seconds: int) -> None:
    """Have the kernel end a connection whose visitor takes nothing, or has vanished without a word.

    It sees what no timer up here does: the end of a connection that waits for its last bytes to be taken.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_USER_TIMEOUT", seconds * 1000),
        ("TCP_KEEPIDLE", seconds),
        ("TCP_KEEPINTVL", max(1, seconds // 4)),
        ("TCP_KEEPCNT", 4),
    ):
        if hasattr(socket, option):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
