"""What is published: compares the apps folder with what is known, and keeps a snapshot of each version."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol

import msgspec

from . import discovery
from .app_images import AppImages, OneImage
from .config_file import ConfigFile
from .discovery import Changed, Found, Unreadable
from .errors import AppBroken, AppNotFound, AppPreparing
from .icons import read_icon
from .icons import tag as icon_tag
from .model import Access, AppCard, AppName, Icon, Struct
from .requirements import BadRequirement, Needs, pinned_generation
from .secret_files import SecretFiles
from .settings import AppLimits, AppSettings, Settings
from .snapshots import SnapshotLost, Snapshots
from .source import Examined, NotAnApp, examine
from .verdicts import Verdicts

log = logging.getLogger(__name__)

HOLD_S = 0.6  # how long a version that replaces a good one waits for its trial; changes count within two seconds
UNSETTLED_NS = 2_000_000_000
"""A file this young is read again: on a file system with coarse times a second write leaves no trace in them."""


class PublishedApp(Struct, frozen=True):
    """One version of one app, all that a start needs but its files."""

    name: AppName
    title: str
    description: str
    generation: int  # of htag, or ASGI
    entry: str  # "module:Class", "module:app"
    version: str  # sha256 over entry, generation, files and what it is given, in hex
    image: str
    limits: AppLimits
    http_only: bool = False
    parano: bool = False
    env: Mapping[str, str] = {}
    secrets: tuple[str, ...] = ()  # names, never contents
    pinned: bool = False  # it says itself which htag it needs
    base: str = ""  # the sandbox image's id, as far as it is known
    warm_min: int | None = None  # None: as for all apps
    warm_max: int | None = None
    # Of one that an embedded server runs where its author works on it:
    folder: str = ""  # it is imported from here, and no files are sent
    working_dir: str = ""
    prefix: str = ""  # where its own addresses begin, when that isn't /NAME

    @property
    def tried(self) -> str:
        """What a verdict holds for."""
        return f"{self.version}:{self.image}:{self.base}"


@dataclass(frozen=True, slots=True)
class _Entry:
    found: Found
    published: PublishedApp | None  # the last version that could be one
    problem: str = ""
    again: bool = False  # look at it in the next round, changed or not
    secrets: tuple[object, ...] = ()  # what their files looked like
    coming: PublishedApp | None = None  # what its files are now, which is published once it has its image
    needs: Needs = Needs()  # noqa: RUF009  frozen
    preparing: bool = False  # it hasn't
    icon: Icon | None = None
    remarks: tuple[str, ...] = ()  # what the operator should know, though it works
    since_s: float = 0.0  # when it had
    good: PublishedApp | None = None  # the last version that went well when it was tried out


class Apps(Protocol):
    """What can be started: published from the apps folder, or handed to an embedded server."""

    def scan(self) -> bool: ...
    def get(self, name: str) -> PublishedApp: ...
    def cards(self) -> tuple[AppCard, ...]: ...
    def said(self, name: str) -> AppSettings: ...
    def published(self) -> list[PublishedApp]: ...
    def files(self, version: str) -> list[tuple[str, bytes]]: ...
    def secrets(self, app: PublishedApp) -> dict[str, bytes]: ...
    def icon(self, name: str) -> Icon | None: ...
    def access_of(self, name: str) -> Access: ...
    def home(self) -> str: ...
    def keep(self, versions: Collection[str]) -> None: ...


class Catalogue:
    """`scan` in one thread at a time; the rest may be called from any, and sees one whole round or the next.

    A version that is broken doesn't take the last good one away: that is served on, and the card says what is wrong
    with the new one. This lasts as long as the process: after a restart there is only what lies in the folder.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        images: AppImages | OneImage | None = None,
        verdicts: Verdicts | None = None,
        config: ConfigFile | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without `images`, every app runs on the sandbox image. Without `verdicts`, no version is tried out. With
        `config`, changes of the file count while it runs."""
        self._verdicts = verdicts
        self._settings = settings
        self._config = config
        self._images = images or OneImage(settings.sandbox_image)
        self._snapshots = Snapshots(settings.state_dir / "snapshots")
        self._secrets = SecretFiles(settings.secrets_dir, settings.state_dir)
        self._wall_ns = wall_ns
        self._now = now
        self._entries: dict[str, _Entry] = {}
        self._cards: tuple[AppCard, ...] = ()
        self._home = settings.home  # when it was looked at last
        self._kept: frozenset[str] = frozenset()
        self._lost: set[str] = set()
        self._limits: dict[str, AppLimits] = {}
        self._examined: dict[str, tuple[bytes, Examined]] = {}
        self._unknown: tuple[str, ...] = ()
        self._warnings: tuple[str, ...] = ()

    def scan(self) -> bool:
        """Look at folder and configuration; True if a card, a version or the home changed. Blocks: milliseconds if
        none did."""
        self._reconfigure()
        try:
            found = discovery.find(
                self._settings.apps_dir,
                lambda name: self._limits_of(name).app_bytes,
                lambda name: self._settings.app(name).icon,
            )
        except OSError as error:
            # A mount that hiccups must not take every app away.
            self._warn((f"the folder with the apps can't be read: {self._settings.apps_dir}: {error.strerror}",))
            return False
        entries = {app.name: entry for app in found if (entry := self._looked_at(app)) is not None}
        self._examined = {name: known for name, known in self._examined.items() if name in entries}
        self._images.settle()
        remarks = (f"{name}: {remark}" for name, entry in entries.items() for remark in entry.remarks)
        self._unknown = unknown_apps(self._settings, entries)
        self._warn((*self.problems, *remarks))
        cards = tuple(self._card(name, entries[name]) for name in sorted(entries))
        changed = cards != self._cards or _published(entries) != _published(self._entries)
        changed = changed or self._settings.home != self._home
        self._entries, self._cards, self._home = entries, cards, self._settings.home
        self._prune()
        return changed

    def _reconfigure(self) -> None:
        """Apps of which something else is said now are looked at once more; what runs of them runs on."""
        before = self._settings
        after = self._config.look(before) if self._config else None
        if after is None:
            return
        self._settings, self._limits = after, {}
        for name, entry in self._entries.items():
            if (before.app(name), before.limits(name)) != (after.app(name), after.limits(name)):
                self._entries[name] = replace(entry, again=True)
        log.info("configuration changed", extra={"apps": len(after.apps)})

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps the configuration, or a change of it, from being used."""
        return (*(self._config.problems if self._config else ()), *self._unknown)

    def access_of(self, name: str) -> Access:
        """Who may open an app."""
        return self._settings.access_of(name)

    def home(self) -> str:
        """The app that `/` leads to; "" for the catalogue."""
        return self._settings.home

    def get(self, name: str) -> PublishedApp:
        """The version to start now. Raises AppNotFound; AppBroken or AppPreparing if there never was a good one."""
        entry = self._entries.get(name)
        if entry is None:
            raise AppNotFound(f"There is no app {name} here.", app=name)
        if entry.published is None and entry.preparing:
            text = f"{self._title(name)} is being prepared: the packages that it needs are installed."
            raise AppPreparing(text, app=name)
        if entry.published is None:
            raise AppBroken(f"{self._title(name)} is out of order.", app=name, detail=entry.problem)
        return entry.published

    def cards(self) -> tuple[AppCard, ...]:
        """All apps by name. A card with a problem and a version is served by that version: the last good one."""
        return self._cards

    def said(self, name: str) -> AppSettings:
        """What the configuration says about an app."""
        return self._settings.app(name)

    def published(self) -> list[PublishedApp]:
        """Every version that can be started now, by name."""
        return [entry.published for _, entry in sorted(self._entries.items()) if entry.published is not None]

    def coming(self, name: str) -> PublishedApp | None:
        """An app's newest version, if it can be one and has its image."""
        entry = self._entries.get(name)
        return entry.coming if entry and entry.since_s else None

    def untried(self) -> list[PublishedApp]:
        """Newest versions that weren't tried out yet."""
        if self._verdicts is None:
            return []
        newest = [entry.coming for entry in self._entries.values() if entry.coming and entry.since_s]
        return [app for app in newest if app.base and self._verdicts.of(app.tried) is None]

    def all_tried(self) -> list[str]:
        return [entry.coming.tried for entry in self._entries.values() if entry.coming]

    def image(self, name: str) -> str:
        """What an app's present files run on, or will; "" if they can't be an app. Raises AppNotFound."""
        entry = self._entries.get(name)
        if entry is None:
            raise AppNotFound(f"There is no app {name} here.", app=name)
        return entry.coming.image if entry.coming else ""

    def warnings(self) -> tuple[str, ...]:
        """What an operator should know and nothing else depends on."""
        return self._warnings

    def files(self, version: str) -> list[tuple[str, bytes]]:
        """A version's files, (path, bytes) by path. Blocks. Raises AppBroken if its snapshot was lost."""
        try:
            return self._snapshots.files(version)
        except SnapshotLost as error:
            self._lost.add(version)
            raise AppBroken("The files of this version were lost. They are published anew: try again.") from error

    def secrets(self, app: PublishedApp) -> dict[str, bytes]:
        """What its secrets hold now. Blocks. Raises AppBroken; no text of it says more than a name."""
        try:
            return self._secrets.read(app.secrets)
        except Unreadable as error:
            raise AppBroken(f"{app.title} is out of order.", app=app.name, detail=str(error)) from error

    def icon(self, name: str) -> Icon | None:
        """An app's picture."""
        entry = self._entries.get(name)
        return entry.icon if entry else None

    def remarks(self, name: str) -> tuple[str, ...]:
        """What an operator should know of an app that works all the same."""
        entry = self._entries.get(name)
        return entry.remarks if entry else ()

    def keep(self, versions: Collection[str]) -> None:
        """Versions that running sandboxes have. Others that aren't published any more are removed after a while."""
        self._kept = frozenset(versions)

    def _looked_at(self, app: Found) -> _Entry | None:
        """What is now known of an app; None for one that can't be said anything about yet."""
        old = self._entries.get(app.name)
        secrets = self._secrets.state(self._settings.app(app.name).secrets)
        is_as_before = old and (old.found, old.secrets) == (app, secrets) and not old.again
        try:
            if old and is_as_before and not self._is_lost(old.published):
                return self._said(self._imaged(old, old), old)
            icon, remarks = _icon(app)
            new = replace(self._publish(app, secrets), icon=icon, remarks=remarks)
            return self._said(self._imaged(new, old), old)
        except Changed:
            return replace(old, again=True) if old else None
        except Exception as error:  # whatever it holds, the others are looked at, and the orchestrator starts
            if not isinstance(error, Unreadable | NotAnApp | BadRequirement | OSError):
                log.exception("app can't be looked at", extra={"app": app.name})
            published, again = self._fit(old.published if old else None), isinstance(error, OSError)
            icon, good = (old.icon, old.good) if old else (None, None)
            broken = _Entry(app, published, _sentence(app, error), again, secrets, icon=icon, good=good)
            return self._said(broken, old)

    def _fit(self, version: PublishedApp | None) -> PublishedApp | None:
        """An earlier version with the limits that hold now, if it may be served on: not in the clear where parano has
        been asked for since."""
        if version is None or (self._settings.app(version.name).parano and not version.parano):
            return None
        return msgspec.structs.replace(version, limits=self._limits_of(version.name))

    def _said(self, new: _Entry, old: _Entry | None) -> _Entry:
        if new.problem and (old is None or new.problem != old.problem):
            log.warning("app is broken", extra={"app": new.found.name, "problem": new.problem})
        elif new.published and not new.problem:
            before = old.published if old and not old.problem else None
            # Limits change, and what the sandbox image is turns out a moment after the start: no new version, that.
            if before is None or (before.version, before.image) != (new.published.version, new.published.image):
                log.info("app published", extra={"app": new.found.name, "version": new.published.version[:12]})
        return new

    def _imaged(self, entry: _Entry, old: _Entry | None) -> _Entry:
        """The entry with what is known of its image now: that is made, fails or goes away while no file changes."""
        if entry.coming is None:
            return entry
        said = self._settings.app(entry.found.name)
        chosen = self._images.choose(entry.needs, entry.coming.generation, said.image)
        coming = msgspec.structs.replace(entry.coming, image=chosen.image, base=self._images.base)
        before = self._fit(old.published if old else None)
        preparing = not chosen.ready and not chosen.problem
        entry = replace(entry, published=before, problem=chosen.problem, coming=coming, preparing=preparing)
        return self._judged(entry, coming, old) if chosen.ready else replace(entry, good=old.good if old else None)

    def _judged(self, entry: _Entry, new: PublishedApp, old: _Entry | None) -> _Entry:
        """Publish the version that is new, unless it goes badly where the one before went well. That is found out while
        it is new: the one before is served meanwhile, but no longer than HOLD_S; a first version is published at once,
        because there is nothing else to serve, and whoever opens it finds out the same."""
        good = self._fit(old.good if old else None)
        is_same = old is not None and old.since_s and old.coming and old.coming.tried == new.tried
        since_s = old.since_s if old and is_same else self._now()
        said = self._verdicts.of(new.tried) if self._verdicts else None
        if said == "":
            good = new
        holds = good is not None and (said or (said is None and self._now() - since_s < HOLD_S))
        return replace(entry, published=good if holds else new, problem=said or "", since_s=since_s, good=good)

    def _publish(self, app: Found, secrets: tuple[object, ...]) -> _Entry:
        if app.problem:
            raise Unreadable(app.problem)
        if self._settings.reserves(app.name):
            raise Unreadable(f"{app.name} is the platform's own host, by public_url and apps_domain: rename it")
        said = self._settings.app(app.name)
        files = discovery.read(app)
        source = self._examine(app, files, said.entry)
        if said.parano and not source.generation:
            raise Unreadable(f"{app.name} can't have parano, which is for apps of htag")
        given = self._secrets.digest(said.env, said.secrets)
        # A part of the version: else a sandbox that was loaded before parano was asked for would go on in the clear.
        talk = [name for name, on in (("http_only", said.http_only), ("parano", said.parano)) if on]
        version = self._snapshots.put(source.entry, source.generation, files, " ".join([given, *talk]).strip())
        published = PublishedApp(
            name=AppName(app.name),
            title=self._title(app.name),
            description=said.description or source.description,
            generation=source.generation,
            entry=source.entry,
            version=version,
            image=self._settings.sandbox_image,
            limits=self._limits_of(app.name),
            http_only=said.http_only,
            parano=said.parano,
            env=said.env,
            secrets=said.secrets,
            pinned=pinned_generation(source.needs) is not None,
            warm_min=said.warm_min,
            warm_max=said.warm_max,
        )
        youngest_ns = max(file.modified_ns for file in app.files)
        again = abs(self._wall_ns() - youngest_ns) < UNSETTLED_NS
        return _Entry(app, None, again=again, secrets=secrets, coming=published, needs=source.needs)

    def _examine(self, app: Found, files: Mapping[str, bytes], wanted: str) -> Examined:
        """What the source says, looked at once: a changed configuration looks at every app again. Raises NotAnApp."""
        digest = sha256(repr((app.main, wanted)).encode())
        for path, content in sorted(files.items()):
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        known = self._examined.get(app.name)
        if known is None or known[0] != digest.digest():
            known = self._examined[app.name] = digest.digest(), examine(files, app.main, wanted)
        return known[1]

    def _limits_of(self, name: str) -> AppLimits:
        found = self._limits.get(name)
        if found is None:
            found = self._limits[name] = self._settings.limits(name)
        return found

    def _card(self, name: str, entry: _Entry) -> AppCard:
        published = entry.published or entry.coming
        return AppCard(
            name=AppName(name),
            title=self._title(name),
            description=published.description if published else self._settings.app(name).description,
            generation=published.generation if published else 1,
            version=entry.published.version if entry.published else "",
            problem=entry.problem,
            preparing=entry.preparing,
            interaction_timeout_s=self._limits_of(name).interaction_timeout_s,
            icon=icon_tag(entry.icon) if entry.icon else "",
            access=self._settings.access_of(name),
        )

    def _title(self, name: str) -> str:
        return self._settings.app(name).title or pretty(name)

    def _is_lost(self, published: PublishedApp | None) -> bool:
        if published is None or published.version not in self._lost:
            return False
        self._lost.discard(published.version)
        return True

    def _prune(self) -> None:
        entries = self._entries.values()
        versions = {app.version for each in entries for app in (each.published, each.coming, each.good) if app}
        wanted = self._kept | versions
        try:
            self._snapshots.prune(wanted)
        except OSError as error:
            log.warning("old versions can't be removed", extra={"error": str(error)})

    def _warn(self, warnings: tuple[str, ...]) -> None:
        for warning in set(warnings) - set(self._warnings):
            log.warning(warning)
        self._warnings = warnings


