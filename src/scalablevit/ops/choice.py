"""Which implementation of an attention runs: our Triton kernel, PyTorch's fused attention, or the definition."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from dataclasses import dataclass
from typing import Literal, cast

import torch

Implementation = Literal["auto", "triton", "torch", "reference"]
"""How to compute an attention: "auto" takes "triton" where its kernel can serve, else "torch"."""

ENVIRONMENT_VARIABLE = "SCALABLEVIT_ATTENTION"
"""Names the implementation of every attention that was not told another one; read when scalablevit is imported."""

IMPLEMENTATIONS = ("auto", "triton", "torch", "reference")

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = (8, 0)  # of a CUDA device: bfloat16 in the tensor cores


@dataclass(frozen=True)
class Choice:
    """What runs, and why.

    Attributes:
        implementation: "triton", "torch" or "reference".
        reason: in words, for people.
    """

    implementation: Literal["triton", "torch", "reference"]
    reason: str


def check_implementation(name: str) -> Implementation:
    """The name itself.

    Raises:
        ValueError: it is none of `IMPLEMENTATIONS`.
    """
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"attention implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {name!r}")
    return cast(Implementation, name)


def _from_environment() -> Implementation:
    name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"environment variable {ENVIRONMENT_VARIABLE} must be one of {', '.join(IMPLEMENTATIONS)}, got {name!r}"
        )
    return cast(Implementation, name)


# Constants, so that torch.compile need not ask for them in the middle of a graph.
DEFAULT: Implementation = _from_environment()
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def choose(
    wanted: Implementation, *, device: torch.device, dtype: torch.dtype, dropout: float, cannot: str | None
) -> Choice:
    """What runs for tensors of a device and dtype.

    Args:
        wanted: what the caller asked for; "auto" leaves it to the environment variable and the device.
        device, dtype: of the tensors.
        dropout: of attention weights; the kernels have none.
        cannot: why the kernel cannot serve these sizes, or None.

    Returns:
        the choice. "triton" that was asked for and cannot serve gives "torch", with the reason.
    """
    wanted = check_implementation(wanted)
    if wanted == "auto":
        wanted = DEFAULT
    if wanted == "torch" or wanted == "reference":
        return Choice(wanted, "asked for")
    obstacle = _obstacle(device, dtype, dropout, wanted == "triton") or cannot
    if obstacle is not None:
        return Choice("torch", obstacle)
    return Choice("triton", "asked for" if wanted == "triton" else "it can serve here")


def _obstacle(device: torch.device, dtype: torch.dtype, dropout: float, is_asked_for: bool) -> str | None:
    """Why no kernel of ours can run, or None."""
    if torch.compiler.is_exporting():
        return "an exported graph holds PyTorch's operators only"
    if not _HAS_TRITON:
        return "Triton is not installed"
    # Interpreted kernels run anywhere and take ages: for tests, never by themselves.
    if device.type != "cuda" and not (_IS_INTERPRETED and is_asked_for and device.type == "cpu"):
        return f"Triton's kernels need a CUDA device, not {device.type}"
    if device.type == "cuda" and not _is_new_enough(device.index or 0):
        return "the CUDA device is older than compute capability 8.0"
    if dtype not in _KERNEL_DTYPES:
        return f"the kernels compute in float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    return "the kernels have no dropout of attention weights" if dropout > 0 else None


@torch.compiler.assume_constant_result  # torch.compile would break its graph to ask the driver
def _is_new_enough(index: int) -> bool:
    return torch.version.hip is not None or torch.cuda.get_device_capability(index) >= _LEAST_CAPABILITY


def failed_to_build(error: BaseException) -> bool:
    """Whether the launch of a kernel failed because it cannot be had here, not because it is wrong.

    So it is if the device has too few registers or too little shared memory for it, if Triton or its assembler cannot
    translate it, or if the machine has no C compiler, with which Triton builds its launchers.
    """
    if _IS_INTERPRETED:
        return False
    if any(kind.__module__.split(".")[0] == "triton" for kind in type(error).__mro__):
        return True
    if isinstance(error, subprocess.CalledProcessError):  # the C compiler's
        return True
    # Triton has no class of its own for these two.
    return isinstance(error, RuntimeError) and ("PassManager" in str(error) or "C compiler" in str(error))
