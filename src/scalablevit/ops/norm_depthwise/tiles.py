"""Tiles of the kernel of LayerNorm and patches, and what fits it, by plain functions; needs no Triton."""

from __future__ import annotations

from typing import NamedTuple

import torch

_MOST_CHANNELS = 256  # a program normalises whole tokens
_MOST_SIDE = 8  # tokens
_NUMBERS = 4096  # of a program's tile, where a patch has no more


class Tiles(NamedTuple):
    """How a program is laid out: patches, tokens of a patch and channels, all powers of two; warps."""

    patches: int
    tokens: int
    channels: int
    num_warps: int


def cannot_serve(*, dim: int, side: int, dtype: torch.dtype) -> str | None:
    """Tell why the kernel cannot serve patches of this side, in tokens, or this width or dtype of products, or None."""
    if dim > _MOST_CHANNELS:
        return f"the kernel of LayerNorm and patches serves up to {_MOST_CHANNELS} channels, not {dim}"
    if side > _MOST_SIDE:
        return f"the kernel of LayerNorm and patches serves up to {_MOST_SIDE} tokens a side, not {side}"
    if dtype.itemsize != 2:
        name = str(dtype).removeprefix("torch.")
        return f"the kernel of LayerNorm and patches computes for bfloat16 and float16, not {name}"
    return None


def tiles(C: int, side: int) -> Tiles:
    """Lay out the programs for C channels and patches of `side` tokens a side."""
    channels, tokens = max(16, 1 << (C - 1).bit_length()), 1 << (side * side - 1).bit_length()
    patches = max(1, _NUMBERS // (tokens * channels))
    return Tiles(patches, tokens, channels, 8 if tokens * channels > _NUMBERS else 4)
