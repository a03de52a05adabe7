"""Durations and sizes as people write them: `90s`, `15m`, `256m`. A plain number is seconds, or bytes."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def duration_s(text: str) -> float:
    """`"15m"` is 900.0. Raises ValueError."""
    return float(_scaled(text, _SECONDS))


def size_bytes(text: str) -> int:
    """`"64k"` is 65536: a kilobyte has 1024 bytes, as in Docker's options. Raises ValueError, also for more than any
    kernel counts to."""
    size = _scaled(text, _BYTES)
    if size >= 2**63:
        raise ValueError(text)
    return int(size)


def show_duration(seconds: float) -> str:
    """The two largest units that matter: `15m`, `12h`, `1h 5m`, `8s`."""
    parts: list[str] = []
    left = round(seconds)
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _SECONDS[unit])
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def show_size(size: int) -> str:
    """`256m`, `64k`, `45.3m`."""
    for unit in ("g", "m", "k"):
        if size >= _BYTES[unit]:
            return f"{size / _BYTES[unit]:.1f}".removesuffix(".0") + unit
    return f"{size}b"


def _scaled(text: str, units: dict[str, int]) -> float:
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None or match[2] not in units:
        raise ValueError(text)
    return float(match[1]) * units[match[2]]
