"""What happened to a sandbox, in a visitor's words. Pages and /-/status say the same sentences."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from htagweb_orchestrator.model import Ending, Route, State, Step


class Words(NamedTuple):
    title: str
    text: str
    action: str  # the one button


_KEPT = "What you had open in it is gone; your session is kept."


# Of an app that is not published, or not for whoever asks: which of the two, nobody is told.
NOT_HERE = Words(
    "This app can't be opened", "It is no longer published here, or not for you. Your session is kept.", "Try again"
)


def ending_words(route: Route | None) -> Words:
    """Say why there is no running app behind a page. None: nothing is known of one any more."""
    if route is None or route.state is not State.ENDED:
        return Words("This app isn't running", f"It was ended some time ago. {_KEPT}", "Start again")
    match route.ending:
        case Ending.IDLE:
            unused = f"Nobody used it for {duration(route.idle_timeout_s)}, so it made room for others."
            return Words("This app was put away", f"{unused} {_KEPT}", "Start again")
        case Ending.LIFETIME:
            return Words("Time's up for this app", f"It ran for as long as an app may run. {_KEPT}", "Start again")
        case Ending.TIMEOUT:
            slow = "Something you did in it was not finished in time, so the app was ended."
            return Words("This app took too long", f"{slow} {_KEPT}", "Start again")
        case Ending.MEMORY:
            return Words("This app ran out of memory", f"It needed more than it may have. {_KEPT}", "Start again")
        case Ending.CRASHED:
            return Words("This app crashed", f"It stopped by itself, in the middle of its work. {_KEPT}", "Start again")
        case Ending.EXITED:
            return Words("This app has finished", f"It ended itself, as it was told to. {_KEPT}", "Start again")
        case Ending.SERVER:
            unable = "The server could not make a place for it to run in. The fault is neither the app's nor yours."
            return Words("This app could not be started", unable, "Try again")
        case Ending.FAILED:
            failed = "It failed before it could show its first page. The fault is in the app, not in what you did."
            return Words("This app could not start", failed, "Try again")
        case Ending.VISITOR:
            return Words("You stopped this app", _KEPT, "Start again")
        case Ending.OPERATOR:
            return Words(
                "This app was stopped", f"Somebody who looks after this server ended it. {_KEPT}", "Start again"
            )
        case Ending.UPDATED:
            return Words("This app was updated", f"There is a new version of it. {_KEPT}", "Start the new version")
        case Ending.DATA:
            full = "It kept more for you than it may, so it was ended. If it lets you remove something, do that first."
            return Words("This app's data is full", full, "Start again")
        case Ending.FULL:
            return Words(
                "This app made room",
                f"The server ran short of memory, and it was idle for the longest. {_KEPT}",
                "Start again",
            )
        case Ending.LOST | Ending.SURPLUS | None:
            return Words("This app is gone", f"The machine that it ran on lost it. {_KEPT}", "Start again")


def line_words(route: Route | None) -> str:
    """Where a visitor stands in the line of those who wait for room; "" for one that doesn't wait."""
    if route is None or route.place is None:
        return ""
    where = "You are next" if route.place == 1 else f"You are number {route.place}"
    about = f", in about {duration(max(1.0, route.expected_s))}" if route.expected_s is not None else ""
    return f"The server is full at the moment. {where} in line{about}. Keep this page open: it holds your place."


NEARLY = 0.95  # how far a bar goes for a start that takes longer than it should


def progress(route: Route | None) -> float | None:
    """How far a start has come, between 0 and 1, going by the median of the last ones; None where nothing is known,
    and in the line."""
    if route is None or route.state is not State.STARTING or route.place is not None or not route.expected_s:
        return None
    return round(min(NEARLY, route.started_ago_s / route.expected_s), 3)


def usual_words(route: Route | None) -> str:
    """How long such a start takes, behind how long it has taken so far; "" where `progress` knows nothing."""
    if route is None or route.expected_s is None or progress(route) is None:
        return ""
    usual, most = duration(max(1.0, route.expected_s)), ""
    if route.expected_most_s is not None:
        if route.started_ago_s > max(1.0, route.expected_most_s):
            return f", which is longer than usual: nearly always it takes {usual} or so"
        most = duration(max(1, ceil(route.expected_most_s)))
    return f", it usually takes {usual}" + (f" and seldom more than {most}" if most not in ("", usual) else "")


_TIMES = {Step.QUEUED: "queue", Step.CREATING: "create", Step.STARTING: "start", Step.LOADING: "load"}


def step_times(route: Route | None) -> dict[str, str]:
    """For each step of a start that is behind it, how long it took: {"creating": "0.2 s"}."""
    if route is None or route.state is not State.STARTING:
        return {}
    return {
        step.value: f"{route.steps_ms[name] / 1000:.1f} s" for step, name in _TIMES.items() if name in route.steps_ms
    }


def duration(seconds: float) -> str:
    """A length of time as people say it, in its largest unit, rounded down: "15 minutes", "1 hour"."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size or size == 1:
            count = max(0, int(seconds // size))
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    raise AssertionError
