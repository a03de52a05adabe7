"""What apps wrote to stdout and stderr: one bounded file a sandbox, kept for a while after its end."""

from __future__ import annotations

import logging
from pathlib import Path

from .model import SandboxId

log = logging.getLogger(__name__)

FILE_SIZE = 256 * 1024
KEPT = 500  # files


class OutputFiles:
    """`add` is called on the event loop: appends to the page cache, bounded by the control protocol's rate.

    It never fails: what an app said is lost when the disk is full, and the sandbox's start or end goes on.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sizes: dict[SandboxId, int] = {}

    def add(self, sandbox: SandboxId, text: str, dropped: int = 0) -> None:
        if dropped:
            text = f"[{dropped} bytes left out]\n{text}"
        try:
            self._append(sandbox, text.encode(errors="replace"))
        except OSError as error:
            log.warning("output not kept: %s", error, extra={"sandbox": sandbox})

    def _append(self, sandbox: SandboxId, data: bytes) -> None:
        path = self._path(sandbox)
        if sandbox not in self._sizes:  # it may be an earlier orchestrator's
            self._sizes[sandbox] = path.stat().st_size if path.exists() else 0
        size = self._sizes[sandbox] + len(data)
        if size > FILE_SIZE:  # keep the newer half: what an app said last is what explains its end
            kept = (path.read_bytes() if path.exists() else b"") + data
            data = kept[-FILE_SIZE // 2 :]
            path.write_bytes(data)
            size = len(data)
        else:
            with path.open("ab") as file:
                file.write(data)
        self._sizes[sandbox] = size

    def read(self, sandbox: SandboxId) -> str | None:
        try:
            return self._path(sandbox).read_text(errors="replace")
        except OSError:
            return None

    def matching(self, prefix: str) -> list[SandboxId]:
        """Sandboxes whose id begins with `prefix` and of which something is kept. `prefix` is hex digits."""
        return [SandboxId(path.stem) for path in self._directory.glob(f"{prefix}*.log")]

    def prune(self) -> None:
        files = sorted(self._directory.glob("*.log"), key=lambda path: path.stat().st_mtime)
        for path in files[:-KEPT]:
            path.unlink(missing_ok=True)
            self._sizes.pop(SandboxId(path.stem), None)

    def _path(self, sandbox: SandboxId) -> Path:
        return self._directory / f"{sandbox}.log"
