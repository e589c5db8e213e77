"""Overlapping patch embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalablevit.layers.convolution import convolve
from scalablevit.ops.layout import channels_last


class PatchEmbed(nn.Module):
    """Strided convolution, then LayerNorm.

    Args:
        in_chans: channels of the input, at least 1.
        dim: channels of the output.
        kernel_size: side of the convolution's kernel, odd; it overlaps its neighbours when larger than `stride`.
        stride: pixels or tokens of the input per token of the output, in both directions.

    Source: ScalableViT, arXiv:2203.10790, section 3.1.
    """

    def __init__(self, in_chans: int, dim: int, *, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride=stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, ceil(H / stride), ceil(W / stride), dim)."""
        if torch.jit.is_scripting():
            x = channels_last(self.proj(x))  # (B, H', W', C)
        else:
            x = convolve(self.proj, x)
        return self.norm(x)
