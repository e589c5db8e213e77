"""Asking what records the code that runs: torch.export, torch.jit or torch.fx."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Proxy


# With torch 2.11 to 2.13, torch.compile takes `is_exporting` for true while it traces. It calls a function of constant
# result outside of its graph, where the answer is right.
@torch.compiler.assume_constant_result
def is_exporting() -> bool:
    """Tell whether torch.export, and not torch.compile alone, records what runs."""
    return torch.compiler.is_exporting()


def is_symbolic(x: Tensor) -> bool:
    """Tell whether torch.fx records what happens to `x`, which then has neither sizes nor a device."""
    return isinstance(x, Proxy)


def is_recorded(x: Tensor) -> bool:
    """Tell whether a graph is recorded that serves later, with gradients or without: whoever traces or compiles."""
    return is_symbolic(x) or torch.compiler.is_compiling() or torch.jit.is_tracing()
