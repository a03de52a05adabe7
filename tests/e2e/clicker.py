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

APP = "tally"
PATIENCE_S = 30.0  # until a click is answered, whatever was killed meanwhile
PAGE = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}
Frame = dict[str, Any]


class Clicker:
    """As the page of an htag 1 app does: numbers its messages, and sends again what was not answered.

    `killed` holds the sandboxes that may have lost what they had in memory; the list of `complaints` must stay empty.
    """

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
        self._http = httpx.AsyncClient(base_url=url, headers={"Origin": url}, timeout=10, trust_env=False)
        self._page: Page | None = None
        self._number = 0

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
        path = f"/{APP}/?{self.name}"
        html, status = None, {}
        async with asyncio.timeout(PATIENCE_S):
            while html is None or not status:
                html, status = await self._app_page(path), await self._status()
                await asyncio.sleep(0.1)
        self.sandbox, self._page, self.clicks = str(status["sandbox"]), Page(None, html, self.name), 0  # type: ignore[arg-type]
        self.starts += 1
        self._number += 1
        self._page.name = f"{self.name}-{self._number}"
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
            if answer.status_code == 200 and 'INSTANCE = "' in answer.text:
                return answer.text
            if (await self._status()).get("state") in ("ended", "none"):
                answer = await self._http.get(f"/-/start?app={APP}&next={quote(path, safe='')}", headers=PAGE)
                self._check(answer.status_code)
        except httpx.HTTPError:
            pass
        return None

    async def _status(self) -> Frame:
        """What the platform says of the app; {} while nobody can."""
        try:
            answer = await self._http.get("/-/status", params={"app": APP})
            self._check(answer.status_code)
            found: Frame = answer.json() if answer.status_code == 200 else {}
            return found
        except (httpx.HTTPError, json.JSONDecodeError):
            return {}

    # -- clicking ----------------------------------------------------------------------------------------------------

    async def _click(self) -> None:
        assert self._page is not None
        page = self._page
        message = page.message(page.call_of("count"))
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

    async def _posted(self, message: Frame) -> list[Frame] | None:
        assert self._page is not None
        body = {"instance": self._page.instance, "page": self._page.name, **message, "got": self._page.got}
        try:
            answer = await self._http.post(f"/{APP}/_post", json=body)
            self._check(answer.status_code)
            said = answer.json()
        except (httpx.HTTPError, json.JSONDecodeError):
            return None
        if answer.status_code != 200 or "frames" not in said:
            return None
        return [self._page.take(frame) for frame in said["frames"]]

    async def _sent_by_socket(self, message: Frame) -> list[Frame] | None:
        assert self._page is not None
        frames: list[Frame] = []
        try:
            if self._socket is None:
                self._socket = await self._connected(self._page)
            await self._socket.send(json.dumps({**message, "got": self._page.got}))
            while not frames or frames[-1]["done"] < message["n"]:
                frame = json.loads(await self._socket.recv())
                if "reload" in frame:
                    break
                frames.append(self._page.take(frame))
            else:
                return frames
        except InvalidStatus as error:
            self._check(error.response.status_code)
        except (OSError, WebSocketException, TimeoutError):
            pass
        await self._drop()
        return None

    async def _connected(self, page: Page) -> ClientConnection:
        cookies = "; ".join(f"{name}={value}" for name, value in self._http.cookies.items())
        return await connect(
            f"{self._url.replace('http', 'ws', 1)}/{APP}/_ws{page.path}",
            additional_headers={"Cookie": cookies, "Origin": self._url},
            open_timeout=5,
            proxy=None,
        )

    async def _drop(self) -> None:
        if self._socket is not None:
            socket, self._socket = self._socket, None
            await socket.close()

    @staticmethod
    def _tally(text: str) -> tuple[str, int, int]:
        found = re.findall(r"tally ([\w-]+) (\d+) (\d+)", text)
        return (found[-1][0], int(found[-1][1]), int(found[-1][2])) if found else ("nobody", -1, -1)
