"""An htag 2 page without a browser."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.harness.driver import Frame, Harness


class Page:
    def __init__(self, html: str) -> None:
        self.html = html
        found = re.search(r'HTAG_CSRF = "(\w+)"', html)
        assert found
        self.token = found[1]
        self.clicks = 0

    def event(self, label: str, callback_id: str = "") -> Frame:
        found = re.search(rf'<button[^>]* id="([^"]*)"[^>]*>{label}</button>', self.html)
        assert found, self.html
        self.clicks += 1
        return {"id": found[1], "event": "click", "data": {"callback_id": callback_id or f"c{self.clicks}"}}

    async def post(self, harness: Harness, event: Frame) -> list[Any]:
        headers = {"x-htag-token": self.token}
        answer = await harness.http.post("/event", json={**event, "fallback": True}, headers=headers)
        assert answer.status_code == 200, answer.text
        payloads = answer.json()["payloads"]
        return [json.loads(payload) if isinstance(payload, str) else payload for payload in payloads]
