"""What a result was measured with and on: every benchmark writes it beside its figures."""

from __future__ import annotations

import datetime
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def cpu_model() -> str:
    """Name of the processor, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """Short hash of the commit, with "-dirty" where files were changed; "unknown" outside a checkout."""
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(describe, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def spread(times: list[float]) -> dict[str, float]:
    """Median and quartiles of times, in seconds."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"median": median, "quartile_1": low, "quartile_3": high}


def conditions(device: str) -> dict[str, str]:
    """Date, commit, device and versions.

    Args:
        device: "cpu" or "cuda".
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    # Where there is /proc: what the system calls the maximum includes the process that this one was started from.
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
