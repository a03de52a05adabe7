"""Where a sandbox listens: on two Unix sockets in its run directory; or on loopback, where there are none."""

from __future__ import annotations

import hmac
import os
import socket

from .asgi import ASGIApp, Receive, Scope, Send, respond_json

BACKLOG = 128
SECRET_S = 1.0  # for a peer to say who it is


def listen(run: str, name: str, mode: int, *, tcp: bool) -> socket.socket:
    """Listen as RUN/NAME.sock, or on a port of loopback, whose number is then in RUN/NAME.port.

    The name appears once it can be connected to: the orchestrator waits for the name alone.
    """
    path = os.path.join(run, name)
    if tcp:
        listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        with open(f"{path}.port-", "w") as file:
            file.write(str(listener.getsockname()[1]))
        os.replace(f"{path}.port-", f"{path}.port")
        return listener
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 ^ mode)
    try:
        listener.bind(f"{path}.sock-")
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    os.rename(f"{path}.sock-", f"{path}.sock")
    return listener


def introduced(sock: socket.socket, secret: str) -> bool:
    """Does the peer of a new connection begin with the secret? Anybody on the machine can reach a port."""
    wanted = secret.encode()
    got = b""
    try:
        sock.settimeout(SECRET_S)
        while len(got) < len(wanted):
            data = sock.recv(len(wanted) - len(got))
            if not data:
                return False
            got += data
    except OSError:
        return False
    return hmac.compare_digest(got, wanted)


class Guard:
    """Lets those requests through that bring the secret, and takes it off them: the app never sees it."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = secret.encode("latin-1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = [value for name, value in scope["headers"] if name == b"x-htagweb-secret"]
        if len(said) == 1 and hmac.compare_digest(said[0], self._secret):
            headers = [(name, value) for name, value in scope["headers"] if name != b"x-htagweb-secret"]
            await self._app({**scope, "headers": headers}, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await respond_json(send, 403, {"error": "this is not yours"})
