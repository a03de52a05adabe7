"""The one place that picks an engine."""

from __future__ import annotations

from .engines.docker import DockerEngine
from .settings import Settings


def engine(settings: Settings) -> DockerEngine:
    """The engine of this installation; nothing is asked of it yet. The caller closes it."""
    return DockerEngine(instance=settings.instance, run_volume=settings.run_volume)
