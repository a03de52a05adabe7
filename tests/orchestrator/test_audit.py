"""The audit log where a disk gets in its way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ON_A_SMALL_DISK = """
import asyncio, sys
from pathlib import Path
from htagweb_orchestrator.audit import Audit, Event

async def main(folder: Path) -> None:
    audit = Audit(folder)
    audit.add(Event.SIGNED_IN, "before")
    await audit.settle()
    with open(folder / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass
    for number in range(100):  # one of them begins on the last page that the file has
        audit.add(Event.SIGNED_IN, "during", n=number, fill="y" * 90)
    await audit.settle()
    (folder / "filler").unlink()
    audit.add(Event.SIGNED_IN, "after")
    await audit.close()
    print((folder / "audit.jsonl").read_text(), end="")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """On a file system of its own, which is really full."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root: mounts a file system of its own")
    mount = 'mount -t tmpfs -o size=768k none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", tmp_path, sys.executable, ON_A_SMALL_DISK],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert (entries[0]["who"], entries[-1]["who"]) == ("before", "after")
    assert len(entries) < 102
    assert "the audit log can't be written" in done.stderr
