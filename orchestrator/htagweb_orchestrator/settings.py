"""The configuration as one frozen value. `keys` knows its fields' names in file and environment, `configuration` reads
them. Parts are handed the values they use, not this object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from . import configuration
from .access import PUBLIC
from .configuration import ConfigError
from .model import Access, AppName, Headers, Oidc, Platform, Struct, UserId
from .session_store import SessionKey

__all__ = ["AppLimits", "AppSettings", "ConfigError", "Settings"]

KIB, MIB = 1024, 1024**2
DAY_S = 86_400.0


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
    data_bytes: int = 0


class AppSettings(Struct, frozen=True):
    """`[apps.<name>]`: what the operator says about one app. `overrides` holds fields of AppLimits."""

    title: str = ""
    description: str = ""
    entry: str = ""
    icon: str = ""  # a path below the folder with the apps; "": found
    access: Access | None = None  # None: as for all apps
    session: str = "user"
    image: str = ""
    max_sandboxes: int = 0
    http_only: bool = False
    parano: bool = False
    env: Mapping[str, str] = {}
    secrets: tuple[str, ...] = ()  # names, never contents
    max_per_user: int | None = None  # None, here and below: as for all apps
    warm_min: int | None = None
    warm_max: int | None = None
    overrides: Mapping[str, Any] = {}


class Settings(AppLimits, frozen=True):
    """The limits are defaults here: `limits(name)` is what counts for an app."""

    orphan_timeout_s: float = 300.0
    session_size_bytes: int = 64 * KIB
    message_size_bytes: int = 16 * MIB
    body_size_bytes: int = 0
    max_per_user: int = 5
    max_sandboxes: int = 0
    warm_min: int = 2
    warm_max: int = 10
    public_url: str = ""
    trusted_proxies: tuple[str, ...] = ()
    frame_ancestors: tuple[str, ...] = ()
    apps_domain: str = ""
    access: Access = PUBLIC
    auth: str = "anonymous"
    on_sign_in: str = "take"
    anonymous_life_s: float = 30 * DAY_S
    sign_in_life_s: float = 12 * 3600.0
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret: str = ""
    oidc_client_secret_file: str = ""
    oidc_scopes: str = Oidc().scopes
    oidc_user_claim: str = Oidc().user_claim
    oidc_groups_claim: str = Oidc().groups_claim
    header_user: str = Headers().user
    header_name: str = Headers().name
    header_email: str = Headers().email
    header_groups: str = Headers().groups
    home: str = ""
    dev: bool = False
    accept_weak: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    package_index: str = "default"  # pip's own
    build_network: str = "bridge"
    build_timeout_s: float = 600.0
    apps: Mapping[str, AppSettings] = {}

    # Plumbing: what compose and the images agree about, in the environment only.
    instance: str = "htagweb"
    run_volume: str = "htagweb_run"
    data_volume: str = "htagweb_data"
    sandbox_image: str = "htagweb-sandbox"
    published_on: str = ""
    secrets_dir: Path = Path("/secrets")
    apps_dir: Path = Path("/apps")
    wheels_dir: Path = Path("/wheels")
    data_dir: Path = Path("/data")
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

    def access_of(self, name: str) -> Access:
        """Who may open an app."""
        said = self.app(name).access
        return self.access if said is None else said

    def session_key(self, user: UserId, name: AppName) -> SessionKey:
        """Which record this user's sandbox of an app has."""
        return SessionKey(user, name if self.app(name).session == "app" else AppName(""))

    def reserves(self, name: str) -> bool:
        """Whether this app's host would be the platform's own."""
        own = urlsplit(self.public_url).hostname
        return bool(self.apps_domain) and own == f"{name}.{self.apps_domain}"

    def limits(self, name: str) -> AppLimits:
        """The limits of one app: its own values over the defaults."""
        values = {field: getattr(self, field) for field in AppLimits.__struct_fields__}
        return AppLimits(**(values | dict(self.app(name).overrides)))

    def all_limits(self) -> list[AppLimits]:
        """The defaults, and those of each app that the configuration names."""
        return [self.limits(name) for name in ("", *self.apps)]

    @property
    def own_url(self) -> str:
        """Where an operator who sits at this machine finds the platform; "" if that isn't known."""
        if self.public_url:
            return self.public_url
        port = self.published_on.rpartition(":")[2]
        return f"http://localhost:{port}" if self.dev and port.isdecimal() else ""

    def platform(self, warnings: tuple[str, ...] = ()) -> Platform:
        """What the gateway needs of all this."""
        return Platform(
            public_url=self.public_url,
            trusted_proxies=self.trusted_proxies,
            frame_ancestors=self.frame_ancestors,
            apps_domain=self.apps_domain,
            dev=self.dev,
            home=self.home,
            body_size=self.body_size_bytes,
            message_size=self.message_size_bytes,
            warnings=warnings,
            auth=self.auth,
            oidc=Oidc(
                issuer=self.oidc_issuer,
                client_id=self.oidc_client_id,
                client_secret=self.oidc_client_secret,
                scopes=self.oidc_scopes,
                user_claim=self.oidc_user_claim,
                groups_claim=self.oidc_groups_claim,
            ),
            headers=Headers(
                user=self.header_user, name=self.header_name, email=self.header_email, groups=self.header_groups
            ),
            anonymous_life_s=self.anonymous_life_s,
        )

    def __repr__(self) -> str:
        """Without the secret: settings end up in tracebacks."""
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name != "oidc_client_secret")
        return f"Settings({', '.join(shown)})"
