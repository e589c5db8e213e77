"""Checking the images that networks get."""

from __future__ import annotations

import torch
from torch import Tensor


def check_images(images: Tensor, in_chans: int) -> None:
    """Refuse what is not a batch of floating-point images of `in_chans` channels."""
    shape = images.shape if torch.jit.is_scripting() else tuple(images.shape)
    if images.ndim != 4 or images.shape[1] != in_chans:
        raise ValueError(
            f"images must be (B, {in_chans}, H, W), got {shape}; "
            "build the model with in_chans=... for images of other channels"
        )
    if not images.is_floating_point():
        raise ValueError(f"images must be floating-point and normalised, got {images.dtype}; scale and normalise them")
    if not torch.compiler.is_compiling() and min(images.shape[2:]) < 1:
        raise ValueError(f"images must be at least 1 pixel high and wide, got {shape}")
