"""The kinds of value that a key of the configuration takes: how each is read, and how it is shown again."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from . import access
from .model import Access
from .quantities import duration_s, show_duration, show_size, size_bytes

DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""What an app's name must be: it is the first segment of a path now, and may be a host name later."""


MAX_VARIABLES_BYTES = 64 * 1024
_VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
IMAGE = re.compile(r"[a-z0-9][\w./:@-]*")


class Unexpected(ValueError):
    """The text says what was expected instead."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`read` takes a TOML value or an environment variable's text, and raises Unexpected. `show` is its reverse.

    `schema` is what JSON Schema can say of the TOML value, for editors: `read` may want more, never less.
    """

    read: Callable[[object], object]
    show: Callable[[object], str]
    schema: Mapping[str, object]


def duration(at_least: str, at_most: str) -> Kind:
    def read(raw: object) -> float:
        seconds = _quantity(raw, duration_s, "a duration such as 90s, 15m, 12h")
        return float(_within(seconds, duration_s(at_least), duration_s(at_most), at_least, at_most))

    bounds = {"minimum": duration_s(at_least), "maximum": duration_s(at_most)}
    schema = {"type": ["string", "number"], "pattern": r"^\s*\d+(\.\d+)?\s*[smhdSMHD]?\s*$", **bounds}
    return Kind(read, lambda value: show_duration(_number(value)), schema)


def size(at_least: str, at_most: str) -> Kind:
    def read(raw: object) -> int:
        whole = _quantity(raw, size_bytes, "a size such as 256m, 64k, 1g")
        return int(_within(whole, size_bytes(at_least), size_bytes(at_most), at_least, at_most))

    bounds = {"minimum": size_bytes(at_least), "maximum": size_bytes(at_most)}
    schema = {"type": ["string", "number"], "pattern": r"^\s*\d+(\.\d+)?\s*[bkmgBKMG]?\s*$", **bounds}
    return Kind(read, lambda value: show_size(int(_number(value))) if value else "0", schema)


def count(at_least: int, at_most: int) -> Kind:
    def read(raw: object) -> int:
        whole = _within(_quantity(raw, int, "a whole number"), at_least, at_most)
        if whole != int(whole):
            raise Unexpected("expected a whole number")
        return int(whole)

    return Kind(read, str, {"type": "integer", "minimum": at_least, "maximum": at_most})


def cores(at_least: float, at_most: float) -> Kind:
    def read(raw: object) -> float:
        return float(_within(_quantity(raw, float, "a number such as 1 or 0.5"), at_least, at_most))

    schema = {"type": "number", "minimum": at_least, "maximum": at_most}
    return Kind(read, lambda value: f"{_number(value):g}", schema)


ANY_TEXT = r"[^\x00-\x1f]*"


def text(pattern: str = ANY_TEXT, expected: str = "a text on one line") -> Kind:
    def read(raw: object) -> str:
        if not isinstance(raw, str) or re.fullmatch(pattern, raw) is None:
            raise Unexpected(f"expected {expected}")
        return raw

    return Kind(read, str, _matching(pattern))


