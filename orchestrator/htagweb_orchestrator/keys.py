"""The names that an operator may set: in htagweb.toml, in a table [apps.<name>] of it, and as `HTAGWEB_…`.

docs/configuration.md and the shipped htagweb.toml are tested against these tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from .kinds import (
    ACCESS,
    DIRECTORY,
    FILE,
    FLAG,
    IMAGE,
    IMAGES,
    INDEX,
    ISSUER,
    NETWORKS,
    ORIGINS,
    PUBLIC_URL,
    VARIABLES,
    Kind,
    choice,
    cores,
    count,
    duration,
    names,
    size,
    text,
    words,
)
from .promises import PROMISES


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    kind: Kind
    meaning: str

    @property
    def env(self) -> str:
        return "HTAGWEB_" + self.name.upper()


_TIMEOUT = duration("1s", "1h")
_LIFE = duration("1s", "365d")
_NAME = text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a name of letters, digits and . _ -")
# The engine's own networks are left out: they would be the host's, or another container's.
_NETWORK = text(r"(?!(host|none|bridge|default)$)[A-Za-z0-9][A-Za-z0-9_.-]*", "the name of a network of your own")
_IMAGE = text(IMAGE.pattern, "the name of an image")
_IMAGE_OR_EMPTY = text(f"({IMAGE.pattern})?", "the name of an image")
# `host` would put what pip talks to into the host's own network, its loopback included.
_BUILD_NETWORK = text(r"(?!host$)[A-Za-z0-9][A-Za-z0-9_.-]*", "bridge, none, or the name of a network of your own")
_APP_OR_EMPTY = text(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?", "the name of an app")
_DOMAIN = text(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.(?=.)|$))*", "a name such as apps.example.org, or nothing")
_FIELD = text(r"[A-Za-z0-9-]+", "the name of a header field")
_CLAIM = text(r"[!-~]+", "the name of a claim")
_ENTRY = text(r"([A-Za-z_]\w*(\.\w+)*:)?[A-Za-z_]\w*", "a class such as App, or module:Class, or module:app")
_ICON = text(r"(?!.*\.\.)[\w][\w./ -]*\.(svg|png)", "a path below apps/ that ends with .svg or .png")
_SECRETS = names(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", 'a list of file names such as ["api-key"]')

# Field of AppLimits -> key; these may stand in [apps.<name>] too.
LIMIT_KEYS = {
    "idle_timeout_s": Key("idle_timeout", _LIFE, "a sandbox is ended when its user has done nothing for this long"),
    "max_lifetime_s": Key("max_lifetime", _LIFE, "a sandbox is ended after this long, in use or not"),
    "start_timeout_s": Key("start_timeout", _TIMEOUT, "a sandbox that isn't ready by then has failed"),
    "interaction_timeout_s": Key("interaction_timeout", _TIMEOUT, "an app that takes longer over one click is ended"),
    "busy_max_s": Key("busy_max", duration("0s", "365d"), "how long an app may be busy, in all, without being ended"),
    "memory_bytes": Key("memory", size("32m", "1024g"), "memory of a sandbox, the files in /tmp included; no swap"),
    "cpus": Key("cpus", cores(0.05, 1024), "cores that a sandbox may use; 0.5 is half of one"),
    "pids": Key("pids", count(16, 32768), "processes and threads of a sandbox"),
    "tmp_bytes": Key("tmp", size("1m", "64g"), "room in a sandbox's /tmp"),
    "app_bytes": Key("app_size", size("64k", "16m"), "size of an app, all its files together"),
    "runtime": Key("runtime", _NAME, "the engine's runtime for sandboxes, such as runsc"),
}

# Field of AppLimits -> key, in [apps.<name>] only: nobody should open the network to every app at once.
APP_LIMIT_KEYS = {
    "network": Key("network", _NETWORK, "the engine's network that its sandboxes join"),
    "data_bytes": Key("data", size("1m", "64g"), "room for what each visitor keeps in `/data`"),
}

# Field of AppSettings -> key, in [apps.<name>] only.
APP_KEYS = {
    "title": Key("title", text(), "the name in the catalogue"),
    "description": Key("description", text(), "the line below it"),
    "entry": Key(
        "entry", _ENTRY, "what to serve, where the file leaves it open: `Class`, `module:Class`, `module:app`"
    ),
    "icon": Key("icon", _ICON, "a picture below `apps/` for the catalogue: SVG or PNG, 64k at most"),
    "access": Key("access", ACCESS, "who may open it"),
    "session": Key(
        "session", choice("user", "app"), "one for all apps of a user, or one that this app keeps to itself"
    ),
    "image": Key("image", _IMAGE_OR_EMPTY, "what it runs on, one of `images`; its requirements are not installed then"),
    "max_sandboxes": Key("max_sandboxes", count(0, 100_000), "sandboxes of this app; 0 for no limit of its own"),
    "http_only": Key("http_only", FLAG, "its pages open no WebSocket"),
    "parano": Key(
        "parano", FLAG, "encrypt between its pages and its sandboxes, so that nothing between can read along"
    ),
    "max_per_user": Key("max_per_user", count(1, 1000), "it opens while its visitor has fewer sandboxes, of all apps"),
    "warm_min": Key(
        "warm_min", count(0, 100), "sandboxes that wait for its visitors, whether it was opened before or not"
    ),
    "warm_max": Key("warm_max", count(0, 1000), "as many of them while many come; 0 for none on its behalf"),
    "env": Key("env", VARIABLES, "variables of its environment"),
    "secrets": Key("secrets", _SECRETS, "files of the folder `secrets` that it finds in `/run/secrets`"),
}

# Field of Settings -> key.
KEYS = LIMIT_KEYS | {
    "orphan_timeout_s": Key(
        "orphan_timeout", duration("1s", "1d"), "without an orchestrator, a sandbox ends itself then"
    ),
    # A change of it travels in one frame of the control protocol, which has 256k.
    "session_size_bytes": Key("session_size", size("1k", "192k"), "size of one user's session, as JSON"),
    "message_size_bytes": Key("message_size", size("64k", "256m"), "size of one WebSocket message"),
    "body_size_bytes": Key("body_size", size("0", "1024g"), "size of one request's body; 0 for no limit"),
    "max_per_user": Key("max_per_user", count(1, 1000), "sandboxes that one user may have at a time"),
    "max_sandboxes": Key("max_sandboxes", count(0, 100_000), "sandboxes in all; 0 for as many as fit into memory"),
    "warm_min": Key("warm_min", count(0, 100), "sandboxes of each kind that are started before anybody asks"),
    "warm_max": Key("warm_max", count(0, 1000), "as many of them while many visitors come; 0 for no warm pool"),
    "public_url": Key("public_url", PUBLIC_URL, "the address that visitors use; then no other host name is answered"),
    "trusted_proxies": Key("trusted_proxies", NETWORKS, "addresses or networks whose X-Forwarded headers are believed"),
    "frame_ancestors": Key("frame_ancestors", ORIGINS, "other sites whose pages may show apps in a frame"),
    "apps_domain": Key("apps_domain", _DOMAIN, "below which each app gets a host of its own"),
    "access": Key("access", ACCESS, "who may open an app that doesn't say otherwise"),
    "auth": Key("auth", choice("anonymous", "password", "oidc", "header"), "how people sign in; anonymous: not at all"),
    "on_sign_in": Key("on_sign_in", choice("take", "leave"), "what becomes of a visitor's session and apps then"),
    "anonymous_life_s": Key("anonymous_life", _LIFE, "an anonymous visitor who stays away this long is a new one"),
    "sign_in_life_s": Key("sign_in_life", _LIFE, "a sign-in is over after this long"),
    "oidc_issuer": Key("oidc_issuer", ISSUER, "the OpenID Connect provider's address"),
    "oidc_client_id": Key("oidc_client_id", text(), "what it knows this server as"),
    "oidc_client_secret": Key("oidc_client_secret", text(), "the secret that goes with it; better in a file"),
    "oidc_client_secret_file": Key("oidc_client_secret_file", FILE, "a file with that secret alone"),
    "oidc_scopes": Key("oidc_scopes", text(), "what is asked of it"),
    "oidc_user_claim": Key("oidc_user_claim", _CLAIM, "the claim that tells people apart"),
    "oidc_groups_claim": Key("oidc_groups_claim", _CLAIM, "the claim with a person's groups"),
    "header_user": Key("header_user", _FIELD, "the field in which a trusted proxy says who is asking"),
    "header_name": Key("header_name", _FIELD, "the field with his full name"),
    "header_email": Key("header_email", _FIELD, "the field with his email address"),
    "header_groups": Key("header_groups", _FIELD, "the field with his groups, separated by commas"),
    "home": Key("home", _APP_OR_EMPTY, "the app that `/` leads to, in place of the catalogue"),
    "dev": Key("dev", FLAG, "show tracebacks in pages"),
    "accept_weak": Key("accept_weak", words(*PROMISES), "promises of the wall that this engine may break; see doctor"),
    "images": Key("images", IMAGES, "images of your own that apps may be given, by their key image"),
    "package_index": Key(
        "package_index", INDEX, "the index that apps' packages come from besides the folder wheels, or none"
    ),
    "build_network": Key("build_network", _BUILD_NETWORK, "the engine's network on the way to it, or none"),
    "build_timeout_s": Key(
        "build_timeout", duration("10s", "1d"), "installing an app's packages has failed after this"
    ),
}

# Field of Settings -> variable without a twin in the file.
PLUMBING = {
    "instance": Key("instance", _NAME, "the installation that sandboxes belong to"),
    "data_volume": Key("data_volume", _NAME, "the volume with what visitors keep"),
    "run_volume": Key("run_volume", _NAME, "the volume with the sandboxes' directories"),
    "sandbox_image": Key("sandbox_image", _IMAGE, "what sandboxes are made of"),
    "published_on": Key("published_on", text(), "the address that the gateway is published on"),
    "secrets_dir": Key("secrets_dir", DIRECTORY, "the folder with the apps' secrets"),
    "apps_dir": Key("apps_dir", DIRECTORY, "the folder with the apps"),
    "wheels_dir": Key("wheels_dir", DIRECTORY, "the folder with wheels for apps"),
    "data_dir": Key("data_dir", DIRECTORY, "where that volume is mounted"),
    "run_dir": Key("run_dir", DIRECTORY, "where that volume is mounted"),
    "ctl_dir": Key("ctl_dir", DIRECTORY, "the gateway's way to the orchestrator: a folder with a socket"),
    "admin_dir": Key("admin_dir", DIRECTORY, "the operators' way: another"),
    "state_dir": Key("state_dir", DIRECTORY, "sessions, keys, published versions"),
    "gateway_uid": Key("gateway_uid", count(0, 2**31), "the only user that may connect to the gateway's socket"),
}

DEFAULTS_IN_WORDS = {
    "pids": "64; 256 with runtime runsc",
    "dev": "true while published on a loopback address only",
}
"""Where a default depends on something."""
