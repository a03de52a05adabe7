"""A folder of apps to look at while they are written: `python -m htagweb`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from htagweb_orchestrator.model import ASGI
from htagweb_orchestrator.source import Examined, NotAnApp, examine

from .server import AppPage, WebServerWS
from .source import Source, htag_generation

_NAME = re.compile(r"[A-Za-z0-9][\w-]*")  # neither hidden, nor private, nor "..", nor with a slash of any kind
MAX_SOURCE_BYTES = 512 * 1024


class FolderServer(WebServerWS):
    """Shows what apps a folder has, and its sub-folders, and opens them. Nothing else can be opened: a path that isn't
    an app's file below the folder, links followed, leads nowhere."""

    def __init__(self, root: Path, **options: Any) -> None:
        super().__init__(**{"debug": True, **options})
        self._root = Path(os.path.realpath(root))
        if not self._root.is_dir():
            raise NotADirectoryError(f"{root} is no folder")
        self.add_route("/{path:path}", self._show)

    async def _show(self, request: Request) -> Response:
        path: str = request.path_params["path"]
        parts = [part for part in path.split("/") if part]
        place = self._place(parts)
        if place is None or "//" in path:
            return self._nothing(request)
        if place.is_dir():
            if path and not path.endswith("/"):
                return RedirectResponse(quote(f"/{path}/"), 308)
            return self._list(parts, place)
        file = place.with_name(f"{place.name}.py")
        found = self._examined(file)
        if not isinstance(found, Examined) or path.endswith("/"):
            if isinstance(found, str) and not path.endswith("/"):
                return self._page("broken.html", 500, name=file.name, problem=found)
            return self._nothing(request)
        return AppPage(self, self._source_of(parts, file, found))

    def _place(self, parts: list[str]) -> Path | None:
        """The folder of that path, or what an app's file is called without its ending."""
        if not all(_NAME.fullmatch(part) for part in parts):
            return None
        place = self._root.joinpath(*parts)
        for candidate in (place, place.with_name(f"{place.name}.py")):
            real = Path(os.path.realpath(candidate))
            if real.exists() and (real == self._root or self._root in real.parents):
                if candidate is place and real.is_dir():
                    return place
                if candidate is not place and parts and real.is_file():
                    return place
        return None

    def _examined(self, file: Path) -> Examined | str | None:
        """What app the file holds, or what is wrong with it; None if it doesn't look like one."""
        try:
            if file.stat().st_size > MAX_SOURCE_BYTES:
                return None
            source = file.read_bytes()
        except OSError:
            return None
        if b"htag" not in source:
            return None
        try:
            found = examine({file.name: source}, file.name)
        except NotAnApp as error:
            return f"line {error.line}: {error}" if error.line else None
        except Exception:  # of what it says about packages: that is for the platform
            return None
        return found if found.generation != ASGI else None

    def _source_of(self, parts: list[str], file: Path, found: Examined) -> Source:
        name = found.entry.rpartition(":")[2]
        importable = all(part.isidentifier() for part in parts)
        return Source(
            # From the folder's top, so that apps in sub-folders find what is shared.
            entry=f"{'.'.join(parts)}:{name}" if importable else f"{parts[-1]}:{name}",
            folder=str(self._root if importable else file.parent),
            file=str(file),
            working_dir=str(self._root),
            generation=htag_generation(),
        )

    def _list(self, parts: list[str], folder: Path) -> Response:
        here = htag_generation()
        folders, apps = [], []
        for name, path in self._inside(parts, folder):
            if path.is_dir():
                folders.append({"name": name, "href": f"{quote(name)}/"})
            elif (found := self._examined(path)) is not None:
                stem = path.stem
                broken = found if isinstance(found, str) else ""
                generation = 0 if isinstance(found, str) else found.generation
                text = "" if isinstance(found, str) else found.description
                other = bool(generation) and generation != here
                app = {"name": stem, "href": quote(stem), "generation": generation, "text": text}
                apps.append({**app, "problem": broken, "other": other})
        title = "/".join([self._root.name or "/", *parts])
        return self._page("folder.html", 200, title=title, up=bool(parts), folders=folders, apps=apps, here=here)

    def _inside(self, parts: list[str], folder: Path) -> Iterator[tuple[str, Path]]:
        for name in sorted(os.listdir(folder), key=str.lower):
            path = folder / name
            stem = name if path.is_dir() else name.removesuffix(".py")
            if (path.is_dir() or name.endswith(".py")) and self._place([*parts, stem]) is not None:
                yield name, path

    def _nothing(self, request: Request) -> Response:
        return PlainTextResponse("There is no app of that name in this folder.\n", 404)

    def _page(self, template: str, status: int, **values: Any) -> Response:
        assert self._workplace is not None
        return self._workplace.gateway.pages.own(template, status, **values)
