"""The key that a page and its harness agree on, and the records that nobody between them can read, change, repeat or
reorder. parano.js is the page's half; docs/parano.md draws the formats.

Both make a P-256 key for this one page and send each other its public half. HKDF-SHA256 makes two AES-256 keys of the
secret that only they can compute from it, one a direction. Everything travels in channels: one request with its answer,
one event stream, one socket. A channel's number is the page's choice and is used once; record i of it is sealed under
the nonce `number, i`, so it opens in its own place and nowhere else.

Imports `cryptography`: only where an app has parano on.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from enum import Enum
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import ECDH, SECP256R1, EllipticCurvePublicKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TO_APP, TO_PAGE = b"htagweb parano 1: to the app", b"htagweb parano 1: to the page"
NAME_BYTES, NUMBER_BYTES, LENGTH_BYTES = 16, 4, 4
PAGES = 64  # open pages whose keys are kept; the one that was silent for the longest gives way, and loads itself again
GAPS = 1024  # numbers of channels that may arrive that much out of order


class Form(Enum):
    """What a channel is. Sealed in, so that a record of one is none of another."""

    EXCHANGE = b"exchange"
    STREAM = b"stream"
    SOCKET = b"socket"


class Kind(Enum):
    """The first byte of what is sealed in a record."""

    HEAD = b"h"  # JSON: what is asked for, or how it is answered; each channel begins with one, either way
    TEXT = b"t"
    BYTES = b"b"
    END = b"z"  # of a request and of its answer: without it they were cut off


class Refused(Exception):
    """Not understood, not sealed by whom it should be, or not for the first time."""

    status = 400


class Repeated(Refused):
    status = 409


class Unknown(Refused):
    """No key was agreed on under that name, or it was long ago. The page has to load itself again."""

    status = 410


class Channel:
    """Its two directions count for themselves. Sealing and opening have to be done in the order of the wire."""

    def __init__(self, to_app: AESGCM, to_page: AESGCM, number: int, form: Form) -> None:
        self._to_app = to_app
        self._to_page = to_page
        self._number = number.to_bytes(NUMBER_BYTES, "big")
        self._form = form
        self._opened = self._sealed = 0

    def open(self, record: bytes) -> tuple[Kind, bytes]:
        """The next record from the page. Raises Refused; the channel is then of no more use."""
        try:
            plain = self._to_app.decrypt(self._nonce(self._opened), record, self._form.value)
            kind = Kind(plain[:1])
        except (InvalidTag, ValueError) as error:
            raise Refused("this record isn't the next one of its channel") from error
        self._opened += 1
        return kind, plain[1:]

    def seal(self, kind: Kind, data: bytes = b"") -> bytes:
        record = self._to_page.encrypt(self._nonce(self._sealed), kind.value + data, self._form.value)
        self._sealed += 1
        return record

    def _nonce(self, count: int) -> bytes:
        return self._number + count.to_bytes(8, "big")


class Agreement:
    """The keys of one page."""

    def __init__(self, secret: bytes, salt: bytes) -> None:
        self._to_app, self._to_page = (
            AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret))
            for info in (TO_APP, TO_PAGE)
        )
        self._all_up_to = 0  # numbers of channels up to this one were used, or are too late
        self._used: set[int] = set()  # and these beyond it

    def channel(self, number: int, form: Form, first: bytes) -> tuple[Channel, dict[str, Any]]:
        """A channel, and what its first record asks for. Raises Refused."""
        if number <= self._all_up_to or number in self._used:
            raise Repeated("this channel was opened before")
        channel = Channel(self._to_app, self._to_page, number, form)
        kind, head = channel.open(first)
        # Only what opened uses up a number: else anybody could spend those that the page still needs.
        self._use(number)
        try:
            asked = json.loads(head)
        except (ValueError, RecursionError) as error:
            raise Refused("the first record is no JSON") from error
        if kind is not Kind.HEAD or not isinstance(asked, dict):
            raise Refused("a channel begins with what is asked for")
        return channel, asked

    def _use(self, number: int) -> None:
        self._used.add(number)
        if len(self._used) > GAPS:
            self._all_up_to = min(self._used)
            self._used.remove(self._all_up_to)
        while self._all_up_to + 1 in self._used:
            self._all_up_to += 1
            self._used.remove(self._all_up_to)


class Agreements:
    """Those of all pages that are open, by a name that isn't secret."""

    def __init__(self) -> None:
        self._pages: dict[bytes, Agreement] = {}

    def agree(self, point: bytes) -> bytes:
        """Answer a page's public key (a point, uncompressed): ours, and the name of what was agreed. Raises Refused."""
        try:
            theirs = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
        except ValueError as error:
            raise Refused("that is no point of P-256") from error
        own = generate_private_key(SECP256R1())
        our_point = own.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        name = secrets.token_bytes(NAME_BYTES)
        self._pages[name] = Agreement(own.exchange(ECDH(), theirs), point + our_point)
        while len(self._pages) > PAGES:
            del self._pages[next(iter(self._pages))]
        return our_point + name

    def open(self, data: bytes, form: Form) -> tuple[Channel, dict[str, Any]]:
        """The channel that `data` (name, number, one record) opens, and what it asks for. Raises Refused."""
        name, number, record = data[:NAME_BYTES], data[NAME_BYTES:][:NUMBER_BYTES], data[NAME_BYTES + NUMBER_BYTES :]
        if not record:
            raise Refused("this is no sealed message")
        page = self._pages.pop(name, None)
        if page is None:
            raise Unknown("no key is known by this name: load the page again")
        self._pages[name] = page  # as the one used last
        return page.channel(int.from_bytes(number, "big"), form, record)


def packed(record: bytes) -> bytes:
    """A record among others, as in bodies."""
    return len(record).to_bytes(LENGTH_BYTES, "big") + record


def unpacked(data: bytes) -> Iterator[bytes]:
    """The records of a whole body. Raises Refused."""
    at = 0
    while at < len(data):
        end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        if end > len(data) or at + LENGTH_BYTES > len(data):
            raise Refused("the body was cut off")
        yield data[at + LENGTH_BYTES : end]
        at = end
