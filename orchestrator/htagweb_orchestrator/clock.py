"""Time as leases keep it: seconds since boot, suspended time included, and the boot they belong to."""

from __future__ import annotations

import time
from pathlib import Path


def boottime_s() -> float:
    """CLOCK_BOOTTIME: the same in every process and container of the machine, and deaf to changes of the wall clock."""
    if not hasattr(time, "CLOCK_BOOTTIME"):  # not Linux: there no lease outlives the process that wrote it
        return time.monotonic()
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Which boot `boottime_s` counts from; a lease of another boot is over."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return ""
