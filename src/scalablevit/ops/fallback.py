"""Run PyTorch in place of a kernel that cannot be built, so that a run gets slower and does not stop."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from scalablevit.ops.choice import IS_INTERPRETED

_Result = TypeVar("_Result")
_unbuildable: set[tuple[object, ...]] = set()


def kernel_or_plain(
    kernel: Callable[[], _Result],
    plain: Callable[[], _Result],
    *,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    sizes: dict[str, int],
) -> _Result:
    """Run `kernel`; where it cannot be built, warn once and run `plain` from then on.

    Args:
        kernel: launches it.
        plain: the same in PyTorch; runs without autocast, which would choose other dtypes than ours.
        name: of the kernel; with what follows it says which builds are one case.
        device, dtype: of its tensors.
        sizes: that it is built for, by name.
    """
    case = (name, device, dtype, *sizes.items())
    if case not in _unbuildable:
        try:
            return kernel()
        except Exception as error:
            if not failed_to_build(error):
                raise
            _unbuildable.add(case)
            of = ", ".join(f"{size} {number}" for size, number in sizes.items())
            warnings.warn(
                f"the {name} cannot be built for {device}, {dtype}, {of}; PyTorch computes instead "
                f"({type(error).__name__}: {error})",
                stacklevel=2,
            )
    with torch.autocast(device.type, enabled=False):
        return plain()


def failed_to_build(error: BaseException) -> bool:
    """Tell whether a launch failed because the kernel cannot be built here, not because it is wrong.

    So it is if the device has too few registers or too little shared memory for it, if Triton or its assembler cannot
    translate it, or if the machine has no C compiler, with which Triton builds its launchers, or no place to keep what
    was built.
    """
    if IS_INTERPRETED:
        return False
    if any(kind.__module__.split(".")[0] == "triton" for kind in type(error).__mro__):
        return True
    if isinstance(error, subprocess.CalledProcessError | OSError):  # the C compiler's; of files
        return True
    # Triton has no class of its own for these two.
    return isinstance(error, RuntimeError) and ("PassManager" in str(error) or "C compiler" in str(error))
