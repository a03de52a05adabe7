"""What may go wrong between gateway and sandbox, before a byte of the answer reached the visitor.

UpstreamError
├── Unreachable    502 unreachable    the dial failed: no request was sent, nothing of its body was read
├── Ended          503 ended          `Upstream.close` was called while the request ran
├── Overloaded     503 overloaded     this sandbox already has as many requests as it may have
├── HeadTimeout    504 timeout        no answer within the time limit
├── BadResponse    502 bad-response   what came back is no answer that may be passed on
│   └── Dropped    502 dropped        the sandbox closed the connection without an answer
├── UploadTimeout  408 upload         the visitor stopped sending the body that was announced
└── TooLarge       413 too-large      the body turned out to be longer than `body_size`

The texts are for logs: a sandbox's bytes never reach them unescaped, and they never reach a visitor.
"""

from __future__ import annotations

from typing import ClassVar


class UpstreamError(Exception):
    status: ClassVar[int] = 502
    reason: ClassVar[str] = "upstream"


class Unreachable(UpstreamError):
    status, reason = 502, "unreachable"


class Ended(UpstreamError):
    status, reason = 503, "ended"


class Overloaded(UpstreamError):
    status, reason = 503, "overloaded"


class HeadTimeout(UpstreamError):
    status, reason = 504, "timeout"


class BadResponse(UpstreamError):
    status, reason = 502, "bad-response"


class Dropped(BadResponse):
    status, reason = 502, "dropped"


class UploadTimeout(UpstreamError):
    status, reason = 408, "upload"


class TooLarge(UpstreamError):
    status, reason = 413, "too-large"
