"""The very bytes that browsers send, for the load generators: each request once for every visitor who sends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CLICK = b'{"id":12345,"method":"click","args":[1,2],"kargs":{"a":"hello world"}}'
assert len(CLICK) == 70
APP_COOKIE = "session=abcdefghijklmnopqrstuvwxyz0123456789"
# What a browser adds to what a program would say.
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    "Accept": "*/*",
    "Accept-Language": "en-US,en;q=0.9",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "http://127.0.0.1/bench/",
    "Sec-Fetch-Dest": "empty",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "same-origin",
    "sec-ch-ua": '"Chromium";v="140", "Not=A?Brand";v="24"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
}


def get(path: str, port: int, cookie: str) -> bytes:
    return _head("GET", path, port, cookie, {"Accept": "*/*"})


def post(path: str, port: int, cookie: str, body: bytes = CLICK, more: dict[str, str] | None = None) -> bytes:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(more or {})}
    return _head("POST", path, port, cookie, headers) + body


def handshake(port: int, cookie: str) -> bytes:
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    return _head("GET", "/bench/ws", port, cookie, headers)


def write(path: Path, requests: Sequence[bytes]) -> None:
    path.write_bytes(b"".join(b"%d\n%b" % (len(request), request) for request in requests))


def read(path: Path) -> list[bytes]:
    found, data = [], path.read_bytes()
    while data:
        length, _, data = data.partition(b"\n")
        found.append(data[: int(length)])
        data = data[int(length) :]
    return found


def _head(method: str, path: str, port: int, cookie: str, headers: dict[str, str]) -> bytes:
    host = f"127.0.0.1:{port}"
    fields = {"Host": host, "Origin": f"http://{host}", "Cookie": f"{cookie}; {APP_COOKIE}", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
