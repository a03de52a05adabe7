"""A browser's tab with an htag 1 page in it, and users with cookies of their own, on one TestClient."""

from __future__ import annotations

import html as escapes
import json
import re
import secrets
import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it wants another client than the one that is here
    from starlette.testclient import TestClient as TestClient
    from starlette.testclient import WebSocketTestSession

Frame = dict[str, Any]


class User:
    """One visitor. `client` is shared by all; each brings his own cookie."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.cookie = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"cookie": self.cookie} if self.cookie else {}

    def get(self, path: str, **options: Any) -> Any:
        return self._keep(self.client.get(path, headers={**self.headers, **options.pop("headers", {})}, **options))

    def post(self, path: str, **options: Any) -> Any:
        return self._keep(self.client.post(path, headers=self.headers, **options))

    def _keep(self, answer: Any) -> Any:
        self.client.cookies.clear()
        for each in answer.headers.get_list("set-cookie"):
            self.cookie = each.partition(";")[0]
        return answer

    def websocket(self, path: str) -> WebSocketTestSession:
        return self.client.websocket_connect(path, headers=self.headers)

    def open(self, path: str = "/") -> Tab:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return Tab(self, answer.text)


class Tab:
    def __init__(self, user: User, page: str) -> None:
        self.user = user
        self.page = page
        self.base = _found(r'data-base="([^"]+)"', page)
        self.instance = _found(r'INSTANCE = "([^"]+)"', page)
        self.name = secrets.token_hex(4)
        self.n = self.got = 0

    @property
    def text(self) -> str:
        """What is shown: of <body>, without the tags."""
        return escapes.unescape(re.sub(r"<[^>]+>", " ", self.page.partition("<body")[2].partition(">")[2])).strip()

    def call_of(self, label: str) -> Frame:
        script = escapes.unescape(_found(rf'<button[^>]*onclick="([^"]*)"[^>]*>{re.escape(label)}</button>', self.page))
        found = re.search(r'"id": (\d+), "method": ("\w+"|null), "args": (null|\[.*?\]), "kargs": (null|{.*?})', script)
        assert found, script
        return {
            **dict(zip(("id", "method", "args", "kargs"), map(json.loads, found.groups()), strict=True)),
            "event": {},
        }

    def message(self, label: str) -> Frame:
        self.n += 1
        return {"n": self.n, "got": self.got, "o": self.call_of(label)}

    def send(self, label: str) -> Any:
        """A click by POST: the answer as it came."""
        said = {"instance": self.instance, "page": self.name, **self.message(label)}
        return self.user.post(f"{self.base}_post", json=said)

    def click(self, label: str) -> Frame:
        """By POST; returns the actions of the last frame."""
        answer = self.send(label)
        assert answer.status_code == 200, answer.text
        frames = answer.json()["frames"]
        self.got = frames[-1]["s"]
        actions: Frame = frames[-1]["actions"]
        return actions

    def socket(self) -> WebSocketTestSession:
        return self.user.websocket(f"{self.base}_ws?instance={self.instance}&page={self.name}&got={self.got}")


def _found(pattern: str, page: str) -> str:
    found = re.search(pattern, page)
    assert found, page
    return found[1]
