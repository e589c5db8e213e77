"""The least that Triton can build and launch."""

# Triton's functions are typed by its compiler.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton


@triton.jit(do_not_specialize=["n"])
def _nothing(n):
    pass


def launch(index: int) -> None:
    """Do nothing on a CUDA device, without waiting for it: a graph may be being captured."""
    with torch.cuda.device(index):
        _nothing[(1,)](0)
