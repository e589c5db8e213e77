"""Whether Triton works on a CUDA device at all: a kernel that does nothing is built and launched there once.

Much can be wrong around a sound GPU: no C compiler, a cache folder that cannot be written to, a driver that Triton does
not find, a device newer than its assembler. `kernel.py`, and Triton, are imported when the first device is asked.
"""

from __future__ import annotations

import torch

_failures: dict[int, str | None] = {}


@torch.compiler.disable
def failure_on(index: int) -> str | None:
    """What went wrong on a device, in one line, or None where the kernel ran; found out once in a process.

    No tensor takes part, so that it can be asked under any mode of torch, fake tensors among them.

    Args:
        index: of the CUDA device.
    """
    if index not in _failures:
        _failures[index] = _try(index)
    return _failures[index]


def _try(index: int) -> str | None:
    try:
        from scalablevit.ops.probe import kernel

        kernel.launch(index)
    except Exception as error:  # whatever it is, PyTorch computes without Triton
        said = next(iter(str(error).splitlines()), "")
        return f"Triton does not work on cuda:{index} ({type(error).__name__}: {said})"
    return None
