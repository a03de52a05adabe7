"""Reads htagweb.toml and the environment into the fields of Settings, or says everything that is wrong with them.

A schema library would stop at the first bad value and know no lines. An operator wants every problem in one go, each
with its line and what was expected there.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import toml
from .access import PUBLIC
from .keys import APP_KEYS, APP_LIMIT_KEYS, KEYS, LIMIT_KEYS, PLUMBING, Key
from .kinds import DNS_LABEL, Unexpected
from .toml import BadToml

DEFAULT_FILE = Path("/etc/htagweb/htagweb.toml")
MAX_CHARACTERS = 1024 * 1024
OTHER_NAMES = frozenset(
    "HTAGWEB_" + name
    for name in "CONFIG BIND PORT CA_FILE YES LISTEN_HOST LISTEN_PORT METRICS_PORT WORKERS SERVERS".split()
)
"""Names that mean something to this module, to compose, the scripts or the gateway, and nothing to Settings."""

RUNSC_PIDS = 256
"""gVisor's own sentry counts too, and dies with fewer."""

KeyPath = tuple[str, ...]


class ConfigError(Exception):
    """The configuration can't be used. `problems` has one line for each reason; `str()` is all of them."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def read(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of Settings that $HTAGWEB_CONFIG and the `HTAGWEB_…` variables give; the variables win.

    `apps` is a dict of the fields of AppSettings. Without a file at the default place all is default. An empty variable
    counts as absent: compose passes `${HTAGWEB_MEMORY:-}` on as that. Raises ConfigError.
    """
    path = file_of(environ)
    reader = _Reader(path.name)
    values = reader.environment(environ)
    try:
        reader.file(_text(path), values)
    except ConfigError as error:
        reader.problems += error.problems
    values.setdefault("dev", _is_loopback(values.get("published_on", "")))
    reader.settle_pids(values)
    reader.check_images(values)
    reader.settle_sign_in(values)
    if reader.problems:
        raise ConfigError(reader.problems)
    return values


def file_of(environ: Mapping[str, str]) -> Path:
    """Where the file is, or would be."""
    return Path(environ.get("HTAGWEB_CONFIG") or DEFAULT_FILE)


