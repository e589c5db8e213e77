"""Which form of a layer is faster, ours or PyTorch's: times measured on the device that computes, kept in a file.

`scalablevit.layers.autotune` measures and writes; here they are read and asked for. A time holds for one device under
one driver and one version of everything that makes the code that runs: these are the environment, and the file keeps
each apart.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, cuda

Task = Literal["inference", "training"]
Times = dict[str, float]
"""Form ("triton" or "torch") -> seconds of a call."""

FILE_VARIABLE = "SCALABLEVIT_AUTOTUNE_FILE"
"""Names the file in which measured times are kept; read whenever the file is."""

FORMAT = 1
_FORMS = ("triton", "torch")


class Case(NamedTuple):
    """What is measured once.

    Attributes:
        operator: "feed_forward", "norm_linear", "norm_reduce" or "depthwise".
        sizes: of the layer, in words.
        most_tokens: of the map, all images together, as `most_tokens` rounds them.
        stream: dtype of the map.
        dtype: of the products.
    """

    operator: str
    sizes: str
    most_tokens: int
    stream: torch.dtype
    dtype: torch.dtype

    def key(self, task: Task) -> str:
        """Its name in the file."""
        stream, dtype = (str(found).removeprefix("torch.") for found in (self.stream, self.dtype))
        return f"{self.operator}, {self.sizes}, up to {self.most_tokens} tokens of {stream}, {dtype}, {task}"


def most_tokens(x: Tensor) -> int:
    """Round up the number of tokens of a map, (B, ..., C), to a power of two: maps that share one share a measurement.

    Of symbolic sizes it is a number too; torch.compile guards on the range.
    """
    tokens, most = x.shape[:-1].numel(), 1
    while most < tokens:
        most *= 2
    return most


_here: dict[int, str] = {}  # CUDA device -> its environment: asked for at each call of a layer
_times: dict[str, dict[str, Times]] | None = None  # environment -> case's name -> times; None: not yet read


def path() -> Path:
    """The file: SCALABLEVIT_AUTOTUNE_FILE, or autotune.json in the user's cache folder for scalablevit.

    A user without a home has the folder of temporary files instead.
    """
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named)
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else _cache_folder()) / "scalablevit" / "autotune.json"


def _cache_folder() -> Path:
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # HOME is unset, and the system does not know the user: as in containers
        return Path(tempfile.gettempdir())


def environment(device: torch.device) -> str:
    """Name all that times depend on: the device, its driver, versions and sources of the code that runs."""
    if device.type == "cuda":
        name = cuda.get_device_properties(cuda.current_device() if device.index is None else device.index).name
        parts = [name, f"driver {_driver()}"]
    else:
        parts = [f"{device.type}, interpreted"]  # by Triton, in tests
    parts.append(f"torch {torch.__version__}")
    for package in ("triton", "scalablevit"):
        try:
            parts.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{package} unknown")
    parts.append(f"kernels {_sources()}")
    return ", ".join(parts)


@functools.cache
def _sources() -> str:
    """What the kernels are written as, in eight digits: an installation in place changes without its version."""
    found = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*/*.py")):
        if file.name in ("kernel.py", "backward_kernel.py", "programs.py", "tiles.py"):
            found.update(file.read_bytes())
    return found.hexdigest()[:8]


def _driver() -> str:
    """Version of NVIDIA's driver, where the system tells."""
    try:
        found = re.search(r"NVRM version:.*?\s(\d+\.[\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        found = None
    return found[1] if found else "unknown"


def read() -> dict[str, dict[str, Times]]:
    """Read the file: environment -> case's name -> times. What cannot be read is not measured, with a warning."""
    file = path()
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        return _ignored(file, f"{type(error).__name__}: {error}")
    if not isinstance(found, Mapping) or found.get("format") != FORMAT:
        return _ignored(file, f"it is not of format {FORMAT}")
    environments = found.get("environments")
    if not isinstance(environments, Mapping) or not all(_are_times(cases) for cases in environments.values()):
        return _ignored(file, "it does not hold times")
    return {name: dict(cases) for name, cases in environments.items()}


def _are_times(cases: Any) -> bool:
    return isinstance(cases, Mapping) and all(
        isinstance(times, Mapping)
        and set(times) == set(_FORMS)
        and all(isinstance(seconds, float) and seconds > 0 for seconds in times.values())
        for times in cases.values()
    )


def _ignored(file: Path, reason: str) -> dict[str, dict[str, Times]]:
    warnings.warn(
        f"the measured times in {file} are ignored ({reason}); remove the file, or measure again with "
        "scalablevit.optimize(autotune=True)",
        stacklevel=3,
    )
    return {}


def known() -> dict[str, dict[str, Times]]:
    """What the file held when this process first asked, and what was measured since."""
    global _times
    if _times is None:
        _times = read()
    return _times


def forget() -> None:
    """Read the file anew when it is next asked for."""
    global _times
    _times = None
    _here.clear()


# torch.compile would break its graph at what follows: see `choice.py`.


@torch.compiler.assume_constant_result
def is_anything_known() -> bool:
    """Tell whether there are times at all: the first question, before any about the map or the device."""
    return bool(known())


@torch.compiler.assume_constant_result
def slower_kernel(
    operator: str,
    sizes: str,
    most_tokens: int,
    stream: torch.dtype,
    dtype: torch.dtype,
    task: Task,
    index: int | None,
) -> str | None:
    """Say that our kernel was measured to be slower than PyTorch on a CUDA device, in words; None: it was not.

    Args:
        operator, sizes, most_tokens, stream, dtype: of the case.
        task: what it is computed for.
        index: of the device; None: the current one.
    """
    index = cuda.current_device() if index is None else index
    if index not in _here:
        _here[index] = environment(torch.device("cuda", index))
    times = known().get(_here[index], {}).get(Case(operator, sizes, most_tokens, stream, dtype).key(task))
    if times is None or times["triton"] <= times["torch"]:
        return None
    return f"PyTorch was measured to be {times['triton'] / times['torch']:.2f} times as fast on this device"
