"""The conditions of a measurement (date, commit, device, versions), written beside the figures of every benchmark."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
import statistics
import sys
from pathlib import Path

import torch

import scalablevit
from scalablevit.training.environment import git

_PACKAGE = Path(scalablevit.__file__).parent
_COMPANIONS = ("timm", "triton")  # packages beside torch that may change a figure


def cpu_model() -> str:
    """Return the name of the processor, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """Return the short hash of the package's commit, with "-dirty" if files were changed; "unknown" outside a clone."""
    top = git(_PACKAGE, "rev-parse", "--show-toplevel")
    # An installed package may lie inside another project's clone, for example in its virtual environment.
    if not top or Path(top) / "src" / "scalablevit" != _PACKAGE.resolve():
        return "unknown"
    return git(_PACKAGE, "describe", "--always", "--dirty", "--exclude=*") or "unknown"


def spread(times: list[float]) -> dict[str, float]:
    """Compute median and quartiles of at least two times, in seconds."""
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"median": median, "quartile_1": low, "quartile_3": high}


def conditions(device: str | torch.device) -> dict[str, str]:
    """Collect date, commit, device and versions.

    Args:
        device: that of the measurement.
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
    """Return the peak memory of this process so far.

    Raises:
        RuntimeError: the system does not tell, as Windows.
    """
    # From /proc where it exists: the maximum of getrusage includes the process that started this one.
    found = _from_status("VmHWM:")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        raise RuntimeError("this system does not tell the peak memory of a process; leave out --memory") from None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_bytes() -> int:
    """Return the memory that this process holds now; its peak where the system does not tell."""
    found = _from_status("VmRSS:")
    return peak_bytes() if found is None else found


def forget_peak() -> None:
    """Reset the peak of `peak_bytes`; without effect outside Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _from_status(field: str) -> int | None:
    """Read a field of /proc/self/status, in bytes; None where that file does not exist."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
