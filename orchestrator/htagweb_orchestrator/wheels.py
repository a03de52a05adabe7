"""The operator's folder of wheels. Wheels are read here for the names of what they need, and for nothing else."""

from __future__ import annotations

import email.parser
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

log = logging.getLogger(__name__)

MAX_METADATA = 4 * 1024 * 1024


class Wheels:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def state(self) -> int:
        """Another number when there are other files. Blocks; 0 without a folder."""
        try:
            with os.scandir(self._folder) as entries:
                return hash(frozenset((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in entries))
        except OSError:
            return 0

    def of(self, requirements: Iterable[str]) -> tuple[Path, ...]:
        """All versions of what is required, and of all that may need in turn. Blocks."""
        there: dict[str, list[Path]] = {}  # by name in one form
        for path in sorted(self._folder.glob("*.whl")) if self._folder.is_dir() else ():
            try:
                there.setdefault(parse_wheel_filename(path.name)[0], []).append(path)
            except InvalidWheelFilename:
                log.warning("no wheel has such a name: %s", path.name)
        names: list[str] = [canonicalize_name(Requirement(line.partition(" --hash=")[0]).name) for line in requirements]
        seen: set[str] = set()
        while names:
            name = names.pop()
            if name not in seen:
                seen.add(name)
                names += [needed for path in there.get(name, ()) for needed in _needed(path)]
        return tuple(path for name in sorted(seen) for path in there.get(name, ()))


def _needed(wheel: Path) -> Iterator[str]:
    """Whatever the markers say: one too many costs a copy."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = next(each for each in archive.infolist() if each.filename.endswith(".dist-info/METADATA"))
            if inside.file_size > MAX_METADATA:
                return
            metadata = email.parser.BytesHeaderParser().parsebytes(archive.read(inside))
    except (OSError, zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError):
        log.warning("not a wheel: %s", wheel.name)
        return
    for line in metadata.get_all("Requires-Dist", []):
        try:
            yield canonicalize_name(Requirement(line).name)
        except InvalidRequirement:
            continue
