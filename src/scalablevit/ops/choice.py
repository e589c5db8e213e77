"""Choose the implementation of an attention: our Triton kernel, PyTorch's fused attention, or the definition."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import cuda
from torch.autograd import forward_ad

from scalablevit.ops import probe
from scalablevit.ops.recording import is_exporting

Implementation = Literal["auto", "triton", "torch", "reference"]
"""How to compute an attention: "auto" takes "triton" where its kernel is supported and fast, else "torch"."""

Resolved = Literal["triton", "torch", "reference"]
"""An implementation that was chosen: one of those that run."""

ENVIRONMENT_VARIABLE = "SCALABLEVIT_ATTENTION"
"""Sets the implementation of every attention whose own is "auto"; read when scalablevit is imported."""

IMPLEMENTATIONS = ("auto", "triton", "torch", "reference")

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = (8, 0)  # of a CUDA device: bfloat16 in the tensor cores


@dataclass(frozen=True)
class Choice:
    """The implementation that runs, and the reason.

    Attributes:
        implementation: "triton", "torch" or "reference".
        reason: in words, for people.
    """

    implementation: Resolved
    reason: str


def check_implementation(name: str) -> Implementation:
    """Return the name itself.

    Raises:
        ValueError: it is none of `IMPLEMENTATIONS`.
    """
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"attention implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {name!r}")
    return cast(Implementation, name)


def implementation_in(variable: str) -> Implementation:
    """Read the implementation that an environment variable asks for; "auto" where it is not set.

    Raises:
        ValueError: it holds none of `IMPLEMENTATIONS`.
    """
    name = os.environ.get(variable) or "auto"
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"environment variable {variable} must be one of {', '.join(IMPLEMENTATIONS)}, got {name!r}")
    return cast(Implementation, name)


# Constants, so that torch.compile need not ask for them in the middle of a graph.
DEFAULT: Implementation = implementation_in(ENVIRONMENT_VARIABLE)
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton interprets kernels, on any device, instead of building them."""
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_IS_ROCM = torch.version.hip is not None

_said: set[str] = set()


def choose(
    wanted: Implementation,
    *,
    device: torch.device | None,
    dtype: torch.dtype | None,
    dropout: float,
    cannot: Callable[[], str | None],
    default: Implementation | None = None,
) -> Choice:
    """Choose the implementation for tensors of a device and dtype.

    Args:
        wanted: what the caller asked for; "auto" leaves it to the environment variable and the device.
        device, dtype: of the tensors; None while torch.fx records symbols that have neither.
        dropout: of attention weights; the kernels have none.
        cannot: tells why the kernel does not support these sizes, or None. It is called only where nothing else
            forbids the kernel, because sizes are no numbers while torch.jit traces.
        default: what "auto" stands for; None: what the environment variable says of attentions.

    Returns:
        the choice. Where "triton" is asked for and not supported, it is "torch", with the reason.
    """
    wanted = _or_default(check_implementation(wanted), DEFAULT if default is None else default)
    if wanted == "torch" or wanted == "reference":
        return Choice(wanted, "asked for")
    is_asked_for = wanted == "triton"
    obstacle = _obstacle(device, dtype, dropout, is_asked_for) or cannot()
    # Last, as the first question about a device builds a kernel.
    if obstacle is None and device is not None and device.type == "cuda" and not IS_INTERPRETED:
        obstacle = _obstacle_on(device.index)
    if obstacle is not None:
        return Choice("torch", obstacle)
    return Choice("triton", "asked for" if is_asked_for else "it can serve here")


def warn_if_ignored(wanted: Implementation, chosen: Choice, device: torch.device | None) -> None:
    """Warn, once for each reason, that "triton" was asked for and something else is about to run on `device`."""
    # On the meta device nothing runs, and without a device nothing runs yet.
    is_real = device is not None and device.type != "meta"
    if _or_default(wanted, DEFAULT) == "triton" and chosen.implementation != "triton" and is_real:
        _warn_once(chosen.reason)


def _or_default(wanted: Implementation, default: Implementation) -> Implementation:
    return default if wanted == "auto" else wanted


def _obstacle(device: torch.device | None, dtype: torch.dtype | None, dropout: float, is_asked_for: bool) -> str | None:
    """Return why no kernel of ours can run, or should, whatever the sizes; or None."""
    if device is None or is_exporting() or torch.jit.is_tracing():
        return "an exported or traced graph holds PyTorch's operators only"
    if not _HAS_TRITON:
        return "Triton is not installed"
    # Interpreted kernels run anywhere and take ages: for tests, never by themselves.
    if device.type != "cuda" and not (IS_INTERPRETED and is_asked_for and device.type == "cpu"):
        return f"Triton's kernels need a CUDA device, not {device.type}"
    if dtype not in _KERNEL_DTYPES:
        return f"the kernels compute in float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    if dropout > 0:
        return "the kernels have no dropout of attention weights"
    if not is_asked_for:
        if dtype == torch.float32:
            return 'the kernels multiply float32 outside the tensor cores, and take it only where "triton" is asked for'
        if _IS_ROCM:
            return 'the kernels were never tried on ROCm, and run there only where "triton" is asked for'
    if _is_transformed():
        return "the kernels have no rules for the transforms of torch.func and for forward-mode derivatives"
    return None


# torch.compile would break its graph at what follows. It calls a function of constant result while it traces, outside
# of the graph, and keeps what it returned.


@torch.compiler.assume_constant_result
def _is_transformed() -> bool:
    """Tell whether a transform of torch.func is active, which torch.compile guards on, or a forward-mode derivative."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


@torch.compiler.assume_constant_result
def _obstacle_on(index: int | None) -> str | None:
    """Return why kernels cannot run on a CUDA device, the current one if None; or None."""
    if not cuda.is_available():
        return "this machine has no CUDA device"  # its tensors are fake
    index = cuda.current_device() if index is None else index
    if not _IS_ROCM and cuda.get_device_capability(index) < _LEAST_CAPABILITY:
        return "the CUDA device is older than compute capability 8.0"
    failure = probe.failure_on(index)
    if failure is not None:
        _warn_once(failure)
    return failure


@torch.compiler.assume_constant_result
def _warn_once(reason: str) -> None:
    if reason not in _said:
        _said.add(reason)
        warnings.warn(f"our attention kernels do not run: {reason}; PyTorch computes instead", stacklevel=2)
