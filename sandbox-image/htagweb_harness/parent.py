"""What a sandbox that is a mere process owes to whoever started it: to end with it, and to keep to its limits."""

from __future__ import annotations

import os
import signal
import sys
import threading

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

OUT_OF_MEMORY = 137  # our exit code then; so a container ends that the kernel ended for it

# The app may replace os._exit (and the harness does).
_exit = os._exit


def end_with_parent() -> None:
    """End when our stdin does: the other end of that pipe is our parent's, and the kernel closes it however it dies.

    The app gets an empty stdin instead. Waiting is done by a thread of its own, so that an app that blocks its event
    loop ends as well.
    """
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_wait, args=(lifeline,), name="lifeline", daemon=True).start()


def _wait(lifeline: int) -> None:
    try:
        while os.read(lifeline, 1):
            pass
    except OSError:
        pass
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():  # what the app started goes with us
        os.killpg(0, signal.SIGKILL)
    _exit(0)


_limited = False


def keep_to(memory_bytes: int) -> None:
    """Let what is allocated beyond this fail, where the OS can count it; 0 is no limit.

    Not by RLIMIT_AS: the reserved address space of a handful of threads (a stack and an arena each, 72 MB) would use
    up any reasonable limit. RLIMIT_DATA counts what can be written to. Not by RLIMIT_NPROC either: it counts all that
    the user runs on the machine.
    """
    global _limited
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if memory_bytes and sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        _limited = True


def let_go() -> bool:
    """Lift that limit: the last words take memory too. False if there was none."""
    if _limited:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    return _limited
