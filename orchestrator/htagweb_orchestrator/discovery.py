"""Finds apps in a folder: NAME.py, or NAME/app.py with what lies beside it. Runs nothing of them."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .kinds import DNS_LABEL
from .quantities import show_size

MAX_FILES = 2000  # with its folders; a sandbox's /app has 4096 inodes
MAX_FILE_BYTES = 16 * 1024 * 1024  # one frame of the control protocol
# A module of such a name would hide behind one that the sandbox has imported already.
TAKEN = frozenset({*sys.stdlib_module_names, "htag", "htagweb", "htagweb_harness", "starlette", "uvicorn"})


class Unreadable(Exception):
    """`str()` is a sentence for the operator, with the file's name."""


class Changed(Exception):
    """A file was written to while it was read: try again later."""


@dataclass(frozen=True, slots=True)
class FileState:
    """Enough to see that a file has been written to since."""

    path: str  # relative to the folder, as the sandbox will have it
    source: str  # where it lies
    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Found:
    """An app, or what should be one: then `problem` says what is wrong, in a sentence."""

    name: str
    main: str = ""  # the module to begin with, among `files`
    shown: str = ""  # what the operator knows `main` as: "counter.py", "shop/app.py"
    files: tuple[FileState, ...] = ()
    problem: str = ""
    icon: FileState | None = None
    icon_problem: str = ""  # the app is none the worse for it

    def show(self, path: str) -> str:
        return self.shown if path == self.main else f"{self.name}/{path}"


def find(folder: Path, max_bytes: Callable[[str], int], icon: Callable[[str], str] = lambda name: "") -> list[Found]:
    """All apps in `folder`, by name. `max_bytes` tells an app's limit, `icon` the path of a picture that the operator
    chose, below `folder`. Raises OSError if there is no such folder."""
    found: dict[str, Found] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith((".", "_")))
    for entry in names:
        app = _found(folder, entry, max_bytes)
        if app is None:
            continue
        if app.name in found:
            both = f"both {app.name}.py and {app.name}/app.py are there: remove one"
            app = Found(app.name, problem=both)
        found[app.name] = _with_icon(app, folder, names, icon(app.name))
    return [found[name] for name in sorted(found)]


def read(app: Found) -> dict[str, bytes]:
    """The files' bytes. Raises Unreadable; Changed if they aren't what `find` saw any more."""
    return {file.path: _read(app, file) for file in app.files}


def read_file(app: Found, file: FileState) -> bytes:
    """One file's bytes; raises as `read` does."""
    return _read(app, file)


def suggestion(name: str) -> str:
    """The nearest name that an app may have."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-") or "app"


def _found(folder: Path, entry: str, max_bytes: Callable[[str], int]) -> Found | None:
    path, name, is_file = folder / entry, entry.removesuffix(".py"), entry.endswith(".py")
    if not is_file and not os.path.isfile(path / "app.py"):
        return None  # some other file, or a folder of something else
    if not DNS_LABEL.fullmatch(name):
        printable = name.encode("utf-8", "replace").decode()
        better = suggestion(name) + (".py" if is_file else "")
        return Found(printable, problem=f"{printable} can't be part of an address: rename it to {better}")
    try:
        if not is_file:
            files = tuple(_walk(_inside(path, folder, entry), name))
            return _sized(Found(name, "app.py", f"{name}/app.py", files), max_bytes(name))
        module = name if name.isidentifier() and name not in TAKEN else "app"
        state = _state(_inside(path, folder, entry), f"{module}.py", entry)
        return _sized(Found(name, f"{module}.py", entry, (state,)), max_bytes(name))
    except Unreadable as error:
        return Found(name, problem=str(error))
    except OSError as error:
        return Found(name, problem=f"{entry} can't be read: {error.strerror}")


def _walk(folder: Path, name: str) -> Iterator[FileState]:
    waiting, count = [""], 0
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if _left_out(entry.name):
                    continue
                path = f"{below}{entry.name}"
                count += 1
                if count > MAX_FILES:
                    raise Unreadable(
                        f"{name} holds more than {MAX_FILES} files: data belongs into an image or elsewhere"
                    )
                if not path.isprintable():
                    raise Unreadable(f"{name} holds a file with a name that can't be printed: {path!a}")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{path}/")
                else:
                    yield _state(_inside(folder / path, folder, f"{name}/{path}"), path, f"{name}/{path}")


def _inside(path: Path, folder: Path, shown: str, *, deep: bool = False) -> Path:
    """Where `path` leads to: itself, or within `folder` the target of a link. `deep`: a link may stand before its last
    part; looking for that takes many times as long, and this is done for every file every second."""
    if not deep and not os.path.islink(path):
        return path
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(os.path.realpath(folder)):
        raise Unreadable(f"{shown} is a link to a place outside its folder: put a copy there")
    return target


def _state(source: Path, path: str, shown: str) -> FileState:
    try:
        found = os.stat(source, follow_symlinks=False)  # links were followed before
    except FileNotFoundError:
        raise Unreadable(f"{shown} is a link to nothing") from None
    if stat.S_ISDIR(found.st_mode):
        raise Unreadable(f"{shown} leads to a folder, not to a file: put a copy there")
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable(f"{shown} is no ordinary file")
    if found.st_size > MAX_FILE_BYTES:
        raise Unreadable(f"{shown} has {show_size(found.st_size)}, more than {show_size(MAX_FILE_BYTES)} in one file")
    return FileState(path, str(source), *_facts(found))


def _facts(found: os.stat_result) -> tuple[int, int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _with_icon(app: Found, folder: Path, names: Sequence[str], wanted: str) -> Found:
    """The picture: the one that was chosen, NAME.svg or NAME.png beside the app, icon.svg or icon.png in its folder."""
    beside = [name for name in (f"{app.name}.svg", f"{app.name}.png") if name in names]
    path = wanted or next(iter(beside), "")
    try:
        if path:
            return replace(app, icon=_state(_inside(folder / path, folder, path, deep=True), path, path))
    except Unreadable as error:
        return replace(app, icon_problem=f"its icon is left out: {error}")
    except OSError as error:
        return replace(app, icon_problem=f"its icon is left out: {path} can't be read: {error.strerror}")
    if app.main == "app.py":
        return replace(app, icon=next((file for file in app.files if file.path in ("icon.svg", "icon.png")), None))
    return app


def _sized(app: Found, limit: int) -> Found:
    total = sum(file.size for file in app.files)
    if total <= limit:
        return app
    # The files stay: when they change, it is looked at again.
    text = f"{app.name} has {show_size(total)} of files, more than {show_size(limit)} (the key app_size)"
    return Found(app.name, app.main, app.shown, app.files, text)


def _read(app: Found, file: FileState) -> bytes:
    try:
        # Non-blocking, for the case that it became a pipe since `find` looked.
        with open(os.open(file.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as opened:
            before = _facts(os.fstat(opened.fileno()))
            content = opened.read(file.size + 1)
            after = _facts(os.fstat(opened.fileno()))
    except FileNotFoundError as error:
        raise Changed(file.source) from error
    except OSError as error:
        raise Unreadable(f"{app.show(file.path)} can't be read: {error.strerror}") from error
    if not before == after == (file.device, file.inode, file.size, file.modified_ns, file.changed_ns):
        raise Changed(file.source)
    if len(content) != file.size:
        raise Changed(file.source)
    return content


def _left_out(name: str) -> bool:
    return name.startswith(".") or name.endswith("~") or name == "__pycache__"
