"""What a server is given to serve, as something that another process can import: module, class, folder."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

FORMS = 'a Tag class, a module that has a class App, or a text such as "module.App" or "module:App"'
PREFIX = "/_"  # where apps' own addresses begin; the gateway's embedded.PREFIX, which is imported later than this
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """`entry` is "module:Class", to be imported from `folder`. `file` is the module's own, "" where there is none."""

    entry: str
    folder: str
    file: str
    working_dir: str
    generation: int
    http_only: bool = False
    parano: bool = False

    @property
    def title(self) -> str:
        return self.entry.rpartition(":")[2]

    @property
    def name(self) -> str:
        """A DNS label, the same in every process."""
        readable = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:40] or "app"
        facts = f"{self.entry}\0{self.folder}\0{self.http_only}\0{self.parano}"
        return f"{readable}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def source_of(obj: object, **modes: bool) -> Source:
    """Raises TypeError for what can't be served, RuntimeError where htag is missing."""
    module, name = _named(obj)
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None) or ""
    if module == "__main__":
        if not file:
            raise TypeError(
                f"{name} is defined at the prompt: put it into a file, so that users' processes can import it"
            )
        module = _main_module(loaded, file)
    folder = _folder(module, file)
    found = file or _file(module, folder)
    return Source(
        entry=f"{module}:{name}",
        folder=folder,
        file=os.path.abspath(found) if found else "",
        working_dir=os.getcwd(),
        generation=htag_generation(),
        **modes,
    )


def check(obj: object) -> None:
    """Raises TypeError, with the forms that are accepted."""
    _named(obj)


def _named(obj: object) -> tuple[str, str]:
    """The module and the name in it."""
    if isinstance(obj, str):
        module, separator, name = obj.partition(":") if ":" in obj else obj.rpartition(".")
        if separator and _NAME.fullmatch(module) and _NAME.fullmatch(name):
            return module, name
    elif isinstance(obj, ModuleType):
        if inspect.isclass(getattr(obj, "App", None)):
            return obj.__name__, "App"
    elif inspect.isclass(obj) and _is_tag(obj):
        if "<locals>" in obj.__qualname__:
            raise TypeError(f"{obj.__name__} is made in a function: put it at the top of a module, to be imported")
        return obj.__module__, obj.__qualname__
    raise TypeError(f"expected {FORMS}; got {obj!r}")


def _is_tag(cls: type) -> bool:
    """Of either generation of htag: in htag 1 all tags derive from Tag, in htag 2 from GTag."""
    return any(each.__module__.partition(".")[0] == "htag" for each in cls.__mro__)


def _main_module(main: ModuleType | None, file: str) -> str:
    """The name under which a program's own file can be imported."""
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name)
    stem = Path(file).stem
    if not stem.isidentifier():
        better = re.sub(r"\W", "_", stem)
        raise TypeError(f"{Path(file).name} can't be imported by that name: rename it to {better}.py")
    return stem


def _folder(module: str, file: str) -> str:
    """What has to be on `sys.path` for the module to be found."""
    if file:
        path = Path(os.path.abspath(file))
        depth = module.count(".") + (path.name == "__init__.py")
        return str(path.parents[depth])
    first = module.partition(".")[0]
    for entry in [*map(os.path.abspath, sys.path), os.getcwd()]:
        if os.path.isfile(os.path.join(entry, f"{first}.py")) or os.path.isdir(os.path.join(entry, first)):
            return entry
    return os.getcwd()


def _file(module: str, folder: str) -> str:
    path = os.path.join(folder, *module.split("."))
    return next((each for each in (f"{path}.py", os.path.join(path, "__init__.py")) if os.path.isfile(each)), "")


def htag_generation() -> int:
    """Of the htag that this environment has. Raises RuntimeError without one."""
    htag: Any = sys.modules.get("htag")
    if htag is None:
        spec = importlib.util.find_spec("htag")
        if spec is None or spec.origin is None:
            raise RuntimeError(
                "htag is missing here: pip install htag, or pip install 'htag<2' for its first generation"
            )
        return 2 if Path(spec.origin).with_name("web.py").exists() else 1
    return 2 if hasattr(htag, "WebApp") else 1
