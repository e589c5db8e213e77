"""Positional encoding."""

from __future__ import annotations

from torch import Tensor, nn

from scalablevit.ops.layout import channels_first, channels_last


class PositionalEncodingGenerator(nn.Module):
    """`x + depthwise3x3(x)`: position from the zeros around the map, for any height and width.

    Args:
        dim: channels.

    Source: CPVT, arXiv:2102.10882, section 3.3.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return x + channels_last(self.conv(channels_first(x)))
