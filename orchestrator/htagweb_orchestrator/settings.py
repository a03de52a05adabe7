"""The configuration as one frozen value. `keys` knows its fields' names in file and environment, `configuration` reads
them. Parts are handed the values they use, not this object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from . import configuration
from .configuration import ConfigError
from .model import Platform, Struct

__all__ = ["AppLimits", "AppSettings", "ConfigError", "Settings"]

KIB, MIB = 1024, 1024**2


class AppLimits(Struct, frozen=True):
    """What a sandbox of one app may take, and how long it lives."""

    idle_timeout_s: float = 900.0
    max_lifetime_s: float = 43200.0
    start_timeout_s: float = 30.0
    interaction_timeout_s: float = 60.0
    busy_max_s: float = 3600.0
    memory_bytes: int = 256 * MIB
    cpus: float = 1.0
    pids: int = 64
    tmp_bytes: int = 32 * MIB
    app_bytes: int = 16 * MIB
    runtime: str = "runc"
    network: str = ""


class AppSettings(Struct, frozen=True):
    """`[apps.<name>]`: what the operator says about one app. `overrides` holds fields of AppLimits."""

    title: str = ""
    description: str = ""
    entry: str = ""
    access: str = "public"
    max_sandboxes: int = 0
    http_only: bool = False
    overrides: Mapping[str, Any] = {}


class Settings(AppLimits, frozen=True):
    """The limits are defaults here: `limits(name)` is what counts for an app."""

    orphan_timeout_s: float = 300.0
    session_size_bytes: int = 64 * KIB
    message_size_bytes: int = 16 * MIB
    max_per_user: int = 5
    max_sandboxes: int = 0
    warm_min: int = 2
    warm_max: int = 10
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    home: str = ""
    dev: bool = False
    accept_weak: tuple[str, ...] = ()
    apps: Mapping[str, AppSettings] = {}

    # Plumbing: what compose and the images agree about, in the environment only.
    instance: str = "htagweb"
    run_volume: str = "htagweb_run"
    sandbox_image: str = "htagweb-sandbox"
    published_on: str = ""
    apps_dir: Path = Path("/apps")
    run_dir: Path = Path("/run/htagweb/sandboxes")
    ctl_dir: Path = Path("/run/htagweb/ctl")
    admin_dir: Path = Path("/run/htagweb/admin")
    state_dir: Path = Path("/var/lib/htagweb")
    gateway_uid: int = 10001

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """What htagweb.toml and the environment say, defaults for the rest. Raises ConfigError, with every problem."""
        values = configuration.read(environ)
        apps = {name: AppSettings(**fields) for name, fields in values.pop("apps", {}).items()}
        return cls(apps=apps, **values)

    def app(self, name: str) -> AppSettings:
        """What is said about an app; defaults if nothing is."""
        return self.apps.get(name, AppSettings())

    def limits(self, name: str) -> AppLimits:
        """The limits of one app: its own values over the defaults."""
        values = {field: getattr(self, field) for field in AppLimits.__struct_fields__}
        return AppLimits(**(values | dict(self.app(name).overrides)))

    def all_limits(self) -> list[AppLimits]:
        """The defaults, and those of each app that the configuration names."""
        return [self.limits(name) for name in ("", *self.apps)]

    def platform(self, warnings: tuple[str, ...] = ()) -> Platform:
        """What the gateway needs of all this."""
        return Platform(
            public_url=self.public_url,
            trusted_proxies=self.trusted_proxies,
            dev=self.dev,
            home=self.home,
            message_size=self.message_size_bytes,
            warnings=warnings,
        )
