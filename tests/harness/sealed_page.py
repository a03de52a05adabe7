"""The page's half of parano mode without a browser: what parano.js does, and what it never would."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import ECDH, SECP256R1, EllipticCurvePublicKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import ClientConnection

from tests.harness.driver import Harness

Record = tuple[str, bytes]


class Agreed:
    """What a page has after the agreement. `answer` is the harness's."""

    def __init__(self) -> None:
        self._own = generate_private_key(SECP256R1())
        self.point = self._own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.channels = 0

    def take(self, answer: bytes) -> None:
        theirs, self.name = answer[:65], answer[65:]
        secret = self._own.exchange(ECDH(), EllipticCurvePublicKey.from_encoded_point(SECP256R1(), theirs))
        self.to_app, self.to_page = (
            AESGCM(HKDF(algorithm=SHA256(), length=32, salt=self.point + theirs, info=info).derive(secret))
            for info in (b"htagweb parano 1: to the app", b"htagweb parano 1: to the page")
        )

    def channel(self, form: str, number: int = 0) -> Channel:
        self.channels += 1
        return Channel(self, form, number or self.channels)


class Channel:
    def __init__(self, page: Agreed, form: str, number: int) -> None:
        self._page = page
        self._form = form.encode()
        self._number = number.to_bytes(4, "big")
        self._sealed = self._opened = 0

    def begin(self, head: object) -> bytes:
        return self._page.name + self._number + self.seal("h", json.dumps(head).encode())

    def seal(self, kind: str, data: bytes = b"") -> bytes:
        record = self._page.to_app.encrypt(self._nonce(self._sealed), kind.encode() + data, self._form)
        self._sealed += 1
        return record

    def open(self, record: bytes) -> Record:
        plain = self._page.to_page.decrypt(self._nonce(self._opened), record, self._form)
        self._opened += 1
        return chr(plain[0]), plain[1:]

    def _nonce(self, count: int) -> bytes:
        return self._number + count.to_bytes(8, "big")

    def request(self, head: object, body: bytes = b"") -> bytes:
        begun = self.begin(head)
        records = [begun[20:], *([self.seal("b", body)] if body else []), self.seal("z")]
        return begun[:20] + b"".join(len(record).to_bytes(4, "big") + record for record in records)

    def answers(self, body: bytes) -> Iterator[Record]:
        while body:
            size = int.from_bytes(body[:4], "big")
            yield self.open(body[4 : 4 + size])
            body = body[4 + size :]


class SealedPage(Agreed):
    """A page that has agreed with a harness on its keys."""

    def __init__(self, harness: Harness) -> None:
        super().__init__()
        self.harness = harness

    @classmethod
    async def open(cls, harness: Harness) -> SealedPage:
        page = cls(harness)
        answer = await harness.http.post("/_sealed/agree", content=page.point)
        assert answer.status_code == 200, answer.text
        page.take(answer.content)
        return page

    async def ask(
        self, method: str, path: str, *, query: str = "", body: object = None, **headers: str
    ) -> httpx.Response:
        """One exchange; what the app answered."""
        channel = self.channel("exchange")
        head = {"method": method, "path": path, "query": query, "headers": list(headers.items())}
        content = b"" if body is None else json.dumps(body).encode()
        outer = await self.harness.http.post("/_sealed", content=channel.request(head, content))
        assert outer.status_code == 200, outer.text
        (_, said), *parts, (last, _) = channel.answers(outer.content)
        assert last == "z"
        answer = json.loads(said)
        return httpx.Response(answer["status"], content=b"".join(part for _, part in parts))

    def stream(self, path: str, query: str = "") -> tuple[Channel, str]:
        """A channel and the address that opens it."""
        channel = self.channel("stream")
        first = channel.begin({"path": path, "query": query})
        return channel, "/_sealed?" + base64.urlsafe_b64encode(first).decode().rstrip("=")

    @asynccontextmanager
    async def socket(self, path: str, query: str = "") -> AsyncIterator[SealedSocket]:
        async with self.harness.websocket("/_sealed") as websocket:
            socket = SealedSocket(websocket, self.channel("socket"))
            await websocket.send(socket.channel.begin({"path": path, "query": query}))
            yield socket


class SealedSocket:
    def __init__(self, websocket: ClientConnection, channel: Channel) -> None:
        self.websocket = websocket
        self.channel = channel

    async def send(self, frame: Any) -> None:
        await self.websocket.send(self.channel.seal("t", json.dumps(frame).encode()))

    async def record(self) -> Record:
        data = await self.websocket.recv()
        assert isinstance(data, bytes)
        return self.channel.open(data)

    async def receive(self) -> Any:
        kind, data = await self.record()
        assert kind == "t"
        return json.loads(data)
