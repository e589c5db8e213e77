"""Where tokens and keys lie in the image.

Every convolution that makes a map is padded around its centre. So token i of a map with stride s lies at pixel s * i,
not in the middle of pixels s * i to s * (i + 1): a map that is resized as an image is shifted by (s - 1) / 2 pixels,
which is half a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Point = tuple[float, float]


def nearest_tokens(points: Sequence[Point], map_size: tuple[int, int], *, stride: int) -> Tensor:
    """Find the token that lies nearest to each point.

    Args:
        points: (x, y) in pixels of the image.
        map_size: rows and columns of the map.
        stride: pixels per token.

    Returns:
        (P, 2) row and column, int64.
    """
    found = [
        [min(int(value / stride + 0.5), count - 1) for value, count in zip((y, x), map_size, strict=True)]
        for x, y in points
    ]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)


def covering_keys(length: int, count: int, *, stride: int, step: int = 1, first: int = 0) -> Tensor:
    """Find the key whose tokens lie nearest to each pixel along one side of the image.

    Args:
        length: pixels of the side.
        count: keys along it.
        stride: pixels per token.
        step: tokens per key.
        first: token with which the first key begins.

    Returns:
        (length,) index of the key, int64; -1 where no key covers the pixel.
    """
    tokens = torch.div(torch.arange(length) + stride // 2, stride, rounding_mode="floor") - first
    last = (length - 1) // stride - first  # pixels beyond the last token of the map are nearest to it
    keys = torch.div(tokens.clamp(max=last), step, rounding_mode="floor")
    return torch.where((keys >= 0) & (keys < count), keys, -1)


def check_points(points: Sequence[Point], size: tuple[int, int]) -> None:
    """Refuse points outside the image, and an empty list.

    Raises:
        ValueError: there is no point, or one lies outside.
    """
    if not points:
        raise ValueError("points is empty: give at least one (x, y) in pixels of the image")
    height, width = size
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"point {x:g},{y:g} lies outside the image of {width} x {height} pixels: x must lie in 0..{width - 1}, "
                f"y in 0..{height - 1}"
            )


def grid_points(size: tuple[int, int], count: int) -> list[Point]:
    """Spread `count` by `count` points evenly over an image, as (x, y) in pixels, row by row.

    Args:
        size: height and width of the image.
        count: points along each side, at least 1.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1 point along each side, got {count}")
    height, width = size
    rows, columns = ([int((i + 0.5) * side / count) for i in range(count)] for side in (height, width))
    return [(x, y) for y in rows for x in columns]
