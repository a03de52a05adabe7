"""Plays one example as a browser would, in a process of its own: `python tests/player.py FILE`.

`sys.path` has the site directories of one generation. Each line of stdin is a command in JSON, each line of stdout its
answer:

  {"do": "open", "query": "41"}                             a new instance, as in a new sandbox; the session is kept
  {"do": "click", "button": "one more", "rounds": 3}        by its label or text; `rounds` bounds a generator of htag 1
  {"do": "call", "method": "receive", "args": […]}          htag 1: what a button's script sends with values of the page
  {"do": "event", "tag": "form", "event": "submit", "data": {…}}   htag 2: on the first such element, `kind` is its type
  {"do": "push"}                                            htag 1: wait for the next update that nobody asked for

The answer is {"page": the page's HTML after it, "replies": [what the server sent meanwhile]}.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import htag


class WebServer:
    """What the harness offers in a sandbox: to run is to do nothing."""

    def __init__(self, app: type) -> None:
        self.app = app

    def run(self) -> None:
        pass


class Elements(HTMLParser):
    """Every element of a page: its name, its attributes and the text directly in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)

    def button(self, name: str) -> dict[str, str | None]:
        for tag, attributes, text in self.found:
            if tag == "button" and name in (attributes.get("aria-label"), "".join(text).strip()):
                return attributes
        raise LookupError(f"no button {name!r}")

    def first(self, name: str, kind: str | None) -> dict[str, str | None]:
        for tag, attributes, _ in self.found:
            if tag == name and kind in (None, attributes.get("type")):
                return attributes
        raise LookupError(f"no {name} of type {kind}")


class First:
    """htag 1, through the renderer that every server of it uses."""

    def __init__(self, app: type) -> None:
        self.app = app
        self.session: dict[str, Any] = {}
        self.pushes: asyncio.Queue[Any] = asyncio.Queue()

    async def open(self, query: str = "") -> list[Any]:
        from htag.render import HRenderer

        words = [word.partition("=") for word in query.split("&") if word]
        positional = tuple(name for name, equals, _ in words if not equals)
        named = {name: value or None for name, equals, value in words if equals}
        self.renderer = HRenderer(
            self.app, "/* client */", lambda: None, (positional, named), fullerror=True, session=self.session
        )
        self.renderer.sendactions = self._pushed
        return []

    async def _pushed(self, actions: Any) -> bool:
        await self.pushes.put(actions)
        return True

    async def page(self) -> str:
        return str(self.renderer)

    async def click(self, button: str, rounds: int = 100) -> list[Any]:
        replies = [await self._run(Elements(await self.page()).button(button)["onclick"] or "")]
        while "next" in replies[-1] and len(replies) < rounds:
            replies.append(await self._run(replies[-1]["next"]))
        return replies

    async def _run(self, script: str) -> Any:
        call = re.search(r'"id": (\d+), "method": ("\w+"|null), "args": (null|\[.*?\]), "kargs": (null|{.*?})', script)
        assert call, script
        return await self.renderer.interact(*map(json.loads, call.groups()), {})

    async def call(self, method: str, args: list[Any]) -> list[Any]:
        return [await self.renderer.interact(id(self.renderer.tag), method, args, {}, {})]

    async def push(self) -> list[Any]:
        while not self.pushes.empty():
            self.pushes.get_nowait()
        return [await self.pushes.get()]


class Second:
    """htag 2, through its ASGI app."""

    def __init__(self, app: type) -> None:
        self.app = app
        self.session: dict[str, Any] = {}

    async def open(self, query: str = "") -> list[Any]:
        self.asgi = htag.WebApp(self.app, debug=True).app
        return []

    async def page(self) -> str:
        return await self._request("GET", "/")

    async def click(self, button: str) -> list[Any]:
        page = await self.page()
        return await self._send(page, Elements(page).button(button), "click", {})

    async def event(self, tag: str, event: str, data: dict[str, Any], kind: str | None = None) -> list[Any]:
        page = await self.page()
        return await self._send(page, Elements(page).first(tag, kind), event, data)

    async def _send(self, page: str, element: dict[str, str | None], event: str, data: dict[str, Any]) -> list[Any]:
        token = re.search(r'HTAG_CSRF = "(\w+)"', page)
        assert token
        message = {"id": element["id"], "event": event, "data": {"callback_id": "c", **data}, "fallback": True}
        answer = await self._request("POST", "/event", json.dumps(message), token[1])
        return [json.loads(payload) for payload in json.loads(answer)["payloads"]]

    async def _request(self, method: str, path: str, body: str = "", token: str = "") -> str:
        headers = [(b"cookie", b"htag_sid=player"), (b"x-htag-token", token.encode()), (b"host", b"player")]
        scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "query_string": b""}
        scope |= {"headers": headers, "session": self.session, "scheme": "http", "server": ("player", 80)}
        got = bytearray()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body.encode(), "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] == 200, message
            got.extend(message.get("body", b""))

        await self.asgi(scope, receive, send)
        return got.decode()


def load(file: Path) -> type:
    """The module's `App`. It is not `__main__` to itself, as in a sandbox."""
    sys.modules["htagweb"] = types.ModuleType("htagweb")
    sys.modules["htagweb"].WebServer = WebServer  # type: ignore[attr-defined]
    sys.modules["htagweb"].user = lambda: None  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: type = module.App
    return app


async def play(player: First | Second, answers: Any) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        replies = await getattr(player, command.pop("do"))(**command)
        answers.write(json.dumps({"page": await player.page(), "replies": replies}) + "\n")
        answers.flush()


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # what an app or htag prints is no answer
    app = load(Path(sys.argv[1]))
    asyncio.run(play(Second(app) if hasattr(htag, "WebApp") else First(app), answers))
