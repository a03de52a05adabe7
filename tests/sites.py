"""The site directories of a sandbox, built on the host from the image's own locks.

`.run/site`, `.run/site-gen1`, `.run/site-gen2`: the layout is the image's /opt/htagweb. Built once; a changed lock or
another Python builds them anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
LOCKS = {
    "site": "requirements.txt",
    "site-gen1": "requirements-gen1.txt",
    "site-gen2": "requirements-gen2.txt",
}
INSTALL_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Sites:
    root: Path

    def path(self, generation: int) -> list[Path]:
        """What a sandbox of that generation has on `sys.path`."""
        return [self.root / f"site-gen{generation}"] * (generation > 0) + [self.root / "site"]


def build() -> Sites:
    root = REPOSITORY / ".run"
    root.mkdir(exist_ok=True)
    with (root / "sites.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once build them once
        for site, requirements in LOCKS.items():
            _install(root / site, REPOSITORY / "sandbox-image" / requirements)
    return Sites(root)


def _install(site: Path, lock: Path) -> None:
    built_from = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    stamp = site / ".built-from"
    if stamp.exists() and stamp.read_text() == built_from:
        return
    shutil.rmtree(site, ignore_errors=True)
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--python", sys.executable, "--find-links", str(REPOSITORY / "wheelhouse")]
    command += ["--target", str(site), "-r", str(lock)]
    subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S)
    stamp.write_text(built_from)
