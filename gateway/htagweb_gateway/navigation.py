"""Which requests are a person opening a page: only these may start an app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def navigation(scope: Mapping[str, Any]) -> bool:
    """Is this a person opening a page? A GET that literally accepts HTML, is no prefetch, and is a navigation where the
    browser says what it is (it doesn't over plain http to a name other than localhost)."""
    if scope.get("method") != "GET":
        return False
    accepts = False
    for name, value in scope["headers"]:
        if name == b"accept":
            accepts = b"text/html" in value.lower()
        elif name == b"sec-fetch-mode":
            if value != b"navigate":
                return False
        elif name in (b"sec-purpose", b"purpose", b"x-moz"):
            if b"prefetch" in value.lower() or b"preview" in value.lower():
                return False
    return accepts
