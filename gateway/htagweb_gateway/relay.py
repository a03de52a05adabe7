"""One WebSocket, message by message, between any ASGI server and a sandbox.

Each side pings for itself, and no compression is asked of the sandbox: the socket between us costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import NamedTuple

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.frames import EXTERNAL_CLOSE_CODES, CloseCode
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from htagweb_orchestrator.address import DialFailed, dial
from htagweb_orchestrator.model import Address, TcpAddress

from .exchange import Message, Receive, Send
from .frames import POLICY, Rate
from .front import split_host
from .handshake import refuse
from .headers import Forward, handshake_headers
from .tunnel import Tunnel
from .upstream_errors import BadResponse, Dropped, HeadTimeout, Unreachable

GOODBYE_S = 1.0  # for either side to take the close frame, before the connection is cut
QUEUED_FRAMES = 4
BUFFERED_BYTES = 64 * 1024

# websockets tells of every connection that breaks; here that is nobody's fault and nobody's news.
_SILENT = logging.getLogger("htagweb.relay.websockets")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


class End(NamedTuple):
    code: int
    reason: str
    by_browser: bool = False
    by_sandbox: bool = False


class Relay:
    """`message_size` is the longest message in bytes, either way; one that is longer ends both sides with 1009.
    `message_rate` is how many messages a second a browser may send in the long run, twice as many at once; more end
    both sides with 1008. `on_data` is called for each data message of the browser.
    """

    def __init__(
        self,
        address: Address,
        forward: Forward,
        *,
        message_size: int,
        message_rate: float,
        on_data: Callable[[], None],
        connect_timeout_s: float = 5.0,
        head_timeout_s: float = 10.0,
    ) -> None:
        self._address = address
        self._forward = forward
        self._message_size = message_size
        self._message_rate = message_rate
        self._on_data = on_data
        self._connect_timeout_s = connect_timeout_s
        self._head_timeout_s = head_timeout_s
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def close(self, code: int = 1001, reason: str = "") -> None:
        """End both sides from outside, with this code and reason; `run` returns soon after."""
        self._finish(End(code, reason))

    async def run(self, scope: Message, receive: Receive, send: Send) -> None:
        """Connect to the sandbox, accept the browser, relay until either leaves or `close` is called.

        Raises Unreachable, HeadTimeout or BadResponse with nothing sent to the browser yet; where the sandbox itself
        refuses the handshake, the browser gets the same status.
        """
        sandbox = await self._connect(scope)
        if isinstance(sandbox, int):
            await refuse(scope, receive, send, sandbox, b"the app refused this WebSocket\n")
            return
        pumps: list[asyncio.Task[None]] = []
        try:
            await receive()  # websocket.connect
            await send({"type": "websocket.accept", "subprotocol": sandbox.subprotocol})
            pumps = [
                asyncio.create_task(self._from_browser(receive, sandbox), name="browser->sandbox"),
                asyncio.create_task(self._from_sandbox(sandbox, send), name="sandbox->browser"),
            ]
            end = await self._end
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(
                _leave_browser(send, end), _leave_sandbox(sandbox, end), *pumps, return_exceptions=True
            )
        except OSError:
            pass  # the browser left during the handshake
        finally:
            for pump in pumps:
                pump.cancel()
            sandbox.transport.abort()

    def _finish(self, end: End) -> None:
        if not self._end.done():
            self._end.set_result(end)

    async def _connect(self, scope: Message) -> ClientConnection | int:
        """The connection, or the HTTP status by which the sandbox refused it."""
        parts = split_host(self._forward.host)
        name, port = parts if parts is not None else (b"sandbox", None)
        path, _, query = self._forward.target.decode("ascii").partition("?")
        headers = handshake_headers(scope["headers"], self._forward)[1:]  # the client makes Host from the URI
        if isinstance(self._address, TcpAddress):
            headers.append((b"x-htagweb-secret", self._address.secret.encode("latin-1")))
        protocol = ClientProtocol(
            WebSocketURI(False, name.decode("ascii").strip("[]"), port or 80, path, query),
            subprotocols=[Subprotocol(each) for each in scope.get("subprotocols", ())] or None,
            max_size=self._message_size,
            logger=_SILENT,
        )
        try:
            sock = await dial(self._address, timeout_s=self._connect_timeout_s)
        except DialFailed as error:
            raise Unreachable(str(error)) from error
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: ClientConnection(
                protocol,
                ping_interval=None,  # a busy app answers late; whether it lives is the orchestrator's to find out
                close_timeout=GOODBYE_S,
                max_queue=QUEUED_FRAMES,
                write_limit=BUFFERED_BYTES,
            ),
            sock=sock,
        )
        try:
            async with asyncio.timeout(self._head_timeout_s):
                await connection.handshake(
                    [(key.decode("latin-1"), value.decode("latin-1")) for key, value in headers], None
                )
        except InvalidStatus as error:
            connection.transport.abort()
            status = error.response.status_code
            if 400 <= status <= 599:
                return status
            raise BadResponse(f"status {status} to a WebSocket handshake") from error
        except TimeoutError as error:
            connection.transport.abort()
            raise HeadTimeout(f"no WebSocket handshake within {self._head_timeout_s:g} s") from error
        except (InvalidHandshake, OSError, EOFError, ValueError) as error:
            connection.transport.abort()
            if isinstance(error.__cause__, EOFError) or isinstance(error, (OSError, EOFError)):
                raise Dropped("closed without an answer to a WebSocket handshake") from error
            raise BadResponse(f"no WebSocket handshake: {error!r}") from error
        except BaseException:
            connection.transport.abort()
            raise
        return connection

    async def _from_browser(self, receive: Receive, sandbox: ClientConnection) -> None:
        end, rate = End(1011, ""), Rate(self._message_rate)
        try:
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    end = End(message.get("code") or 1005, message.get("reason") or "", by_browser=True)
                    return
                if not rate.spend():
                    end = End(POLICY, "too many messages")
                    return
                self._on_data()
                text: str | None = message.get("text")
                data: bytes | None = message.get("bytes")
                payload: str | bytes = text if text is not None else data or b""
                if _longer(payload, self._message_size):
                    end = End(1009, "message too big")
                    return
                await sandbox.send(payload)
        except ConnectionClosed:
            end = _sandbox_left(sandbox)
        finally:
            self._finish(end)

    async def _from_sandbox(self, sandbox: ClientConnection, send: Send) -> None:
        end = End(1011, "")
        try:
            while True:
                message = await sandbox.recv()
                if isinstance(message, str):
                    await send({"type": "websocket.send", "text": message})
                else:
                    await send({"type": "websocket.send", "bytes": message})
        except ConnectionClosed:
            end = _sandbox_left(sandbox)
        except OSError:
            end = End(1006, "", by_browser=True)
        finally:
            self._finish(end)


async def _leave_browser(send: Send, end: End) -> None:
    if end.by_browser:
        return
    with contextlib.suppress(OSError, RuntimeError):
        async with asyncio.timeout(GOODBYE_S):
            await send({"type": "websocket.close", "code": end.code, "reason": end.reason})


async def _leave_sandbox(sandbox: ClientConnection, end: End) -> None:
    if end.by_sandbox:
        return
    code = end.code if end.code in EXTERNAL_CLOSE_CODES or 3000 <= end.code < 5000 else CloseCode.GOING_AWAY
    async with asyncio.timeout(GOODBYE_S):
        await sandbox.close(code, end.reason)


def _sandbox_left(sandbox: ClientConnection) -> End:
    """How it left, as a code that may be sent on: 1005 stands for a close frame without one, 1006 for no frame."""
    received, sent = sandbox.protocol.close_rcvd, sandbox.protocol.close_sent
    if received is not None:
        return End(1000 if received.code == 1005 else received.code, received.reason, by_sandbox=True)
    if sent is not None:  # our own client refused what came: too big, or no WebSocket at all
        return End(sent.code, sent.reason, by_sandbox=True)
    return End(1014, "the app went away", by_sandbox=True)


def _longer(payload: str | bytes, size: int) -> bool:
    if isinstance(payload, str) and len(payload) * 4 > size:
        payload = payload.encode("utf-8", "surrogatepass")
    return len(payload) > size


Carrier = Relay | Tunnel


def relay_for(
    scope: Message,
    address: Address,
    forward: Forward,
    *,
    message_size: int,
    message_rate: float,
    on_data: Callable[[], None],
) -> Carrier:
    """The best that the server of this scope allows."""
    carrier = Tunnel if "htagweb.door" in scope else Relay
    return carrier(address, forward, message_size=message_size, message_rate=message_rate, on_data=on_data)
