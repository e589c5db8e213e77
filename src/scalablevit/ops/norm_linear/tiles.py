"""Tiles of the kernel of LayerNorm and linear layer, and what fits it, by plain functions; needs no Triton."""

from __future__ import annotations

from typing import NamedTuple

import torch

_LEAST = 16  # of a side of a matrix product in the tensor cores
_MOST_CHANNELS = 256  # each program reads all weights: of more it would be too many


class Tiles(NamedTuple):
    """How a program is laid out: tokens, channels, outputs of a step, all powers of two; warps, stages."""

    tokens: int
    channels: int
    outputs: int
    num_warps: int
    num_stages: int


def cannot_serve(*, dim: int, dtype: torch.dtype) -> str | None:
    """Tell why the kernel cannot serve a layer of this width and this dtype of products, or None."""
    if dim > _MOST_CHANNELS:
        return f"the kernel of LayerNorm and linear layer serves up to {_MOST_CHANNELS} channels, not {dim}"
    if dtype.itemsize != 2:
        name = str(dtype).removeprefix("torch.")
        return f"the kernel of LayerNorm and linear layer multiplies bfloat16 and float16, not {name}"
    return None


def tiles(C: int) -> Tiles:
    """Lay out the programs for C channels."""
    channels = max(_LEAST, 1 << (C - 1).bit_length())
    if channels <= 128:
        return Tiles(128, channels, 64, 8, 2) if channels <= 64 else Tiles(64, channels, 64, 4, 2)
    return Tiles(64, channels, 32, 8, 2)
