"""What is shipped beside the code agrees with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from htagweb_orchestrator.keys import KEYS, PLUMBING

ROOT = Path(__file__).parent.parent
LOCKS = [*sorted(ROOT.glob("*/requirements*.txt")), ROOT / "requirements-dev.txt"]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.read_text().startswith("#!/bin/sh"))


def test_compose_passes_every_setting_on_and_no_unknown_one() -> None:
    passed = set(re.findall(r"^ +(HTAGWEB_\w+):", (ROOT / "compose.yaml").read_text(), re.MULTILINE))
    settings = {key.env for key in KEYS.values()}
    plumbing = {key.env for key in PLUMBING.values()}
    assert settings <= passed <= settings | plumbing | {"HTAGWEB_METRICS_PORT"}  # the gateway's


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_lock_pins_every_package_by_hash_and_names_no_host(lock: Path) -> None:
    text = lock.read_text().replace("\\\n", "")
    assert "://" not in text
    for line in text.splitlines():
        assert re.match(r"[\w.-]+==\S+.* --hash=sha256:", line), line


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_script_is_executable_and_parses(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    shell = shutil.which("sh")
    assert shell
    assert subprocess.run([shell, "-n", script], check=False).returncode == 0


def test_no_htag_is_in_the_development_lock() -> None:
    """Each generation has a lock of its own; one beside our code would hide what a sandbox lacks."""
    assert not re.search(r"^htag==", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
