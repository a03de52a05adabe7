"""What the kernel knows of a process, and of the machine in words that name no machine."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import time
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


def family(pid: int) -> list[int]:
    """A process and its children, such as nginx's worker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def cpu_s(pid: int) -> float:
    """CPU time of a process and its children, all threads, to the nanosecond (/proc/PID/stat counts in 10 ms)."""
    total = 0.0
    for each in family(pid):
        clock = ctypes.c_int()
        if error := _libc.clock_getcpuclockid(each, ctypes.byref(clock)):
            raise OSError(error, os.strerror(error))
        total += time.clock_gettime(clock.value)
    return total


def memory_kb(pid: int) -> int:
    """Resident memory of a process and its children."""
    total = 0
    for each in family(pid):
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{each}/status").read_text(), re.MULTILINE)
        total += int(found[1]) if found else 0
    return total


def machine() -> str:
    cores = len(os.sched_getaffinity(0))
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{cores} cores ({model[1] if model else platform.machine()}), {gigabytes:.0f} GB of memory, Linux {kernel}"


def two_cores() -> tuple[int, int]:
    """One core for what is measured, one for what measures; the same one where there is no other."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1], cores[0]
