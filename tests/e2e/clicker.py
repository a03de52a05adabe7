"""A visitor who clicks on and on, and knows at each click what the answer must be."""

from __future__ import annotations

import asyncio
import json
import re
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from tests.harness.page1 import Page
from tests.harness.page2 import Page as Page2

PATIENCE_S = 30.0  # until a click is answered, whatever was killed meanwhile
PAGE = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
Frame = dict[str, Any]


class Clicker:
    """As the page of an app does: sends again what was not answered, and is counted once. What differs between the two
    htags is below.

    `killed` holds the sandboxes that may have lost what they had in memory; the list of `complaints` must stay empty.
    """

    app: str

    def __init__(self, url: str, name: str, rng: Random, killed: set[str]) -> None:
        self.name = name
        self.sandbox = ""
        self.clicks = 0
        self.kept = 0  # clicks that the session is known to hold
        self.answered = 0
        self.starts = 0
        self.complaints: list[str] = []
        self._url = url
        self._rng = rng
        self._killed = killed
        self._by_socket = rng.random() < 0.5
        self._socket: ClientConnection | None = None
        self._number = 0
        self._http = httpx.AsyncClient(base_url=url, headers={"Origin": url}, timeout=10, trust_env=False)

    # Of one htag:

    def _path(self) -> str:
        """Of the page, with the visitor's name for the app."""
        raise NotImplementedError

    def _is_page(self, html: str) -> bool:
        raise NotImplementedError

    def _take_page(self, html: str) -> None:
        raise NotImplementedError

    def _message(self) -> Frame:
        """What one more click sends."""
        raise NotImplementedError

    async def _posted(self, message: Frame) -> list[Frame] | None:
        """The answer to it; None if there was none."""
        raise NotImplementedError

    async def _sent(self, message: Frame, socket: ClientConnection) -> list[Frame] | None:
        """Likewise, by the socket."""
        raise NotImplementedError

    def _socket_path(self) -> str:
        raise NotImplementedError

    async def run(self, over: asyncio.Event) -> None:
        try:
            await self._enter()
            while not over.is_set():
                await self._click()
                await asyncio.sleep(self._rng.uniform(0.05, 0.5))
            await self._click()
        except TimeoutError:
            self._complain(f"no answer within {PATIENCE_S:g} s")
        finally:
            await self._drop()
            await self._http.aclose()

    def _complain(self, what: str) -> None:
        self.complaints.append(f"{self.name}, sandbox {self.sandbox}, click {self.clicks + 1}: {what}")

    def _check(self, status: int) -> None:
        """503 says that somebody is away for a moment; any other error of the server's needs a sandbox that was killed,
        also where asking again mends it."""
        if status >= 500 and status != 503 and self.sandbox not in self._killed:
            self._complain(f"status {status}, and nobody killed its sandbox")

    # -- opening -----------------------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        """Open the app, and see that it is one's own; begins anew where the last sandbox ended."""
        await self._drop()
        path = f"/{self.app}/{self._path()}"
        html, status = None, {}
        async with asyncio.timeout(PATIENCE_S):
            while html is None or not status:
                html, status = await self._app_page(path), await self._status()
                await asyncio.sleep(0.1)
        self.sandbox, self.clicks = str(status["sandbox"]), 0
        self.starts += 1
        self._number += 1
        self._take_page(html)
        name, clicks, kept = self._tally(html)
        if name != self.name:
            self._complain(f"got the page of {name}")
        if not self.kept <= kept <= self.kept + 1:  # one click may have been done and not answered
            self._complain(f"the session holds {kept} clicks after {self.kept}")
        self.clicks, self.kept = clicks, kept

    async def _app_page(self, path: str) -> str | None:
        try:
            answer = await self._http.get(path, headers=PAGE, follow_redirects=True)
            self._check(answer.status_code)
            if answer.status_code == 200 and self._is_page(answer.text):
                return answer.text
            if (await self._status()).get("state") in ("ended", "none"):
                answer = await self._http.get(f"/-/start?app={self.app}&next={quote(path, safe='')}", headers=PAGE)
                self._check(answer.status_code)
        except httpx.HTTPError:
            pass
        return None

    async def _status(self) -> Frame:
        """What the platform says of the app; {} while nobody can."""
        try:
            answer = await self._http.get("/-/status", params={"app": self.app})
            self._check(answer.status_code)
            found: Frame = answer.json() if answer.status_code == 200 else {}
            return found
        except (httpx.HTTPError, json.JSONDecodeError):
            return {}

    # -- clicking ----------------------------------------------------------------------------------------------------

    async def _click(self) -> None:
        message = self._message()
        async with asyncio.timeout(PATIENCE_S):
            while (frames := await (self._sent_by_socket if self._by_socket else self._posted)(message)) is None:
                status = await self._status()
                if status.get("state") in ("ended", "none") or status.get("sandbox", self.sandbox) != self.sandbox:
                    if self.sandbox not in self._killed:
                        self._complain(f"it is gone, and nobody killed it: {status}")
                    break
                await asyncio.sleep(self._rng.uniform(0.1, 0.3))
        if frames is None:
            return await self._enter()
        name, clicks, kept = self._tally(json.dumps(frames))
        if (name, clicks) != (self.name, self.clicks + 1):
            self._complain(f"the answer was {(name, clicks, kept)}")
        if kept <= self.kept:
            self._complain(f"the session holds {kept} clicks after {self.kept}")
        self.clicks, self.kept = clicks, kept
        self.answered += 1

    async def _sent_by_socket(self, message: Frame) -> list[Frame] | None:
        try:
            if self._socket is None:
                self._socket = await self._connected()
            if (frames := await self._sent(message, self._socket)) is not None:
                return frames
        except InvalidStatus as error:
            self._check(error.response.status_code)
        except (OSError, WebSocketException, TimeoutError):
            pass
        await self._drop()
        return None

    async def _connected(self) -> ClientConnection:
        cookies = "; ".join(f"{name}={value}" for name, value in self._http.cookies.items())
        return await connect(
            f"{self._url.replace('http', 'ws', 1)}/{self.app}/{self._socket_path()}",
            additional_headers={"Cookie": cookies, "Origin": self._url},
            open_timeout=5,
            proxy=None,
        )

    async def _asked(self, path: str, body: Frame, headers: dict[str, str] | None = None) -> Frame | None:
        try:
            answer = await self._http.post(f"/{self.app}/{path}", json=body, headers=headers)
            self._check(answer.status_code)
            said: Frame = answer.json()
        except (httpx.HTTPError, json.JSONDecodeError):
            return None
        return said if answer.status_code == 200 else None

    async def _drop(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()

    @staticmethod
    def _tally(text: str) -> tuple[str, int, int]:
        found = re.findall(r"tally ([\w-]+) (\d+) (\d+)", text)
        return (found[-1][0], int(found[-1][1]), int(found[-1][2])) if found else ("nobody", -1, -1)


class Clicker1(Clicker):
    """Numbers its messages, and says which frames it has got."""

    app = "tally"
    _page: Page

    def _path(self) -> str:
        return f"?{self.name}"

    def _is_page(self, html: str) -> bool:
        return 'INSTANCE = "' in html

    def _take_page(self, html: str) -> None:
        self._page = Page(None, html, f"{self.name}-{self._number}")  # type: ignore[arg-type]

    def _message(self) -> Frame:
        return self._page.message(self._page.call_of("count"))

    async def _posted(self, message: Frame) -> list[Frame] | None:
        page = self._page
        said = await self._asked("_post", {"instance": page.instance, "page": page.name, **message, "got": page.got})
        return [page.take(frame) for frame in said["frames"]] if said and "frames" in said else None

    async def _sent(self, message: Frame, socket: ClientConnection) -> list[Frame] | None:
        frames: list[Frame] = []
        await socket.send(json.dumps({**message, "got": self._page.got}))
        while not frames or frames[-1]["done"] < message["n"]:
            frame = json.loads(await socket.recv())
            if "reload" in frame:
                return None
            frames.append(self._page.take(frame))
        return frames

    def _socket_path(self) -> str:
        return f"_ws{self._page.path}"


class Clicker2(Clicker):
    """Knows its events by their callback_id."""

    app = "tally2"
    _page: Page2

    def _path(self) -> str:
        return f"?name={self.name}"

    def _is_page(self, html: str) -> bool:
        return 'HTAG_CSRF = "' in html

    def _take_page(self, html: str) -> None:
        self._page = Page2(html)

    def _message(self) -> Frame:
        return self._page.event("count")

    async def _posted(self, message: Frame) -> list[Frame] | None:
        said = await self._asked("event", {**message, "fallback": True}, {"x-htag-token": self._page.token})
        if not said or "payloads" not in said:
            return None
        frames = [json.loads(each) if isinstance(each, str) else each for each in said["payloads"]]
        return frames if any(self._answers(frame, message) for frame in frames) else None

    async def _sent(self, message: Frame, socket: ClientConnection) -> list[Frame] | None:
        frames: list[Frame] = []
        await socket.send(json.dumps(message))
        while not frames or not self._answers(frames[-1], message):
            frames.append(json.loads(await socket.recv()))
        return frames

    def _socket_path(self) -> str:
        return "ws"

    @staticmethod
    def _answers(frame: Frame, message: Frame) -> bool:
        return bool(frame.get("callback_id") == message["data"]["callback_id"])
