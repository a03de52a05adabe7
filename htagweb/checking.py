"""Looks at a configuration and a folder of apps as the orchestrator would, without one."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from htagweb_orchestrator import composition
from htagweb_orchestrator.builds import problem_of
from htagweb_orchestrator.catalogue import Catalogue
from htagweb_orchestrator.errors import EngineUnavailable, OrchestratorError
from htagweb_orchestrator.model import AppCard
from htagweb_orchestrator.settings import ConfigError, Settings


@dataclass(frozen=True, slots=True)
class CheckedApp:
    name: str
    title: str
    generation: int | None  # None if that can't be said
    entry: str
    problem: str


@dataclass(frozen=True, slots=True)
class Checked:
    apps: tuple[CheckedApp, ...] = ()
    problems: tuple[str, ...] = ()  # of the configuration and the folder
    warnings: tuple[str, ...] = ()


def check(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Checked:
    """`path` is a folder of apps, or one app in such a folder; without it the configured folder is looked at.

    The configuration is the environment's; with a `path`, the htagweb.toml that lies beside the folder counts too.
    """
    chosen = path.absolute() if path else None
    only = None
    if chosen and (chosen.suffix == ".py" or (chosen / "app.py").is_file()):
        only, chosen = chosen.name.removesuffix(".py"), chosen.parent
    if chosen and not environ.get("HTAGWEB_CONFIG") and (chosen.parent / "htagweb.toml").is_file():
        environ = {**environ, "HTAGWEB_CONFIG": str(chosen.parent / "htagweb.toml")}
    problems: tuple[str, ...] = ()
    try:
        settings = Settings.load(environ)
    except ConfigError as error:
        problems = error.problems
        settings = Settings(apps_dir=Path(environ.get("HTAGWEB_APPS_DIR") or Settings().apps_dir))
    folder = chosen or settings.apps_dir
    if not folder.is_dir():
        return Checked(problems=(*problems, f"There is no folder {folder}."))
    with tempfile.TemporaryDirectory(prefix="htagweb-check-") as state, _silence():
        secrets = settings.secrets_dir
        if chosen and not environ.get("HTAGWEB_SECRETS_DIR"):
            secrets = chosen.parent / "secrets"
        catalogue = Catalogue(
            msgspec.structs.replace(settings, apps_dir=folder, secrets_dir=secrets, state_dir=Path(state))
        )
        catalogue.scan()
    apps = tuple(_checked(catalogue, card) for card in catalogue.cards() if only in (None, card.name))
    if only and not apps:
        problems = (*problems, f"There is no app {only} in {folder}.")
    networks = {limits.network for limits in settings.all_limits()} - {""}
    if networks and only is None:
        problems = (*problems, *asyncio.run(_missing_networks(settings, networks)))
    if settings.images and only is None:
        problems = (*problems, *asyncio.run(_missing_images(settings)))
    return Checked(apps, problems, catalogue.warnings() if only is None else ())


async def _missing_networks(settings: Settings, networks: set[str]) -> list[str]:
    """Asked of the engine itself: the orchestrator may not run yet. Where none answers, nothing is missing."""
    engine = composition.engine(settings)
    try:
        return [f"{each.subject}: {each.found}" for each in await engine.advice(networks) if each.wrong]
    except EngineUnavailable:
        return []
    finally:
        await engine.close()


async def _missing_images(settings: Settings) -> list[str]:
    """Likewise, of the list images."""
    maker = composition.images(settings)
    try:
        return [f"images: {problem}" for name in settings.images if (problem := await problem_of(maker, name))]
    except EngineUnavailable:
        return []
    finally:
        await maker.close()


@contextmanager
def _silence() -> Iterator[None]:
    """The catalogue logs what it finds; here the caller shows it."""
    log = logging.getLogger("htagweb_orchestrator")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _checked(catalogue: Catalogue, card: AppCard) -> CheckedApp:
    try:
        published = catalogue.get(card.name)
    except OrchestratorError:
        return CheckedApp(card.name, card.title, None, "", card.problem)
    return CheckedApp(card.name, card.title, card.generation, published.entry, card.problem)
