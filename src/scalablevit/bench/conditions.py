"""What a result was measured with and on: every benchmark writes it beside its figures."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
import resource
import statistics
import sys
from pathlib import Path

import torch

import scalablevit
from scalablevit.training.environment import git

_PACKAGE = Path(scalablevit.__file__).parent
_COMPANIONS = ("timm", "triton")  # beside torch, what may change a figure


def cpu_model() -> str:
    """Name of the processor, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """Short hash of this package's commit, with "-dirty" where files were changed; "unknown" outside a checkout."""
    top = git(_PACKAGE, "rev-parse", "--show-toplevel")
    # An installed package may lie inside the checkout of something else, such as in its virtual environment.
    if not top or Path(top) / "src" / "scalablevit" != _PACKAGE.resolve():
        return "unknown"
    return git(_PACKAGE, "describe", "--always", "--dirty", "--exclude=*") or "unknown"


def spread(times: list[float]) -> dict[str, float]:
    """Median and quartiles of at least two times, in seconds."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"median": median, "quartile_1": low, "quartile_3": high}


def conditions(device: str | torch.device) -> dict[str, str]:
    """Date, commit, device and versions.

    Args:
        device: what was measured on.
    """
    device = torch.device(device)
    found = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "scalablevit": scalablevit.__version__,
    }
    for name in _COMPANIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    if device.type == "cuda":
        found["cuda"] = str(torch.version.cuda or torch.version.hip)
    return found


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    # Where there is /proc: what the system calls the maximum includes the process that this one was started from.
    found = _from_status("VmHWM:")
    if found is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_bytes() -> int:
    """The memory that this process holds now; the most it has held where the system does not tell."""
    found = _from_status("VmRSS:")
    return peak_bytes() if found is None else found


def forget_peak() -> None:
    """Let `peak_bytes` count from now on; without effect where the system has no such thing, that is outside Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _from_status(field: str) -> int | None:
    """A field of /proc/self/status, in bytes; None where there is no such file."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
