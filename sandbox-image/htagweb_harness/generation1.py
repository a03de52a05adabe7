"""Serves an htag 1 app: GET / for the page, WS /_ws for its messages; POST /_post and GET /_stream instead of that.

One instance of the app for all tabs of its user. A page belongs to one instance and says so in each connection; where
that is not the present one any more (another sandbox, other parameters), the page is told to load itself again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from .asgi import BodyTooLarge, Message, Receive, Scope, Send, read_body, respond_json, respond_page
from .failures import explain
from .instance1 import App, InitFailed, Instance, url2ak
from .page_link import PageLink
from .pages import error_page, with_live_script

MAX_WAITING = 64  # messages taken from one socket before it has to wait
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Generation1:
    """The ASGI app. `boot` names this process: pages of another know by it that they are old."""

    def __init__(self, app: App, boot: str) -> None:
        self._app = app
        self._boot = boot
        self._instances = 0
        self._instance: Instance | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        method = {"/": "GET", "/_stream": "GET", "/_post": "POST"}.get(scope["path"])
        if method is None:
            await respond_json(send, 404, {"error": "not found"})
        elif scope["method"] != method:
            await respond_json(send, 405, {"error": "method not allowed"}, ((b"allow", method.encode()),))
        elif scope["path"] == "/":
            await self._page(scope["query_string"].decode("latin-1"), send)
        elif scope["path"] == "/_stream":
            await self._stream(scope, receive, send)
        else:
            await self._post(receive, send)

    # -- the page ------------------------------------------------------------------------------------------------

    async def _page(self, query: str, send: Send) -> None:
        try:
            page = self.render(query)
        except InitFailed as error:
            await self._failed(str(error), error.trace, send)
        except Exception as error:
            trace = self._app.failures.trace(error)
            print(trace, file=sys.stderr)
            await self._failed(explain(error), trace, send)
        else:
            await self._app.session.settle()
            await respond_page(send, 200, page)

    async def _failed(self, text: str, trace: str, send: Send) -> None:
        app = self._app
        await respond_page(send, 500, error_page(app.name, text, trace if app.dev else "", app.base))

    def render(self, query: str) -> str:
        """The page, of a new instance if the parameters are new. Raises InitFailed, or what the app's render raises."""
        init = url2ak(query)
        if self._instance is None or self._instance.hr.init != init:
            self._instances += 1
            with self._app.session.interaction(), self._app.interactions.running():
                self._instance = Instance(self._app, f"{self._boot}.{self._instances}", init)
        with self._app.interactions.running():
            html = str(self._instance.hr)
        return with_live_script(html, self._app.name, self._app.base)

    # -- its messages --------------------------------------------------------------------------------------------

    def _find(self, instance_id: str) -> Instance | None:
        return self._instance if self._instance is not None and self._instance.id == instance_id else None

    async def _post(self, receive: Receive, send: Send) -> None:
        try:
            message = json.loads(await read_body(receive))
            instance = self._find(message["instance"])
            if instance is None:
                await respond_json(send, 200, {"reload": True})
                return
            page, n, got = instance.page(str(message["page"])), int(message["n"]), int(message["got"])
            with page.connection():
                instance.take(page, message)
                while page.done < n:
                    await page.change()
            frames = [json.loads(text) for _, text in instance.frames(page, got)]
        except BodyTooLarge:
            await respond_json(send, 413, {"error": "the message is too large"})
        except (ValueError, KeyError, TypeError) as error:
            await respond_json(send, 400, {"error": f"not understood: {error}"})
        else:
            await respond_json(send, 200, {"frames": frames})

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        instance_id, page_name, got = _asked(scope)
        if scope["path"] != "/_ws" or got is None or self._app.http_only:
            await send({"type": "websocket.close", "code": 4404})
            return
        await send({"type": "websocket.accept"})
        instance = self._find(instance_id)
        if instance is None:
            await self._turn_away(instance_id, receive, send)
            return

        async def write(text: str) -> None:
            await send({"type": "websocket.send", "text": text})

        page = instance.page(page_name)
        with page.connection():
            writing = asyncio.create_task(self._write(instance, page, got, write))
            try:
                code = await self._read(instance, page, receive, send)
            finally:
                writing.cancel()
        if code not in (1000, 1001):
            page.broke()

    async def _turn_away(self, instance_id: str, receive: Receive, send: Send) -> None:
        """A page of another sandbox reloads at once. One with other parameters, in another tab of this sandbox, waits
        until it is used: both reloading at once would take the instance from each other for ever."""
        if instance_id.partition(".")[0] == self._boot:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
        await send({"type": "websocket.send", "text": json.dumps({"reload": True})})
        await send({"type": "websocket.close", "code": 1000})

    async def _read(self, instance: Instance, page: PageLink, receive: Receive, send: Send) -> int:
        while True:
            message: Message = await receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code", 1005))
            if self._instance is not instance:
                await send({"type": "websocket.send", "text": json.dumps({"reload": True})})
                continue
            try:
                instance.take(page, json.loads(message.get("text") or message.get("bytes") or ""))
            except (ValueError, KeyError, TypeError):
                await send({"type": "websocket.close", "code": 1007})
                return 1000
            while len(instance.tasks) > MAX_WAITING:
                await asyncio.wait(instance.tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Frames as server-sent events."""
        instance_id, page_name, got = _asked(scope)
        instance = self._find(instance_id)
        if got is None:
            await respond_json(send, 400, {"error": "got must be a number"})
            return
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def write(text: str) -> None:
            await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})

        if instance is None:
            if instance_id.partition(".")[0] != self._boot:
                await write(json.dumps({"reload": True}))
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})  # so that it opens
        page = instance.page(page_name)
        with page.connection():
            writing = asyncio.create_task(self._write(instance, page, got, write))
            try:
                while (await receive())["type"] != "http.disconnect":
                    pass
            finally:
                writing.cancel()
        page.broke()

    async def _write(
        self, instance: Instance, page: PageLink, got: int, write: Callable[[str], Awaitable[None]]
    ) -> None:
        with contextlib.suppress(OSError):  # the connection is gone; the reader notices too
            while True:
                for s, text in instance.frames(page, got):
                    await write(text)
                    got = s
                await page.change()


def _asked(scope: Scope) -> tuple[str, str, int | None]:
    """Of a connection's query: the instance and the page it is for, and the last frame that the page has got."""
    asked = {key: values[0] for key, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
    got = asked.get("got", "")
    return asked.get("instance", ""), asked.get("page", ""), int(got) if got.isdecimal() else None
