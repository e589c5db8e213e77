"""The two layouts of a feature map, channels last (the trunk) and channels first (convolutions), and their sizes."""

from __future__ import annotations

from torch import Tensor


def convolved_size(height: int, width: int, *, side: int, stride: int, padding: int) -> tuple[int, int]:
    """Rows and columns that a convolution of a square kernel gives, all in pixels or tokens."""
    return (height + 2 * padding - side) // stride + 1, (width + 2 * padding - side) // stride + 1


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view: torch's channels_last memory format, so convolutions do not copy."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view."""
    return x.permute(0, 2, 3, 1)
