"""Cutting feature maps into windows and putting them together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def check_window_size(size: tuple[int, int]) -> None:
    """Refuse a window without tokens."""
    if min(size) < 1:
        raise ValueError(f"window_size must be at least 1 token in both directions, got {size}")


def as_window(size: int | Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a window given as a side or as both, in tokens.

    Raises:
        ValueError: neither one number nor two, or below 1.
    """
    window = (size, size) if isinstance(size, int) else tuple(size)
    if len(window) != 2:
        raise ValueError(f"window_size must be one number or (rows, columns), got {size}")
    check_window_size(window)
    return window


def pad_to_multiple(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-pad a feature map at the bottom and right to whole windows.

    Args:
        x: feature map, (B, H, W, C).
        size: rows and columns of a window, in tokens; each at least 1.

    Returns:
        (B, Hp, Wp, C) with Hp and Wp the next multiples of `size`; `x` itself where nothing is missing.
    """
    _, H, W, _ = x.shape
    # Not -H % size: H + -H % size is not simplified to a multiple when H is symbolic, and inductor chokes on it.
    pad_h = (H + size[0] - 1) // size[0] * size[0] - H
    pad_w = (W + size[1] - 1) // size[1] * size[1] - W
    # A branch on a symbolic size would pin the size in torch.export; padding by 0 is free there.
    if not torch.compiler.is_compiling() and pad_h == pad_w == 0:
        return x
    return F.pad(x, (0, 0, 0, pad_w, 0, pad_h))  # (B, Hp, Wp, C)


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """Keep the upper left `height` by `width` tokens of (B, Hp, Wp, C); undoes `pad_to_multiple`."""
    _, Hp, Wp, _ = x.shape
    if not torch.compiler.is_compiling() and (Hp, Wp) == (height, width):
        return x
    # Negative padding, not slicing: a slice makes torch.export guard on Hp >= height.
    return F.pad(x, (0, 0, 0, width - Wp, 0, height - Hp))


def pad_to_least(x: Tensor, least: int) -> Tensor:
    """Zero-pad (B, H, W, C) at the bottom and right so that H and W are at least `least` tokens."""
    _, H, W, _ = x.shape
    # A true branch, even on symbolic sizes: Max(H, least) in every later size makes inductor crawl, and the price is
    # one more graph for tiny images.
    if least <= H and least <= W:
        return x
    return F.pad(x, (0, 0, 0, max(least - W, 0), 0, max(least - H, 0)))


def window_partition(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a feature map into windows.

    Args:
        x: feature map, (B, H, W, C); H and W are multiples of the window's sides (`pad_to_multiple`).
        size: rows and columns of a window, in tokens; each at least 1.

    Returns:
        (B * n, size[0] * size[1], C), row by row within an image.

    Raises:
        ValueError: a side is below 1, or the map is not a whole number of windows.

    Source: Swin Transformer, arXiv:2103.14030, section 3.2.
    """
    B, H, W, C = x.shape
    if not torch.jit.is_scripting():
        check_window_size(size)
        if not torch.compiler.is_compiling() and (H % size[0] or W % size[1]):
            raise ValueError(f"a map of {H}x{W} tokens is not a whole number of {size} windows; pad_to_multiple first")
    x = x.view(B, H // size[0], size[0], W // size[1], size[1], C)
    x = x.transpose(2, 3)  # (B, H/rows, W/columns, rows, columns, C)
    return x.reshape(-1, size[0] * size[1], C)


def window_unpartition(windows: Tensor, size: tuple[int, int], height: int, width: int) -> Tensor:
    """Put windows back where they were cut; undoes `window_partition`.

    Args:
        windows: (B * n, size[0] * size[1], C).
        size: rows and columns of a window, in tokens.
        height, width: of the padded map, in tokens.

    Returns:
        feature map, (B, height, width, C).
    """
    C = windows.shape[-1]
    x = windows.view(-1, height // size[0], width // size[1], size[0], size[1], C)
    x = x.transpose(2, 3)  # (B, H/rows, rows, W/columns, columns, C)
    return x.reshape(-1, height, width, C)