class _Reader:
    """Collects problems while it reads."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines: dict[KeyPath, int] = {}
        self._source: dict[str, str] = {}  # field -> where its value came from
        self.problems: list[str] = []

    def environment(self, environ: Mapping[str, str]) -> dict[str, Any]:
        fields = {key.env: (field, key) for field, key in (KEYS | PLUMBING).items()}
        values: dict[str, Any] = {}
        for name in sorted(environ):
            if not name.startswith("HTAGWEB_") or name in OTHER_NAMES or not environ[name]:
                continue
            if name not in fields:
                self.problems.append(f"{name}: unknown name{_did_you_mean(name, fields)}")
            else:
                self._take(name, *fields[name], environ[name], values)
        return values

    def file(self, text: str, values: dict[str, Any]) -> None:
        """Add what the file says to `values`, where the environment hasn't said it."""
        try:
            found = toml.read(text, most=MAX_CHARACTERS)
        except BadToml as error:
            self.problems.append(f"{self._file}:{error.line or 1}: {error}")
            return
        self._lines = key_lines(text)
        apps = found.pop("apps", {})
        fields = {key.name: (field, key) for field, key in KEYS.items()}
        from_file: dict[str, Any] = {}
        for name, raw in found.items():
            if name not in fields:
                self._unknown((name,), [*fields, "apps"])
            else:
                self._take(self._where((name,)), *fields[name], raw, from_file)
        values |= {field: value for field, value in from_file.items() if field not in values}
        if not isinstance(apps, dict):
            self._problem(("apps",), "expected tables such as [apps.counter]")
        else:
            values["apps"] = {name: self._app(name, table) for name, table in apps.items()}

    def check_images(self, values: dict[str, Any]) -> None:
        """Which images there may be is said once, for all apps."""
        for name, app in values.get("apps", {}).items():
            image = app.get("image")
            if image and image not in values.get("images", ()):
                where = self._where(("apps", name, "image"))
                self.problems.append(f"{where}: expected one of the list images, got {json.dumps(image)}")

    def settle_pids(self, values: dict[str, Any]) -> None:
        """Where the runtime is runsc, the default is another one, and fewer are refused."""
        apps = values.get("apps", {})
        runtime = values.get("runtime")
        if runtime == "runsc":
            values.setdefault("pids", RUNSC_PIDS)
            self._enough_pids(self._source.get("pids", ""), values["pids"])
        for name, app in apps.items():
            chosen = app["overrides"]
            if chosen.get("runtime", runtime) != "runsc":
                continue
            if "pids" in chosen:
                self._enough_pids(self._where(("apps", name, "pids")), chosen["pids"])
            elif values.get("pids", 0) < RUNSC_PIDS:
                chosen["pids"] = RUNSC_PIDS

    def settle_sign_in(self, values: dict[str, Any]) -> None:
        """What the way of signing in needs besides, and rules that nobody could meet."""
        auth = values.get("auth", "anonymous")
        said = self._source.get("auth", "")
        needs = {"oidc": ("oidc_issuer", "oidc_client_id"), "header": ("trusted_proxies",)}
        for field in needs.get(auth, ()):
            if not values.get(field):
                self.problems.append(f'{said}: with "{auth}" {field} must be set')
        if values.get("apps_domain") and not values.get("public_url"):
            self.problems.append(f"{self._source['apps_domain']}: public_url must be set too: visitors sign in there")
        if auth == "anonymous":
            tables: dict[KeyPath, object] = {(): values.get("access")}
            tables |= {("apps", name): app.get("access") for name, app in values.get("apps", {}).items()}
            for path, access in tables.items():
                if access not in (None, PUBLIC):
                    where = self._where((*path, "access")) if path else self._source["access"]
                    self.problems.append(f'{where}: nobody can sign in: set auth, or leave it "public"')
        if file := values.get("oidc_client_secret_file"):
            try:
                values["oidc_client_secret"] = Path(file).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "not UTF-8"
                self.problems.append(f"{self._source.get('oidc_client_secret_file', '')}: {file}: {why}")

    def _enough_pids(self, where: str, count: int) -> None:
        if count < RUNSC_PIDS:
            self.problems.append(f"{where}: expected at least {RUNSC_PIDS} with runtime runsc, got {count}")

    def _app(self, name: str, table: object) -> dict[str, Any]:
        if not DNS_LABEL.fullmatch(name):
            self._problem(("apps", name), "expected an app's name: small letters, digits and dashes")
        if not isinstance(table, dict):
            self._problem(("apps", name), f"expected a table [apps.{name}]")
            table = {}
        fields = {key.name: (field, key) for field, key in (APP_KEYS | LIMIT_KEYS | APP_LIMIT_KEYS).items()}
        values: dict[str, Any] = {}
        for word, raw in table.items():
            path = ("apps", name, word)
            if word not in fields:
                self._unknown(path, fields)
            else:
                self._take(self._where(path), *fields[word], raw, values)
        texts = {field: values.pop(field) for field in APP_KEYS if field in values}
        return {**texts, "overrides": values}

    def _take(self, where: str, field: str, key: Key, raw: object, values: dict[str, Any]) -> None:
        try:
            values[field] = key.kind.read(raw)
        except Unexpected as error:
            self.problems.append(f"{where}: {error}, got {json.dumps(raw, ensure_ascii=False, default=str)}")
        self._source.setdefault(field, where)

    def _unknown(self, path: KeyPath, known: Iterable[str]) -> None:
        word, in_app = path[-1], len(path) > 1
        if in_app and word in {key.name for key in KEYS.values()}:
            self._problem(path, "holds for all apps: it can't be set for one")
        elif not in_app and word in APP_KEYS | APP_LIMIT_KEYS:
            self._problem(path, "belongs to one app: into a table [apps.<name>]")
        elif word in PLUMBING:
            self._problem(path, f"is for the environment only: {PLUMBING[word].env}")
        else:
            self._problem(path, f"unknown key{_did_you_mean(word, known)}")

    def _problem(self, path: KeyPath, text: str) -> None:
        self.problems.append(f"{self._where(path)}: {text}")

    def _where(self, path: KeyPath) -> str:
        line = next((self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines), 1)
        return f"{self._file}:{line}: {'.'.join(path)}"


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line that each key of a valid TOML text is on, which tomllib doesn't tell.

    A statement is the fewest lines that are TOML by themselves. A table's header is one too, for the keys below it.
    """
    lines: dict[KeyPath, int] = {}
    header: KeyPath = ()
    first, statement = 1, ""
    for number, line in enumerate(text.split("\n"), 1):  # not at what else Unicode calls a line's end
        if not statement:
            first = number
        statement += line + "\n"
        if number > first and not any(end in line for end in ("]", '"""', "'''")):
            continue  # one of several lines can't end here, and trying each takes the square of their number
        try:
            found = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        paths = _paths(found)
        if statement.lstrip().startswith("["):
            header = max(paths, key=len)
        else:
            paths = [header + path for path in paths]
        for path in paths:
            lines.setdefault(path, first)
        statement = ""
    return lines


def _paths(table: Mapping[str, Any]) -> list[KeyPath]:
    found: list[KeyPath] = []
    for key, value in table.items():
        found.append((key,))
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = value[0]  # [[header]]: a table all the same, though we have no use for one
        if isinstance(value, dict):
            found += [(key, *rest) for rest in _paths(value)]
    return found


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        if path == DEFAULT_FILE:
            return ""
        problem = "no such file"
    except IsADirectoryError:
        problem = "is a folder; Docker makes one where the file it should mount is missing: remove it, make the file"
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 (byte {error.start})"
    except OSError as error:
        problem = error.strerror or str(error)
    raise ConfigError([f"{path}: {problem}"])


def _is_loopback(published_on: str) -> bool:
    """`published_on` is what compose was told: an address, with or without a port."""
    host = published_on.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
