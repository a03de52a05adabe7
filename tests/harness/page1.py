"""An htag 1 page without a browser."""

from __future__ import annotations

import asyncio
import html as escapes
import json
import re

from websockets.asyncio.client import ClientConnection

from tests.harness.driver import DEADLINE_S, Frame, Harness


class Page:
    """An htag 1 page as its own script would be: it numbers messages, and knows which frames it has got."""

    def __init__(self, harness: Harness, html: str, name: str = "page-a") -> None:
        self.harness = harness
        self.html = html
        self.name = name
        self.n = 0
        self.got = 0
        start = html.index('INSTANCE = "') + len('INSTANCE = "')
        self.instance = html[start : html.index('"', start)]

    @classmethod
    async def open(cls, harness: Harness, query: str = "", name: str = "page-a") -> Page:
        answer = await harness.http.get("/" + query)
        assert answer.status_code == 200, answer.text
        return cls(harness, answer.text, name)

    @property
    def path(self) -> str:
        return f"?instance={self.instance}&page={self.name}&got={self.got}"

    def call_of(self, label: str) -> Frame:
        """What a click on the button with this text sends."""
        found = re.search(rf'<button[^>]*onclick="([^"]*)"[^>]*>{re.escape(label)}</button>', self.html)
        assert found, f"no button {label!r} in {self.html}"
        return self.call_in(escapes.unescape(found[1]))

    @staticmethod
    def call_in(script: str) -> Frame:
        found = re.search(r'"id": (\d+), "method": ("\w+"|null), "args": (null|\[.*?\]), "kargs": (null|{.*?})', script)
        assert found, script
        return {
            **dict(zip(("id", "method", "args", "kargs"), map(json.loads, found.groups()), strict=True)),
            "event": {},
        }

    def message(self, o: Frame) -> Frame:
        self.n += 1
        return {"n": self.n, "got": self.got, "o": o}

    def text(self, o: Frame) -> str:
        """A new message as it goes over a WebSocket."""
        return json.dumps(self.message(o))

    def take(self, frame: Frame) -> Frame:
        self.got = max(self.got, frame["s"])
        return frame

    async def post(self, message: Frame) -> list[Frame]:
        answer = await self.harness.http.post("/_post", json={"instance": self.instance, "page": self.name, **message})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return [body] if "reload" in body else [self.take(frame) for frame in body["frames"]]

    async def click(self, label: str) -> Frame:
        """By POST; returns the actions of the last frame."""
        frames = await self.post(self.message(self.call_of(label)))
        actions: Frame = frames[-1]["actions"]
        return actions


async def receive(websocket: ClientConnection) -> Frame:
    async with asyncio.timeout(DEADLINE_S):
        frame: Frame = json.loads(await websocket.recv())
        return frame
