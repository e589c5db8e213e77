"""Masks as COCO writes them: run lengths and polygons."""

import numpy as np

_MIN_POLYGON_IOU = 0.97
_MIN_POLYGON_AREA = 100


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels of the smallest box around a mask, (H, W) bool with at least one pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed RLE: alternating lengths of runs of 0 and 1, down the columns, 0 first."""
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate(([0], starts, [flat.size]))).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def polygons(mask: np.ndarray) -> list[list[float]] | None:
    """Outlines [x0, y0, x1, y1, …] in pixels, or None where they do not give the mask back.

    Polygons have no holes. Readers' rasterisers differ by half a pixel along the edge, which is much of a small mask.
    """
    if mask.sum() < _MIN_POLYGON_AREA:
        return None
    # contourpy comes with matplotlib.
    from contourpy import LineType, contour_generator

    left, top, w, h = box_of(mask)
    framed = np.pad(mask[top : top + h, left : left + w], 1).astype(np.float64)
    outlines = contour_generator(z=framed, line_type=LineType.Separate).lines(0.5)
    outer = []
    filled = np.zeros(framed.shape, bool)
    for outline in outlines:
        points = np.asarray(outline)[:-1]  # (points, 2); the last repeats the first
        (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
        if (x * next_y - next_x * y).sum() < 0:
            continue  # a hole: contourpy goes round it the other way
        before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        corners = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
        filled |= _inside(corners, framed.shape)
        # From the frame's pixel centres to the image's pixel corners.
        outer.append((corners - 1 + (left + 0.5, top + 0.5)).ravel().tolist())
    solid = framed > 0
    if (filled & solid).sum() < _MIN_POLYGON_IOU * (filled | solid).sum():
        return None
    return outer


def _inside(corners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: the pixel centres, at whole numbers, inside one polygon of (points, 2) corners x, y."""
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        (x0, y0), (x1, y1) = ((x0, y0), (x1, y1)) if y0 <= y1 else ((x1, y1), (x0, y0))
        rows = np.arange(int(np.ceil(y0)), int(np.ceil(y1)))  # half open, so that a corner counts once
        if len(rows):
            crossings[rows, np.ceil(x0 + (rows - y0) * (x1 - x0) / (y1 - y0)).astype(np.int64)] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
