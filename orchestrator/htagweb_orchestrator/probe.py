"""Tries to get out of a sandbox, and says how far it came. Runs in the canary of selftest.py, not in the orchestrator.

Started as a program of its own, with a JSON object as its only argument: `memory`, `pids`, `files` are the limits that
it was given, `neighbour` the id of a sandbox that must not be seen. Knows the standard library only. Each line that it
writes to /run/app/boot.log is a JSON array: what was promised, whether that holds, and what was found.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

Verdict = tuple[bool, str]
REPORT = "/run/app/boot.log"
PR_GET_NO_NEW_PRIVS = 39  # not in gVisor's /proc
BEHIND_THE_FILTER = ("", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EINVAL")  # the family itself was asked
FAMILIES = {"netlink": 16, "packet": 17, "ALG": 38, "VSOCK": 40, "XDP": 44}


def refused(call: Callable[..., object], *args: object) -> str:
    """The name of the error that a call ends in; "" if it succeeds."""
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "error")
    return ""


def status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def uid() -> Verdict:
    found = {*os.getresuid(), *os.getresgid()}
    return 0 not in found and len(found) == 1, f"runs as {sorted(found)}"


def capabilities() -> Verdict:
    found = {name: value for name, value in status().items() if name.startswith("Cap") and int(value, 16)}
    return not found, ", ".join(f"{name} is {value}" for name, value in found.items()) or "none"


def privileges() -> Verdict:
    became_root = not refused(os.setuid, 0)
    flag = ctypes.CDLL(None).prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
    return flag == 1 and not became_root, "became root" if became_root else f"no_new_privs is {flag}"


def seccomp() -> Verdict:
    mode = status().get("Seccomp", "unknown")
    return mode == "2", f"mode {mode}"


def sockets() -> Verdict:
    def make(family: int) -> None:
        socket.socket(family, socket.SOCK_DGRAM).close()

    made = [name for name, family in FAMILIES.items() if refused(make, family) in BEHIND_THE_FILTER]
    return not made, f"{', '.join(made)} can be made" if made else "only Unix and IP"


def root() -> Verdict:
    tried = {place: refused(_write, f"{place}/htagweb-probe") for place in ("", "/etc", "/usr", "/var/tmp")}
    written = [place or "/" for place, error in tried.items() if not error]
    # gVisor looks at the rights of a folder first; /var/tmp is everybody's.
    found = f"wrote to {', '.join(written)}" if written else f"/: {tried['']}, /var/tmp: {tried['/var/tmp']}"
    return not written and "EROFS" in tried.values(), found


def _write(path: str) -> None:
    with open(path, "w"):
        pass
    os.unlink(path)


def directory(neighbour: str) -> Verdict:
    mine = set(os.listdir("/run/app")) - {"boot.log"}
    seen = [folder for folder in ("/run/app", "/run", "/run/app/..", "/run/htagweb") if neighbour in _names(folder)]
    return (
        not mine and not seen,
        f"sees {', '.join(sorted(mine)[:3] or seen)}" if mine or seen else "sees its own alone",
    )


def _names(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def network() -> Verdict:
    with open("/proc/net/dev") as file:
        names = [line.partition(":")[0].strip() for line in file if ":" in line]
    return names == ["lo"], f"has {', '.join(names)}"


def files(most: int) -> Verdict:
    written = 0
    try:
        with open("/tmp/probe", "wb", buffering=0) as file:
            while written <= 2 * most:
                written += file.write(bytes(1 << 16))
    except OSError:
        pass
    os.unlink("/tmp/probe")
    return written <= most, f"wrote {written >> 10}k of {most >> 10}k"


def pids(most: int) -> Verdict:
    children: list[int] = []
    try:
        while len(children) <= 2 * most:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return len(children) < most, f"started {len(children)} of {most}"


def memory(most: int) -> Verdict:
    """In a child, which is then the one that the kernel ends. Where it ends all of us, the engine says so."""
    child = os.fork()
    if child == 0:
        held: list[bytes] = []
        while len(held) << 22 < most + (most >> 1):
            held.append(bytes([1]) * (1 << 22))
        os._exit(0)
    _, ended = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(ended)
    return code != 0, f"used {most * 3 >> 21}m of {most >> 20}m" if code == 0 else f"was ended at {most >> 20}m"


def probe(limits: dict[str, int], neighbour: str) -> Iterator[tuple[str, Callable[[], Verdict]]]:
    yield "uid", uid
    yield "capabilities", capabilities
    yield "privileges", privileges
    yield "seccomp", seccomp
    yield "sockets", sockets
    yield "root", root
    yield "directory", lambda: directory(neighbour)
    yield "network", network
    yield "files", lambda: files(limits["files"])
    yield "pids", lambda: pids(limits["pids"])
    yield "memory", lambda: memory(limits["memory"])  # the last: it may be the end


def main() -> None:
    given = json.loads(sys.argv[-1])
    try:
        report = os.open(REPORT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        sys.exit(3)  # whatever is mounted there, it isn't what was made for it
    for promise, attempt in probe(given["limits"], given["neighbour"]):
        try:
            held, found = attempt()
        except Exception as error:
            held, found = False, f"could not be tried: {error!r}"
        os.write(report, json.dumps([promise, held, found]).encode() + b"\n")


if __name__ == "__main__":
    main()
