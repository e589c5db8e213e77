"""How many cores this process may use, where it is bound to some of them or a container has a share."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = _CGROUP) -> int:
    """Count the cores that this process may use, at least 1: by its affinity, and by the quota of its container.

    Args:
        cgroup: where the system mounts the limits of the container; version 1 and version 2 are read.
    """
    # macOS and Windows have no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _quota(cgroup)
    return cores if share is None else max(1, min(cores, math.ceil(share)))


def _quota(cgroup: Path) -> float | None:
    """The container's share of the cores, such as 1.5; None: no limit."""
    try:
        if (both := cgroup / "cpu.max").is_file():
            quota, period = both.read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such files, or "max"
        return None
    return share if share > 0 else None
