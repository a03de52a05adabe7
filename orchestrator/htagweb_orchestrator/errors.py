"""Why the orchestrator says no. One tree; each class knows its HTTP status and one word for logs and metrics.

OrchestratorError
├── AppNotFound            404 unknown-app
├── AppBroken              503 broken-app      the app could not be published: `detail` says why
├── AppPreparing           503 preparing       its image is being made; soon it can be started
├── UserLimitReached       429 user-limit      as many sandboxes as one user may have
├── CapacityExceeded       503 full            the machine has no room for one more
├── RateLimited            429 rate-limit      too many starts in too short a time
├── StartFailed            502 failed          the sandbox started, the app did not; `error_id` finds the traceback
├── StartTimeout           504 start-timeout
├── ImageNotFound          503 no-image
├── DiskFailed             503 disk            a folder can't be written: the disk is full, say
├── EngineUnavailable      503 engine          the engine does not answer, or refuses
├── IsolationBroken        503 isolation       the engine did not keep a promise that isolation needs
├── Draining               503 draining
├── BadRequest             400 bad-request     an operator's mistake; the sentence says which
├── NotThere               404 not-found
├── Taken                  409 taken           there is one of that name already
├── SignInRefused          401 sign-in         wrong name or password, or a sign-in that is not offered here
├── SignInLimited          429 sign-in-limit   too many failures; `retry_after_s`
├── NotAnOperator          401 unauthorized    an operators' call without a good token
├── SessionTooLarge        413 session-size    the record is unchanged
├── SessionRefused         422 session-value   what can't be stored as JSON; the record is unchanged
├── SessionStoreFailed     503 session-store   the store can't be read or written just now; the record is unchanged
└── OrchestratorUnavailable 503 orchestrator   raised by its client: no answer on the socket
"""

from __future__ import annotations

from typing import ClassVar


class OrchestratorError(Exception):
    """Base of all refusals. `str(error)` is one sentence for a person, saying what to do next."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal"

    def __init__(self, message: str, **facts: str) -> None:
        super().__init__(message)
        self.facts = facts  # what a page or a program needs beside the sentence: app, error_id, …

    def problem(self) -> dict[str, object]:
        """The error as problem+json (RFC 9457)."""
        return {"type": "about:blank", "status": self.status, "reason": self.reason, "title": str(self), **self.facts}


class AppNotFound(OrchestratorError):
    status, reason = 404, "unknown-app"


class AppBroken(OrchestratorError):
    """The published file can't be an app (syntax, no htag class, …)."""

    status, reason = 503, "broken-app"


class AppPreparing(OrchestratorError):
    """What the app needs is being installed; there is no earlier version to serve meanwhile."""

    status, reason = 503, "preparing"


class UserLimitReached(OrchestratorError):
    """`facts`: limit, and running, which is more where the app has a smaller limit of its own; `longest_idle`, the app
    whose sandbox could be ended to make room."""

    status, reason = 429, "user-limit"


class CapacityExceeded(OrchestratorError):
    """The machine is out of memory for sandboxes; a retry may succeed once the reaper has run."""

    status, reason = 503, "full"


class RateLimited(OrchestratorError):
    status, reason = 429, "rate-limit"


class StartFailed(OrchestratorError):
    """`facts`: error_id, the id under which `htagweb logs` shows what happened."""

    status, reason = 502, "failed"


class StartTimeout(OrchestratorError):
    status, reason = 504, "start-timeout"


class ImageNotFound(OrchestratorError):
    status, reason = 503, "no-image"


class DiskFailed(OrchestratorError):
    status, reason = 503, "disk"


class EngineUnavailable(OrchestratorError):
    status, reason = 503, "engine"


class IsolationBroken(OrchestratorError):
    """What the engine created is not what was asked for, or a sandbox's directory is not what it must be."""

    status, reason = 503, "isolation"


class Draining(OrchestratorError):
    status, reason = 503, "draining"


class BadRequest(OrchestratorError):
    status, reason = 400, "bad-request"


class NotThere(OrchestratorError):
    status, reason = 404, "not-found"


class Taken(OrchestratorError):
    status, reason = 409, "taken"


class SignInRefused(OrchestratorError):
    """The same words whatever was wrong."""

    status, reason = 401, "sign-in"


class SignInLimited(OrchestratorError):
    status, reason = 429, "sign-in-limit"


class NotAnOperator(OrchestratorError):
    status, reason = 401, "unauthorized"


class SessionTooLarge(OrchestratorError):
    status, reason = 413, "session-size"


class SessionRefused(OrchestratorError):
    status, reason = 422, "session-value"


class SessionStoreFailed(OrchestratorError):
    status, reason = 503, "session-store"


class OrchestratorUnavailable(OrchestratorError):
    status, reason = 503, "orchestrator"


def from_problem(problem: dict[str, object]) -> OrchestratorError:
    """Turn problem+json back into the error that it was; an unknown reason becomes the root."""
    facts = {k: str(v) for k, v in problem.items() if k not in ("type", "status", "reason", "title")}
    kinds = {kind.reason: kind for kind in OrchestratorError.__subclasses__()}
    kind = kinds.get(str(problem.get("reason")), OrchestratorError)
    return kind(str(problem.get("title", "the orchestrator refused")), **facts)
