"""The apps of an embedded server: what its routes serve, as it lies on the disk now."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from htagweb_orchestrator.catalogue import PublishedApp
from htagweb_orchestrator.errors import AppNotFound
from htagweb_orchestrator.model import Access, AppCard, AppName
from htagweb_orchestrator.settings import AppSettings, Settings

from .source import PREFIX, Source
from .source_files import SourceFiles


class OwnApps:
    """Keeps the promise of catalogue.Apps. `get` looks at the files: a change counts from the next page load on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sources: dict[str, tuple[Source, SourceFiles]] = {}
        self._told: dict[str, str] = {}  # name -> version, at the last scan

    def publish(self, source: Source) -> AppCard:
        """Known from now on; a second time changes nothing."""
        self._sources.setdefault(source.name, (source, SourceFiles(source.file, source.folder)))
        return self._card(source)

    def scan(self) -> bool:
        versions = {name: self.get(name).version for name in self._sources}
        changed, self._told = versions != self._told, versions
        return changed

    def get(self, name: str) -> PublishedApp:
        if name not in self._sources:
            raise AppNotFound(f"There is no app {name} here.", app=name)
        source, files = self._sources[name]
        version = hashlib.sha256(f"{source.entry}\0{files.state()}".encode()).hexdigest()
        return PublishedApp(
            name=AppName(name),
            title=source.title,
            description="",
            generation=source.generation,
            entry=source.entry,
            version=version,
            image="",
            limits=self._settings.limits(name),
            http_only=source.http_only,
            parano=source.parano,
            warm_min=1,
            folder=source.folder,
            working_dir=source.working_dir,
            prefix=f"{PREFIX}/{name}",
        )

    def cards(self) -> tuple[AppCard, ...]:
        return tuple(self._card(source) for _, (source, _) in sorted(self._sources.items()))

    def published(self) -> list[PublishedApp]:
        return [self.get(name) for name in sorted(self._sources)]

    def said(self, name: str) -> AppSettings:
        return self._settings.app(name)

    def files(self, version: str) -> list[tuple[str, bytes]]:
        return []

    def secrets(self, app: PublishedApp) -> dict[str, bytes]:
        return {}

    def icon(self, name: str) -> None:
        return None

    def access_of(self, name: str) -> Access:
        return self._settings.access_of(name)

    def home(self) -> str:
        return ""  # routes of the user's own say what `/` is

    def keep(self, versions: Collection[str]) -> None:
        pass

    def _card(self, source: Source) -> AppCard:
        return AppCard(
            name=AppName(source.name),
            title=source.title,
            generation=source.generation,
            version="in place",
            interaction_timeout_s=self._settings.interaction_timeout_s,
        )