def unknown_apps(settings: Settings, names: Collection[str]) -> tuple[str, ...]:
    """What the configuration says about apps that aren't there."""
    told = [f"[apps.{name}] is configured, but there is no such app" for name in settings.apps if name not in names]
    if settings.home and settings.home not in names:
        told.append(f"{settings.home} is configured as home, but there is no such app")
    return tuple(told)


def pretty(name: str) -> str:
    """`my-counter2` -> "My counter2"."""
    return name.replace("-", " ").replace("_", " ").strip().capitalize()


def _icon(app: Found) -> tuple[Icon | None, tuple[str, ...]]:
    if app.icon is None:
        return None, (app.icon_problem,) if app.icon_problem else ()
    try:
        return read_icon(app, app.icon), ()
    except Unreadable as error:
        return None, (f"its icon is left out: {error}",)


def _published(entries: dict[str, _Entry]) -> dict[str, PublishedApp | None]:
    return {name: entry.published for name, entry in entries.items()}


def _sentence(app: Found, error: Exception) -> str:
    if isinstance(error, NotAnApp | BadRequirement):
        line = f", line {error.line}" if error.line else ""
        return f"{app.show(error.path)}{line}: {error}"
    if isinstance(error, OSError):
        return f"{app.name} can't be stored: {error.strerror}"
    if not isinstance(error, Unreadable):
        return f"{app.name} can't be looked at, which is worth a report: {type(error).__name__}: {error}"
    return str(error)
