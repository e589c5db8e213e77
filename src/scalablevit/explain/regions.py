"""Regions of pixels and the boxes around them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Region = NDArray[np.bool_]
"""(H, W) bool pixels of an image."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels; right and bottom lie behind the last pixel."""


def box_around(region: Region) -> Box | None:
    """Find the smallest box around the pixels of a region; None where it has none."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def pixels_in(box_xyxy: Box, size: tuple[int, int]) -> Region:
    """Mark the pixels that a box covers, also in part.

    Args:
        box_xyxy: the box; what lies outside the image is left out.
        size: height and width of the image.
    """
    region = np.zeros(size, dtype=bool)
    left, top, right, bottom = box_xyxy
    region[max(0, int(top)) : int(np.ceil(bottom)), max(0, int(left)) : int(np.ceil(right))] = True
    return region
