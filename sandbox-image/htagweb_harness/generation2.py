"""Serves an htag 2 app: htag's own ASGI app, kept to one instance per sandbox.

htag 2 makes an instance per `htag_sid` cookie and never frees one, and a page of an instance that is gone is stuck. So
the cookie never leaves the sandbox, every request gets the same one, and a page that belongs to another instance (it
shows by the token in it) is told to load itself again, whichever way it asks.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable
from typing import Any

from .asgi import Message, Receive, Scope, Send, read_body, respond_json, respond_page
from .failures import Failures, explain, forbidden
from .interactions import TOO_LONG, Interactions
from .pages import FILES_HINT, error_page, with_live_script
from .session import Session

SID = "sandbox"
REMEMBERED = 512  # callback ids, to know an event that was sent twice
# Where htag's page looks for its ways to talk.
HTAGS_BASE = (
    'var _base_path = window.location.pathname.endsWith("/") ? window.location.pathname : '
    'window.location.pathname + "/";'
)
RELOAD = {"action": "update", "updates": {}, "js": ["location.reload()"], "statics": []}


def webapp_of(cls: Any, *, dev: bool, on_instance: Callable[[Any], None]) -> Any:
    """htag's WebApp for a class. One that is no Tag.App (an htag 1 habit) is put into a Tag.App of its name."""
    htag = importlib.import_module("htag")
    starlette = importlib.import_module("starlette.applications").Starlette
    if not hasattr(starlette, "add_websocket_route"):  # gone since Starlette 1.0, htag 2.0 still calls it
        route = importlib.import_module("starlette.routing").WebSocketRoute
        starlette.add_websocket_route = lambda self, path, endpoint: self.router.routes.append(route(path, endpoint))
    if not isinstance(cls, type) or issubclass(cls, htag.Tag.App):
        return htag.WebApp(cls, on_instance=on_instance, debug=dev)

    def init(root: Any) -> None:
        root += cls()

    facts = {"init": init, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return htag.WebApp(type(cls.__name__, (htag.Tag.App,), facts), on_instance=on_instance, debug=dev)


class Generation2:
    """The ASGI app."""

    def __init__(
        self,
        cls: Any,
        *,
        name: str,
        prefix: str,
        dev: bool,
        http_only: bool,
        base: str = "",
        session: Session,
        failures: Failures,
        interactions: Interactions,
    ) -> None:
        self.name = name
        self.prefix = prefix
        self.dev = dev
        self.http_only = http_only
        self.base = base
        self.session = session
        self.failures = failures
        self._interactions = interactions
        self._webapp = webapp_of(cls, dev=dev, on_instance=self._watched)
        self._first: tuple[str, str] | None = None  # query and page of the claim
        self._seen: dict[str, None] = {}

    @property
    def instance(self) -> Any:
        return self._webapp.instances.get(SID)

    def _in_sandbox(self, scope: Scope) -> Scope:
        """The request with the one htag_sid that there is, and the user's session."""
        ours = {b"htag_sid": SID.encode()}
        if self.http_only:  # how htag is told so
            ours[b"htag_mode"] = b"sse"
        theirs = [
            part.strip()
            for key, value in scope["headers"]
            if key == b"cookie"
            for part in value.split(b";")
            if part.strip() and part.strip().partition(b"=")[0] not in ours
        ]
        cookie = b"; ".join([*theirs, *(name + b"=" + value for name, value in ours.items())])
        headers = [(key, value) for key, value in scope["headers"] if key != b"cookie"]
        return {**scope, "headers": [*headers, (b"cookie", cookie)], "session": self.session.data}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = self._in_sandbox(scope)
        if scope["type"] == "websocket" and self.http_only:
            await receive()
            await send({"type": "websocket.close", "code": 4404})
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["path"] == "/" and scope["method"] == "GET":
            await self._page(scope, send)
        elif scope["path"] == "/event" and scope["method"] == "POST":
            await self._event(scope, receive, send)
        else:
            await self._other(scope, receive, send)

    # -- the page ------------------------------------------------------------------------------------------------

    async def _page(self, scope: Scope, send: Send) -> None:
        query = scope["query_string"].decode("latin-1")
        first, self._first = self._first, None
        if first is not None and first[0] == query:
            # Rendered a moment ago, at the claim. Rendering it again would count as a reload: on_unmount, on_mount.
            await respond_page(send, 200, first[1])
            return
        try:
            page = await self._render(scope)
        except Exception as error:
            trace = self.failures.trace(error)
            await respond_page(send, 500, error_page(self.name, explain(error), trace if self.dev else "", self.base))
        else:
            await self.session.settle()
            await respond_page(send, 200, page)

    async def render_first(self, scope: Scope) -> str:
        """At the claim. Raises what the app raises; the page is kept for its visitor."""
        page = await self._render(self._in_sandbox(scope))
        self._first = (scope["query_string"].decode("latin-1"), page)
        return page

    async def _render(self, scope: Scope) -> str:
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        before = self.instance
        self.failures.take()
        with self.session.interaction(), self._interactions.running():
            await self._webapp.app(scope, nothing, keep)
        error = self.failures.take()
        if error is not None:  # htag made a page of it, with status 200
            raise error
        if answer[0]["status"] != 200:
            raise RuntimeError(f"htag answered with status {answer[0]['status']}")
        if before is not None and before is not self.instance:  # ?n: pages of the old instance must not drive it on
            for websocket in list(before.websockets):
                await websocket.close(1001)
        page = b"".join(message.get("body", b"") for message in answer[1:]).decode("utf-8", "replace")
        icon = f'<link rel="icon" href="{self.prefix}/logo.png">'
        page = page.replace('<link rel="icon" href="/logo.png">', icon, 1)
        if self.base:
            page = page.replace(HTAGS_BASE, f"var _base_path = {json.dumps(self.base)};", 1)
        return with_live_script(page, self.name, self.base)

    def _watched(self, instance: Any) -> None:
        """Every event passes here, by whatever way it came; and each frame that is shown is a step."""
        handle, broadcast = instance.handle_event, instance.broadcast_updates

        async def handle_event(message: dict[str, Any], websocket: Any) -> None:
            interaction = None
            try:
                async with self._interactions.cancellable() as interaction:
                    await handle(message, websocket)
            except TimeoutError:
                if interaction is None or not interaction.overran:
                    raise
                data = message.get("data")
                callback_id = data.get("callback_id") if isinstance(data, dict) else None
                said = {"action": "error", "traceback": TOO_LONG, "callback_id": callback_id, "result": None}
                if websocket is not None:
                    await websocket.send_text(json.dumps(said))
                for queue in instance.sse_queues:
                    queue.put_nowait(json.dumps(said))

        async def broadcast_updates(*args: Any, **kargs: Any) -> None:
            await broadcast(*args, **kargs)
            self._interactions.step()

        object.__setattr__(instance, "handle_event", handle_event)  # htag would make an attribute of the tag of it
        object.__setattr__(instance, "broadcast_updates", broadcast_updates)

    # -- events --------------------------------------------------------------------------------------------------

    def _check(self) -> str:
        """A frame that makes a page reload unless it belongs to this instance."""
        token = json.dumps(getattr(self.instance, "htag_csrf", ""))
        return json.dumps({**RELOAD, "js": [f"if(window.HTAG_CSRF&&window.HTAG_CSRF!=={token})location.reload()"]})

    def _repeated(self, text: str) -> dict[str, Any] | None:
        """The answer to an event that was sent before: a client that lost its connection can't know that it arrived."""
        try:
            callback_id = json.loads(text)["data"]["callback_id"]
        except (ValueError, KeyError, TypeError):
            return None
        if not isinstance(callback_id, str):
            return None
        if callback_id in self._seen:
            return {**RELOAD, "js": [], "callback_id": callback_id, "result": None}
        self._seen[callback_id] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return None

    def _hinted(self, text: str) -> str:
        """An error frame says where files may go, if that was the error."""
        if text.startswith('{"action": "error"') and forbidden(self.failures.take()):
            frame = json.loads(text)
            frame["traceback"] += "\n" + FILES_HINT
            return json.dumps(frame)
        return text

    async def _event(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = dict(scope["headers"]).get(b"x-htag-token", b"").decode("latin-1")
        if token != getattr(self.instance, "htag_csrf", token):
            await respond_json(send, 200, {"status": "ok", "payloads": [RELOAD]})
            return
        body = await read_body(receive)
        repeated = self._repeated(body.decode("utf-8", "replace"))
        if repeated is not None:
            # The updates that it led to went with the lost answer: show all there is.
            repeated["updates"] = {self.instance.id: self.instance.render_initial()}
            await respond_json(send, 200, {"status": "ok", "payloads": [json.dumps(repeated)]})
            return

        async def whole_body() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        with self.session.interaction():
            await self._other(scope, whole_body, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Everything of htag's own: its events, its stream, its pictures, its 404."""
        stream = scope["path"] == "/stream"

        async def held(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (key, value)
                    for key, value in message.get("headers", [])
                    if key.lower() not in (b"connection", b"set-cookie")
                ]
                await send(message)
                if stream:
                    check = f"data: {self._check()}\n\n".encode()
                    await send({"type": "http.response.body", "body": check, "more_body": True})
                return
            await self.session.settle()
            await send(message)

        await self._webapp.app(scope, receive, held)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        under_way: list[Any] = []  # the interaction of the last message: htag treats one after the other
        order = asyncio.Lock()  # while one frame is held for the session, the next must not overtake it

        async def next_message() -> Message:
            while under_way:
                under_way.pop().__exit__(None, None, None)
            while True:
                message = await receive()
                if message["type"] != "websocket.receive":
                    return message
                repeated = self._repeated(message.get("text") or "")
                if repeated is None:
                    interaction = self.session.interaction()
                    interaction.__enter__()
                    under_way.append(interaction)
                    return message
                await send({"type": "websocket.send", "text": json.dumps(repeated)})

        async def held(message: Message) -> None:
            if message["type"] == "websocket.send":
                async with order:
                    await self.session.settle()
                    await send({**message, "text": self._hinted(message.get("text") or "")})
                return
            if message["type"] == "websocket.accept":
                # A second `Connection` beside the handshake's own would be wrong.
                fields = [(key, value) for key, value in message.get("headers", []) if key.lower() != b"connection"]
                await send({**message, "headers": fields})
                await send({"type": "websocket.send", "text": self._check()})
                return
            await send(message)

        try:
            await self._webapp.app(scope, next_message, held)
        finally:
            while under_way:
                under_way.pop().__exit__(None, None, None)