def _read_flag(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in ("true", "false"):
        return raw.lower() == "true"
    raise Unexpected("expected true or false")


def _read_networks(raw: object) -> tuple[str, ...]:
    items = raw.replace(",", " ").split() if isinstance(raw, str) else raw
    expected = "expected a list of addresses or networks such as 10.0.0.1 or 10.0.0.0/8"
    if not isinstance(items, list):
        raise Unexpected(expected)
    for item in items:
        try:
            ipaddress.ip_network(item if isinstance(item, str) else "")
        except ValueError as error:
            # "10.0.0.1/8 has host bits set" is worth showing: the operator meant one or the other.
            raise Unexpected(f"{expected} ({error})" if "host bits" in str(error) else expected) from None
    return tuple(items)


_ORIGIN = r"https?://[a-z0-9.*-]+(:[0-9]{1,5})?"


def _read_origins(raw: object) -> tuple[str, ...]:
    items = raw.replace(",", " ").split() if isinstance(raw, str) else raw
    if not isinstance(items, list) or not all(isinstance(each, str) and re.fullmatch(_ORIGIN, each) for each in items):
        raise Unexpected("expected a list of addresses such as https://intranet.example.org, without a path")
    return tuple(dict.fromkeys(items))


def words(*known: str) -> Kind:
    """Some of these words."""
    expected = f"expected a list of: {', '.join(known)}"

    def read(raw: object) -> tuple[str, ...]:
        items = raw.replace(",", " ").split() if isinstance(raw, str) else raw
        if not isinstance(items, list) or any(item not in known for item in items):
            raise Unexpected(expected)
        return tuple(dict.fromkeys(items))

    return Kind(read, _show_list, _list_of({"enum": list(known)}))


def choice(*known: str) -> Kind:
    """One of these words."""
    expected = f"expected one of: {', '.join(known)}"

    def read(raw: object) -> str:
        if raw not in known:
            raise Unexpected(expected)
        return str(raw)

    return Kind(read, str, {"enum": list(known)})


def _read_access(raw: object) -> Access:
    try:
        return access.parse(raw)
    except ValueError as error:
        raise Unexpected(str(error)) from None


def names(pattern: str, expected: str) -> Kind:
    """A list of texts that fit `pattern`, each once."""

    def read(raw: object) -> tuple[str, ...]:
        if not isinstance(raw, list) or not all(isinstance(item, str) and re.fullmatch(pattern, item) for item in raw):
            raise Unexpected(f"expected {expected}")
        return tuple(dict.fromkeys(raw))

    return Kind(read, _show_list, _list_of(_matching(pattern)))


def _read_variables(raw: object) -> dict[str, str]:
    expected = 'expected a table of texts such as {LANGUAGE = "en"}'
    if not isinstance(raw, dict):
        raise Unexpected(expected)
    for name, value in raw.items():
        if re.fullmatch(_VARIABLE, name) is None or not isinstance(value, str) or "\0" in value:
            raise Unexpected(f"{expected}; {name} is none")
    if sum(len(name.encode()) + len(value.encode()) for name, value in raw.items()) > MAX_VARIABLES_BYTES:
        raise Unexpected(f"expected at most {show_size(MAX_VARIABLES_BYTES)} in all")
    return raw


def _read_images(raw: object) -> tuple[str, ...]:
    items = raw.replace(",", " ").split() if isinstance(raw, str) else raw
    if not isinstance(items, list) or not all(isinstance(item, str) and IMAGE.fullmatch(item) for item in items):
        raise Unexpected('expected a list of names of images such as ["our-numpy:3"]')
    return tuple(dict.fromkeys(items))


def _read_index(raw: object) -> str:
    if raw in ("", "none"):
        return ""
    if not isinstance(raw, str) or re.fullmatch(r"https?://[!-~]+|default", raw) is None:
        raise Unexpected("expected the address of a package index, default for pip's own, or none")
    return raw


def _read_public_url(raw: object) -> str:
    expected = "expected an address such as https://apps.example.org, without a path"
    if raw == "":
        return ""
    if not isinstance(raw, str) or re.fullmatch(r"[\x21-\x7e]+", raw) is None:
        raise Unexpected(expected)
    url = raw.removesuffix("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc or url != f"{parts.scheme}://{parts.netloc}":
        raise Unexpected(expected)
    return url.lower()


def _read_issuer(raw: object) -> str:
    if raw == "":
        return ""
    parts = urlsplit(raw) if isinstance(raw, str) and re.fullmatch(r"[\x21-\x7e]+", raw) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc or parts.query or "@" in parts.netloc:
        raise Unexpected("expected the provider's address such as https://id.example.org/realms/staff")
    return str(raw)


def _read_file(raw: object) -> str:
    if not isinstance(raw, str) or (raw and not raw.startswith("/")):
        raise Unexpected("expected an absolute path")
    return raw


def _read_directory(raw: object) -> Path:
    if not isinstance(raw, str) or not raw.startswith("/"):
        raise Unexpected("expected an absolute path")
    return Path(raw)


def _show_list(value: object) -> str:
    return "[]" if not value else str(value)


def _matching(pattern: str) -> dict[str, object]:
    # fullmatch, as JSON Schema says it.
    return {"type": "string"} if pattern == ANY_TEXT else {"type": "string", "pattern": f"^(?:{pattern})$"}


def _list_of(items: Mapping[str, object]) -> dict[str, object]:
    return {"type": "array", "items": items}


FLAG = Kind(_read_flag, lambda value: str(value).lower(), {"type": "boolean"})
NETWORKS = Kind(_read_networks, _show_list, _list_of({"type": "string"}))
ORIGINS = Kind(_read_origins, _show_list, _list_of(_matching(_ORIGIN)))
IMAGES = Kind(_read_images, _show_list, _list_of(_matching(IMAGE.pattern)))
INDEX = Kind(_read_index, str, _matching("|none|default|https?://.+"))
PUBLIC_URL = Kind(_read_public_url, str, _matching("|https?://[^/@]+/?"))
VARIABLES = Kind(
    _read_variables,
    lambda value: "{}" if not value else str(value),
    {"type": "object", "propertyNames": {"pattern": f"^{_VARIABLE}$"}, "additionalProperties": {"type": "string"}},
)
DIRECTORY = Kind(_read_directory, str, _matching("/.*"))
FILE = Kind(_read_file, str, _matching("|/.*"))
ISSUER = Kind(_read_issuer, str, _matching("|https?://[^?@]+"))
ACCESS = Kind(
    _read_access,
    lambda value: access.show(value) if isinstance(value, tuple) else str(value),
    {"anyOf": [{"enum": ["public", "signed-in"]}, {"type": "string", "pattern": ":"}, _list_of({"type": "string"})]},
)


def _quantity(raw: object, parse: Callable[[str], float], expected: str) -> float:
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return raw
    try:
        return parse(raw if isinstance(raw, str) else "")
    except ValueError:
        raise Unexpected(f"expected {expected}") from None


def _within(value: float, low: float, high: float, low_text: str = "", high_text: str = "") -> float:
    # Written this way round because nan compares false with everything.
    if not value >= low:
        raise Unexpected(f"expected at least {low_text or f'{low:g}'}")
    if not value <= high:
        raise Unexpected(f"expected at most {high_text or f'{high:g}'}")
    return value


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return value
