"""From the files of an app to what serves it: its htag class, or its ASGI application."""

from __future__ import annotations

import binascii
import importlib
import importlib.util
import os
import site
import sys
import traceback
from collections.abc import Sequence
from pathlib import PurePosixPath
from types import ModuleType, TracebackType
from typing import Any

from .frames import MAX_FILE

PACKAGES = "/opt/htagweb/site-app"  # what an app's own image has: not looked at before the app is loaded
MAX_APP = 16 * 1024 * 1024  # bytes of all files: the size of /app
MAX_FILES = 2000
MAX_TRACEBACK = 32 * 1024


class LoadFailed(Exception):
    """The text is one sentence; `traceback` is the app's, if it has to do with it."""

    def __init__(self, error: str, traceback: str = "") -> None:
        super().__init__(error)
        self.traceback = traceback


class Delivery:
    """The files of one `load`, written as they arrive. `error` is the first thing wrong; the rest is then ignored."""

    def __init__(self, app_dir: str, files: object) -> None:
        self.error = ""
        self._app_dir = app_dir
        self._awaited: list[tuple[str, int]] = []
        try:
            self._awaited = [(str(file["path"]), int(file["size"])) for file in files]  # type: ignore[attr-defined]
        except (TypeError, KeyError, ValueError):
            self.error = "the list of files is not one"
        self.count = len(self._awaited)
        total = sum(size for _, size in self._awaited)
        if self.count > MAX_FILES or total > MAX_APP:
            self.error = f"the app has {self.count} files of {total} bytes; at most {MAX_FILES} of {MAX_APP} are taken"
        self._awaited.reverse()

    @property
    def complete(self) -> bool:
        return not self._awaited

    def file(self, data: bytes) -> None:
        path, size = self._awaited.pop()
        if self.error:
            return
        if len(data) != size or size > MAX_FILE:
            self.error = f"{path}: {len(data)} bytes arrived, {size} were announced"
        elif not _is_inside(path):
            self.error = f"{path!r} is no path inside the app's folder"
        else:
            try:
                self._write(path, data)
            except OSError as error:
                self.error = f"{path} could not be written: {error.strerror}"

    def _write(self, path: str, data: bytes) -> None:
        target = os.path.join(self._app_dir, *PurePosixPath(path).parts)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb") as file:
            file.write(data)


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return not any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts)


def put_secrets(directory: str, secrets: dict[str, str]) -> None:
    """Each as a file that only this process's user reads. `secrets` is name -> base64. Raises LoadFailed."""
    for name, content in secrets.items():
        try:
            if "/" in name or not _is_inside(name):
                raise ValueError(name)
            path = os.path.join(directory, name)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
                file.write(binascii.a2b_base64(content))
        except (OSError, ValueError) as error:
            raise LoadFailed(f"the secret {name} could not be put into {directory}: {error}") from error


def prepare(app_dir: str, sites: Sequence[str], env: dict[str, str], *, working_dir: str = "") -> None:
    """Make this process ready to import an app: what `python -I -S` left out, and the app's folder."""
    os.environ.update(env)
    os.chdir(working_dir or app_dir)
    # /app is small, and nobody imports this app a second time. One that is imported where its author works on it must
    # not get what was compiled of it a moment ago: that is compared by whole seconds.
    sys.dont_write_bytecode = True
    # After the standard library, so that an app's calendar.py can't break it; before what every image brings, of which
    # the app may want another version.
    own = [app_dir, *([PACKAGES] if os.path.isdir(PACKAGES) else [])]
    at = sys.path.index(sites[0]) if sites else len(sys.path)
    sys.path[at:at] = own
    site.main()
    for directory in (*own[1:], *sites):
        site.addsitedir(directory)
    importlib.invalidate_caches()


def import_entry(entry: str, app_dir: str, recorded: list[Any]) -> Any:
    """Import `module:Class` and return what serves: usually a class.

    `recorded` is filled, while importing, by the stand-ins of htagweb's and htag's servers; it decides where the entry
    names no class. Raises LoadFailed, whatever the app does.
    """
    module_name, _, name = entry.partition(":")
    try:
        module = _import(module_name, app_dir)
    except SystemExit as ended:
        sentence = f"the app ended itself while it was imported: sys.exit({ended.code!r})"
        raise LoadFailed(sentence, format_trace(ended, app_dir)) from ended
    except BaseException as error:
        raise LoadFailed(one_line(error), format_trace(error, app_dir)) from error
    if name:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None:
            raise LoadFailed(f"{module_name} has no {name}: check the app's entry")
        return found
    found = recorded[-1] if recorded else getattr(module, "App", None)
    if isinstance(found, str):  # WebServer("module:Class"), or "module.Class" in the first releases
        module_name, _, name = found.replace(":", ".").rpartition(".")
        found = getattr(sys.modules.get(module_name) or _import(module_name, app_dir), name, None)
    if isinstance(found, ModuleType):
        found = getattr(found, "App", None)
    if found is None:
        raise LoadFailed(f"{module_name} has no class App, and starts no server with one")
    return found


def _import(name: str, app_dir: str) -> ModuleType:
    """Import a module of the app. One that is named as a module already in use is loaded under another name."""
    path = os.path.join(app_dir, *name.split("."))
    if name not in sys.modules and name.partition(".")[0] not in sys.stdlib_module_names:
        return importlib.import_module(name)
    file = path + ".py" if os.path.exists(path + ".py") else os.path.join(path, "__init__.py")
    folders = [path] if file.endswith("__init__.py") else None
    spec = importlib.util.spec_from_file_location(name + "_app", file, submodule_search_locations=folders)
    if spec is None or spec.loader is None or not os.path.exists(file):
        raise ModuleNotFoundError(f"No module named {name!r} in the app", name=name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def one_line(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return text[-1] if text else type(error).__name__


def format_trace(error: BaseException, app_dir: str) -> str:
    """The traceback from the app's first frame on: what lies above it is the harness, and no help."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and not frames.tb_frame.f_code.co_filename.startswith(app_dir + os.sep):
        frames = frames.tb_next
    if frames is None and not isinstance(error, SyntaxError):
        frames = error.__traceback__
    return "".join(traceback.format_exception(type(error), error, frames))[-MAX_TRACEBACK:]
