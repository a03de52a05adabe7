"""uvicorn's HTTP protocol with the limits that it lacks: heads in size and time, ambiguous framing, stalled readers.

Requests that are refused here never become a scope; `front.check` judges the others by what a scope shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from .alarm import Alarm
from .cycle import Cycle, fields
from .errand import Errand, Sender
from .front import HEAD_BYTES, HEAD_FIELDS, Refusal, check_head
from .heads import Head, find
from .visitor_socket import has_left, watch_for_stalls

HEAD_S = 10.0  # from the connection, or from the first byte of a later request
REST_S = 10.0  # for the rest of a body that nobody waits for any more
LAST_CALL_S = 1.0  # for a request that crosses our shutdown on a kept-alive connection
STALLED_S = 60  # for a visitor to take any byte of what was sent, or to show any sign of life
PIPELINED = 16

# Passes a request on that is all here (its head and its body, from that address, by that scheme) unless it is False.
ErrandOf = Callable[[Sender, Head, bytes, str, str], bool]


class Refused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


class FrontProtocol(HttpToolsProtocol):
    """`uvicorn.Config(http=FrontProtocol)`. It is in the scope as "htagweb.visitor", an `exchange.Visitor`."""

    head_s = HEAD_S
    rest_s = REST_S
    stalled_s = STALLED_S
    last_call_s = LAST_CALL_S
    cycle: Cycle
    # Both belong to the exchange that runs (see `exchange.Visitor`).
    on_gone: Callable[[], None] | None = None
    take: Callable[[bytes], bool] | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_open = True  # between requests, too
        self._body_open = False
        self._between = True  # the parser has seen nothing of a message that isn't over
        self._body_left = 0  # bytes of a body that passes the parser by
        self._errand: tuple[Head, bytes] | None = None  # the request that one is about while it runs
        self._errands: ErrandOf | None = getattr(self.app, "errand", None)
        self._draining = False
        self._fed = 0  # bytes since the last head ended, if none has ended since
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._last_call: asyncio.TimerHandle | None = None
        self._keep_alive = Alarm(self.loop, self.timeout_keep_alive_handler)  # in place of uvicorn's own timer

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        watch_for_stalls(transport, self.stalled_s)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        if self._last_call is not None:
            self._last_call.cancel()
        self._keep_alive.close()
        super().connection_lost(exc)
        if self.on_gone is not None:
            self.on_gone()

    def data_received(self, data: bytes) -> None:
        self._keep_alive.clear()
        if self._body_left:
            data = self._more_body(data)
            if not data:
                return
        elif self._between and not self._draining and not self._busy() and self._known(data):
            return
        self._fed += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._should_upgrade():
                return
            if upgrade.args[0] < len(data):
                self._refuse(Refusal(400, "a WebSocket's client waits for the answer to its handshake"))
                return
            self._stop_timers()
            self._keep_alive.close()
            self.handle_websocket_upgrade()
        except httptools.HttpParserError as error:
            cause = error.__context__
            if self._draining and self._busy():
                self.flow.pause_reading()  # what comes behind the last request isn't for us any more
                return
            self._refuse(cause.refusal if isinstance(cause, Refused) else Refusal(400, "this is no HTTP request"))
        else:
            if self._head_open:
                # The parser keeps a field's bytes to itself until the field ends, so they are counted as they come in.
                if self._fed > HEAD_BYTES:
                    self._refuse(Refusal(431, "too long a head"))
                elif self._fed and self._head_timer is None:
                    self._await_head()

    # Requests whose head came before: the parser doesn't see them

    def _known(self, data: bytes) -> bool:
        """Whether this is such a request, or the beginning of one, and was taken."""
        found = find(data)
        if found is None:
            return False
        head, end = found
        body = data[end:]
        left = head.length - len(body)
        if left < 0:
            return False  # another request is behind it
        if self._head_timer is not None:
            self._stop_timers()
        if not left and self._errands is not None and self.client is not None:
            self._errand = head, body
            if self._errands(self, head, body, self.client[0], self.scheme or "http"):
                return True
            self._errand = None
        self.cycle = self._cycle_of(head, body, more=left > 0)
        self._body_left = left
        self._body_open = left > 0
        self._head_open = not self._body_open
        self._start_asgi_task(self.cycle, self.app)
        return True

    def _more_body(self, data: bytes) -> bytes:
        """Take what belongs to a body that the parser doesn't see; return what lies behind it."""
        body, rest = data[: self._body_left], data[self._body_left :]
        self._body_left -= len(body)
        self.on_body(body)
        if not self._body_left:
            self.on_message_complete()
        return rest

    def _cycle_of(self, head: Head, body: bytes, *, more: bool) -> Cycle:
        scope: Any = {  # as uvicorn makes it
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "method": head.method,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": list(head.headers),
            "state": self.app_state.copy(),
            "htagweb.visitor": self,
            "htagweb.head": head,
        }
        cycle = self._cycle(scope, head.target)
        cycle.more_body = more
        if body or not more:
            cycle.feed(body)
        return cycle

    # What an errand asks (`errand.Sender`)

    @property
    def takes(self) -> bool:
        return not self.flow.write_paused

    def reply(self, head: bytes, body: bytes) -> None:
        self._errand = self.on_gone = None
        last = self._draining and not self.pipeline
        ours = fields(self.server_state.default_headers) + (b"connection: close\r\n" if last else b"")
        self.transport.write(b"%b%b\r\n%b" % (head, ours, body))
        if last:
            self.transport.close()
        self.on_response_complete()

    def go_on(self, errand: Errand) -> None:
        assert self._errand is not None
        cycle = self._cycle_of(*self._errand, more=False)
        self._errand = None
        cycle.keep_alive = not self._draining or bool(self.pipeline)
        cycle.scope["htagweb.errand"] = errand  # type: ignore[typeddict-unknown-key]
        if not self.pipeline:
            self.cycle = cycle

        async def finish(scope: Any, receive: Any, send: Any) -> None:
            try:
                await self.app(scope, receive, send)
            finally:
                errand.drop()  # the application may have decided otherwise

        self._start_asgi_task(cycle, finish)

    # What httptools calls. An exception in here comes out of feed_data as its error's __context__.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._between = False
        self._head_bytes = 0
        self.scope["htagweb.visitor"] = self  # type: ignore[typeddict-unknown-key]

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_open:
            return  # a trailer: it would be appended to the headers that the application has already seen
        self._count(len(name) + len(value) + 4)
        if len(self.headers) >= HEAD_FIELDS:
            raise Refused(Refusal(431, "too many header fields"))
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._draining:
            raise Refused(Refusal(503, "the server is going down, try again in a moment"))
        upgrade = self.parser.should_upgrade()
        websocket = upgrade and self._should_upgrade()
        version = self.parser.get_http_version()
        refusal = check_head(version, self.url, self.headers, upgrade=upgrade)
        if refusal is not None:
            raise Refused(refusal)
        if len(self.pipeline) >= PIPELINED:
            raise Refused(Refusal(400, "too many requests at once"))
        self._head_open = False
        self._body_open = True
        self._stop_timers()
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        if not websocket:
            # An upgrade is declined by answering as if it hadn't been asked for; the parser stops here then.
            self._start_cycle(keep_alive=version == "1.1" and not upgrade and self.parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        # Behind an answer it is the rest of a body that nobody waits for; behind another request, that one's.
        cycle = self.cycle
        if cycle.response_complete or (
            # Nothing of it is waiting to be received, and no other request is before it.
            self.take is not None and not cycle.waiting and not self.pipeline and self.take(body)
        ):
            return
        cycle.feed(body)

    def on_message_complete(self) -> None:
        self._head_open = self._between = True
        self._body_open = False
        self._fed = 0
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
            self._await_request()

    # What uvicorn calls

    def shutdown(self) -> None:
        """Finish the request that runs. Who kept the connection for a next one is told so if it comes, then closed.

        To close at once would leave a request that is under way just now without any answer.
        """
        self._draining = True
        if self._busy():
            if self.cycle is not None:
                self.cycle.keep_alive = False
        else:
            self._last_call = self.loop.call_later(self.last_call_s, self.transport.close)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._body_open:
            # An answer came before the request was complete. To close at once would reset the connection under the
            # answer, so the rest may still come for a while, and is dropped.
            self._rest_timer = self.loop.call_later(self.rest_s, self._give_up_rest)
        else:
            self._await_request()

    def _unset_keepalive_if_required(self) -> None:
        self._keep_alive.clear()

    # What an exchange asks

    @property
    def whole(self) -> bool:
        return not self._body_open and not self.pipeline

    @property
    def left(self) -> bool:
        return self.transport.is_closing()

    def abort(self) -> None:
        """Break the connection off in mid-answer, with nothing to log."""
        self._disconnect()
        self.transport.abort()

    def gone(self) -> bool:
        """Whether the visitor has left. Asked of the kernel: while we don't read, nobody else tells."""
        return has_left(self.transport)

    def _busy(self) -> bool:
        return self._errand is not None or (self.cycle is not None and not self.cycle.response_complete)

    def _disconnect(self) -> None:
        """Tell the application now what `connection_lost` would tell it a moment later, so that nothing is logged."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.on_gone is not None:
            self.on_gone()

    def _start_cycle(self, *, keep_alive: bool) -> None:
        waits = self._busy()
        self.cycle = self._cycle(self.scope, self.url, expect=self.expect_100_continue, keep_alive=keep_alive)
        if waits:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start_asgi_task(self.cycle, self.app)

    def _cycle(self, scope: Any, target: bytes, *, expect: bool = False, keep_alive: bool = True) -> Cycle:
        """uvicorn's own way, with our Cycle."""
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("latin-1")  # `front.check_path` refuses what isn't ASCII
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = query
        return Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expect,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def _await_request(self) -> None:
        self._keep_alive.set(self.timeout_keep_alive)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            raise Refused(Refusal(431, "too long a head"))

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._busy():
            self._await_head()  # half a pipelined request waits behind an answer
        else:
            self.transport.close()

    def _give_up_rest(self) -> None:
        self._rest_timer = None
        if self._body_open:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        self._stop_timers()
        cycle = self.cycle
        if self.pipeline or (cycle is not None and cycle.response_started and not cycle.response_complete):
            self.transport.abort()  # in the middle of an answer there is no place for another one
            return
        self._disconnect()
        body = refusal.message.encode("ascii") + b"\n"
        self.transport.write(
            b"HTTP/1.1 %d \r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (refusal.status, len(body), body)
        )
        self.transport.close()

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._rest_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._rest_timer = None
