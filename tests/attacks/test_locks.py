"""Known flaws of what we build on stay out of the locks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The first release without: Host in the path of URLs (CVE-2026-48710), Range (CVE-2025-62727), a lenient chunk parser
# (CVE-2025-43859).
FIRST_GOOD = {"starlette": (1, 0, 1), "h11": (0, 16, 0)}


def locked(lock: str) -> dict[str, tuple[int, ...]]:
    found = re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / lock).read_text(), re.MULTILINE)
    return {name: tuple(map(int, version.strip(".").split("."))) for name, version in found}


@pytest.mark.parametrize("lock", ["gateway/requirements.txt", "orchestrator/requirements.txt"])
def test_the_platform_locks_nothing_with_a_known_flaw(lock: str) -> None:
    versions = locked(lock)
    assert "starlette" in versions
    for name, first in FIRST_GOOD.items():
        assert versions.get(name, first) >= first, name


def test_only_the_sandbox_has_the_starlette_that_htag_2_needs() -> None:
    """Its flaw in Host is the app's own business there: the gateway sends it one well-formed Host."""
    assert locked("sandbox-image/requirements.txt")["starlette"] < (1, 0)


def test_the_proxied_path_has_no_lenient_parser() -> None:
    """httptools in front and in the sandbox; aiohttp and a Python parser nowhere."""
    for lock in ("gateway/requirements.txt", "sandbox-image/requirements.txt"):
        assert "httptools" in locked(lock)
        assert "aiohttp" not in locked(lock)
