"""Why a sandbox is still there, and why one ended, in an operator's words."""

from __future__ import annotations

from .model import Ending, State, Step
from .quantities import show_duration
from .registry import Sandbox

ENDED = {
    Ending.IDLE: "its user did nothing for idle_timeout",
    Ending.LIFETIME: "its max_lifetime was over",
    Ending.TIMEOUT: "an interaction took longer than interaction_timeout",
    Ending.MEMORY: "it needed more memory than it may have",
    Ending.CRASHED: "it stopped by itself, in the middle of its work",
    Ending.EXITED: "the app ended itself",
    Ending.FAILED: "it never got to its first page",
    Ending.SERVER: "it could not be started, through no fault of the app",
    Ending.VISITOR: "its user stopped it",
    Ending.OPERATOR: "an operator ended it",
    Ending.UPDATED: "an operator ended it, because there is a newer version",
    Ending.DATA: "it kept more in /data than it may",
    Ending.FULL: "the server ran short of memory, and it was idle for the longest",
    Ending.SURPLUS: "it was warm, and nobody needed it any more",
    Ending.LOST: "it, or the engine's record of it, went away",
}


def why(sandbox: Sandbox, now: float, *, watched: bool) -> str:
    """For a table: a few words."""
    if sandbox.state is State.WARM:
        return "warm: waits for a visitor"
    if sandbox.state is State.STARTING:
        return f"starting: {sandbox.step}"
    if sandbox.state is State.ENDED:
        return f"ending: {sandbox.ending}"
    busy_s = sandbox.busy_left_s(now)
    if busy_s > 0:
        return f"busy: {sandbox.busy.label or 'with something'}, {show_duration(busy_s)} left"
    if not watched:
        return "no gateway reports: idle time stands still"
    return "until idle" if sandbox.left(now)[1] is Ending.IDLE else "until its max_lifetime"


def because(sandbox: Sandbox, now: float, *, watched: bool) -> str:
    """A sentence."""
    if sandbox.ending is not None:
        return because_ended(sandbox.ending, sandbox.detail)
    if sandbox.state is State.WARM:
        return "it was started before anybody asked, and waits for a visitor"
    if sandbox.state is State.STARTING:
        since = show_duration(now - sandbox.lease.created_s)
        done = "waits in the line" if sandbox.step is Step.QUEUED else f"is {sandbox.step}"
        return f"its visitor asked for it {since} ago; it {done}"
    limits = sandbox.lease.limits
    left_s, limit = sandbox.left(now)
    left = show_duration(max(0.0, left_s))
    if sandbox.busy_left_s(now) > 0:
        return f"it said that it is busy: {sandbox.busy.label or 'with something'}; until that is over it isn't idle"
    if not watched:
        return "no gateway reports whether its user does anything, so it isn't taken for idle"
    if limit is Ending.LIFETIME:
        return f"its max_lifetime of {show_duration(limits.max_lifetime_s)} is over in {left}"
    return (
        f"its user did something {show_duration(sandbox.lease.idle_s(now))} ago; "
        f"without more it ends after {show_duration(limits.idle_timeout_s)}, in {left}"
    )


def because_ended(ending: Ending, detail: str) -> str:
    return f"{ENDED[ending]} ({detail})" if detail else ENDED[ending]
