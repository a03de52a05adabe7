"""What every sandbox is promised, as far as an engine has to keep it."""

from __future__ import annotations

PROMISES = {
    "uid": ("A sandbox runs as a user of its own, never as root.", "Nothing but the engine itself can be at fault."),
    "capabilities": (
        "A sandbox has no capability.",
        "The engine must honour CapDrop: look for an authorization plugin.",
    ),
    "privileges": ("No setuid program gives a sandbox rights.", "The engine must honour no-new-privileges."),
    "seccomp": ("System calls are filtered.", "The engine and its kernel need seccomp; see `docker info`."),
    "sockets": ("Only Unix and IP sockets can be made.", "The engine must take the seccomp profile that it is given."),
    "root": ("A sandbox's root is read-only.", "The engine must honour ReadonlyRootfs."),
    "directory": (
        "A sandbox sees its own directory alone.",
        "HTAGWEB_RUN_VOLUME must be a plain volume of this engine.",
    ),
    "network": ("A sandbox has no network but its own loopback.", "The engine must honour NetworkMode none."),
    "files": ("What a sandbox writes is bounded.", "The engine must honour the size of a tmpfs."),
    "pids": (
        "Processes are limited.",
        "A rootless engine needs cgroup v2, with the pids controller delegated to its user (systemd: Delegate=yes).",
    ),
    "memory": (
        "Memory is limited.",
        "A rootless engine needs cgroup v2, with the memory controller delegated to its user (systemd: Delegate=yes).",
    ),
}
"""What is tried, by the word that `accept_weak` takes: the promise, and what to change where it doesn't hold."""
