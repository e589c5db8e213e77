"""Positional encoding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalablevit.layers.convolution import convolve_and_add
from scalablevit.ops.choice import Implementation, check_implementation
from scalablevit.ops.layout import channels_first, channels_last


class PositionalEncodingGenerator(nn.Module):
    """`x + depthwise3x3(x)`: position from the zeros around the map, for any height and width.

    Args:
        dim: channels.
        implementation: see `scalablevit.ops.depthwise.depthwise_convolution`. Weights are the same for all.

    Source: CPVT, arXiv:2102.10882, section 3.3.
    """

    def __init__(self, dim: int, *, implementation: Implementation = "auto") -> None:
        super().__init__()
        self.implementation = check_implementation(implementation)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if torch.jit.is_scripting():
            x = x + channels_last(self.conv(channels_first(x)))
        else:
            x = convolve_and_add(self.conv, x, implementation=self.implementation)
        return x
