"""Tiles of the feed-forward kernel, and what fits it, by plain functions of the sizes; needs no Triton.

Found by compiling for compute capability 8.0, 9.0 and 12.0 with Triton 3.6 and 3.8: no register is spilled, and a
program takes at most 96 KiB of shared memory, which every card since compute capability 8.0 has.
`tests/ops/test_layer_kernels_compile.py` asserts both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_LEAST = 16  # of a side of a matrix product in the tensor cores
_MOST_CHANNELS = 256  # the sums of more do not fit into registers


class Tiles(NamedTuple):
    """How a program is laid out: tokens, channels and hidden channels of a step, all powers of two; warps, stages."""

    tokens: int
    channels: int
    hidden: int
    num_warps: int
    num_stages: int


def cannot_serve(*, dim: int, hidden_dim: int, dtype: torch.dtype) -> str | None:
    """Tell why the kernel cannot serve a feed-forward part of these widths and this dtype of products, or None."""
    if dim > _MOST_CHANNELS:
        return f"the feed-forward kernel serves up to {_MOST_CHANNELS} channels, not {dim}"
    if hidden_dim < _LEAST:
        return f"the feed-forward kernel serves at least {_LEAST} hidden channels, not {hidden_dim}"
    if dtype.itemsize != 2:
        return f"the feed-forward kernel multiplies bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    return None


def tiles(C: int) -> Tiles:
    """Lay out the programs for C channels."""
    channels = max(_LEAST, 1 << (C - 1).bit_length())
    if channels <= 64:  # of 64 hidden channels a step a thread of compute capability 8.0 spills 16 bytes in float16
        return Tiles(128, channels, 32, 8, 2)
    if channels == 128:  # the masks of fewer channels take registers
        return Tiles(128, 128, 32, 8, 2) if C == 128 else Tiles(64, 128, 32, 4, 2)
    return Tiles(64, channels, 32, 8, 2)


def backward_tiles(C: int) -> Tiles:
    """Lay out the programs of the backward for C channels; they hold two maps where the forward holds one.

    Of 32 hidden channels at once 256 channels take all 255 registers and more, of 16 they take 178.
    """
    channels = max(_LEAST, 1 << (C - 1).bit_length())
    return Tiles({16: 128, 32: 128, 64: 128, 128: 64, 256: 32}[channels], channels, 16, 8, 2)
