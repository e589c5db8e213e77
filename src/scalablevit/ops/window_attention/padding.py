"""Padding a map of queries, keys and values to whole windows."""

from __future__ import annotations

import torch
from torch import Tensor

from scalablevit.ops.windows import pad_to_multiple


def pad_with_fill(qkv: Tensor, fill: Tensor | None, window_size: tuple[int, int]) -> Tensor:
    """Pad (B, H, W, 3C) at the bottom and right to whole windows with tokens `fill`, (3C,), or zeros if None.

    Gradients flow to `fill`; `qkv` itself comes back where nothing is missing.
    """
    padded = pad_to_multiple(qkv, window_size)  # (B, Hp, Wp, 3C)
    if fill is None or padded is qkv:
        return padded
    inside = pad_to_multiple(torch.ones_like(qkv[:1, :, :, :1]), window_size)  # (1, Hp, Wp, 1)
    return torch.where(inside > 0, padded, fill.to(qkv.dtype))
