"""Files into and out of containers, as tar streams. What comes out was written by others, so it is made anew."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PIECE = 256 * 1024
MAX_ENTRIES = 100_000
END = bytes(2 * tarfile.BLOCKSIZE)


class BadArchive(Exception):
    """It holds something that no installation of packages leaves behind."""


class Counted:
    """How many bytes of files went through."""

    bytes = 0


def packed(folders: Iterable[str], files: Mapping[str, bytes | Path], *, uid: int) -> Iterator[bytes]:
    """A stream with these, which only `uid` may read and write."""
    for name in folders:
        yield _head(name, tarfile.DIRTYPE, 0, 0o700, uid)
    for name, content in files.items():
        if isinstance(content, bytes):
            yield _head(name, tarfile.REGTYPE, len(content), 0o600, uid)
            yield from _body(io.BytesIO(content), len(content))
        else:
            with open(content, "rb") as file:
                size = file.seek(0, io.SEEK_END)
                file.seek(0)
                yield _head(name, tarfile.REGTYPE, size, 0o600, uid)
                yield from _body(file, size)
    yield END


def cleaned(stream: Iterable[bytes], *, most_bytes: int, counted: Counted) -> Iterator[bytes]:
    """The same files and folders without their first folder, all of root's, for all to read and for nobody to write.

    Raises BadArchive for links, devices, names that lead elsewhere, or more than `most_bytes`.
    """
    entries = 0
    with tarfile.open(fileobj=_Stream(stream), mode="r|") as source:
        for member in source:
            entries += 1
            counted.bytes += member.size
            if entries > MAX_ENTRIES or counted.bytes > most_bytes:
                raise BadArchive("more files than an app's image may have")
            _, _, name = member.name.partition("/")
            if not name:
                continue
            if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
                raise BadArchive(f"a file with the name {name[:100]!a}")
            if member.isdir():
                yield _head(name, tarfile.DIRTYPE, 0, 0o755, 0)
            elif member.isreg():
                yield _head(name, tarfile.REGTYPE, member.size, 0o755 if member.mode & 0o100 else 0o644, 0)
                content = source.extractfile(member)
                assert content is not None
                yield from _body(content, member.size)
            else:
                raise BadArchive(f"{name[:100]!a} is neither a file nor a folder")
    yield END


def one_file(stream: Iterable[bytes], *, most_bytes: int) -> bytes:
    """The bytes of an archive's only file. Raises BadArchive."""
    with tarfile.open(fileobj=_Stream(stream), mode="r|") as source:
        for member in source:
            content = source.extractfile(member) if member.isreg() and member.size <= most_bytes else None
            if content is None:
                break
            return content.read()
    raise BadArchive("no file, or too large a one")


def _head(name: str, kind: bytes, size: int, mode: int, owner: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.uid, info.gid = kind, size, mode, owner, owner
    return info.tobuf(tarfile.PAX_FORMAT)


def _body(file: object, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece: bytes = file.read(min(left, PIECE))  # type: ignore[attr-defined]
        if not piece:
            raise BadArchive("a file that became shorter while it was read")
        left -= len(piece)
        yield piece
    yield bytes(-size % tarfile.BLOCKSIZE)


class _Stream(io.RawIOBase):
    """Pieces as a file, for tarfile to read on and on."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        held = [self._rest]
        length = len(self._rest)
        while size < 0 or length < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            held.append(piece)
            length += len(piece)
        whole = b"".join(held)
        if size < 0:
            size = len(whole)
        self._rest = whole[size:]
        return whole[:size]
