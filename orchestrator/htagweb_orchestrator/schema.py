"""The JSON Schema of htagweb.toml, made from the keys: editors complete and check the file by it.

`python -m htagweb_orchestrator.schema` prints it; docs/htagweb.schema.json is that, and a test compares them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .keys import APP_KEYS, APP_LIMIT_KEYS, DEFAULTS_IN_WORDS, KEYS, LIMIT_KEYS, Key
from .kinds import DNS_LABEL
from .settings import Settings

Schema = dict[str, Any]


def schema() -> Schema:
    defaults = Settings()
    app = _table(_property(key) for key in (APP_KEYS | LIMIT_KEYS | APP_LIMIT_KEYS).values())
    whole = _table(_property(key, _default(key, getattr(defaults, field))) for field, key in KEYS.items())
    whole["properties"]["apps"] = {
        "type": "object",
        "description": "what differs for one app, by its name",
        "propertyNames": {"pattern": f"^(?:{DNS_LABEL.pattern})$"},
        "additionalProperties": app,
    }
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "htagweb.toml", **whole}


def text() -> str:
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _table(properties: Iterable[tuple[str, Schema]]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _property(key: Key, default: str = "") -> tuple[str, Schema]:
    said = f"{key.meaning} (default: {default})" if default else key.meaning
    return key.name, {"description": said, **key.kind.schema}


def _default(key: Key, value: object) -> str:
    return DEFAULTS_IN_WORDS.get(key.name) or key.kind.show(value)


if __name__ == "__main__":
    print(text(), end="")
