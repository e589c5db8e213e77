"""Whether boxes, masks and areas of objects agree; where they do not, how the file seems to write them.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Callable, Iterator

import numpy as np

_FEW = 4  # objects that a pattern must hold for
_SAME, _ALIKE = 0.5, 0.8  # IoU from which on two boxes are of one object, and from which on they are the same
_NEARLY_ALL = 0.9
_MOST = 0.5
_ROUNDING = 2.0  # pixels by which outlines and boxes of tiny objects may differ

_BOXES: tuple[tuple[str, str, Callable[[np.ndarray], np.ndarray]], ...] = (
    (
        "corner-boxes",
        "corners [left, top, right, bottom]: subtract left from the third number and top from the fourth",
        lambda boxes: boxes,
    ),
    (
        "centre-boxes",
        "[centre x, centre y, width, height]: subtract half of the width from the first number and half of the height "
        "from the second",
        lambda boxes: np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1),
    ),
    (
        "swapped-boxes",
        "[top, left, height, width], or the masks as [y1, x1, ...]: swap x and y in one of them",
        lambda boxes: _corners(boxes[:, [1, 0, 3, 2]]),
    ),
    (
        "swapped-boxes",
        "[top, left, bottom, right]: swap x and y, and subtract left from right and top from bottom",
        lambda boxes: boxes[:, [1, 0, 3, 2]],
    ),
)


def off_masks(boxes_xywh: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Tell which boxes are not where the masks of their objects are, (A,) bool.

    Args:
        boxes_xywh: (A, 4) in pixels.
        bounds: (A, 4) boxes around the masks, left, top, right and bottom; NaN where there is none.
    """
    boxes = _corners(boxes_xywh)
    off = (_iou(boxes, bounds) < _SAME) & (np.abs(boxes - bounds).max(axis=1) > _ROUNDING)
    result: np.ndarray = np.isfinite(bounds).all(axis=1) & off
    return result


def strange_objects(
    boxes_xywh: np.ndarray,
    areas: np.ndarray,
    sizes: np.ndarray,
    bounds: np.ndarray,
    bounds_by_rows: Callable[[], np.ndarray],
) -> Iterator[tuple[str, str]]:
    """Say what is wrong with boxes or masks as a whole, where most of them contradict each other.

    Args:
        boxes_xywh: (A, 4) finite, as the file has them.
        areas: (A,) likewise; NaN where there is none.
        sizes: (A, 2) width and height of their images, in pixels.
        bounds: (A, 4) as of `off_masks`.
        bounds_by_rows: gives them as they are where run lengths go along the rows.

    Yields:
        kind of problem, and a message to stand behind the path of the file.
    """
    there = np.isfinite(bounds).all(axis=1)
    boxes, shown = boxes_xywh[there], bounds[there]
    off = off_masks(boxes, shown)
    if len(boxes) >= _FEW and off.mean() > _MOST:
        words = f"{off.mean():.0%} of the boxes are not where the masks are"
        for kind, remedy, read in _BOXES:
            if _agree(read(boxes), shown):
                yield kind, f"{words}, and nearly all of them would fit as {remedy}"
                return
        scaled = shown * np.tile(sizes[there], 2)
        by_rows = bounds_by_rows()[there]
        for remedy, other in (
            ("polygons are fractions of the image: multiply x by its width and y by its height", scaled),
            ("run lengths go along the rows: COCO's go down the columns, encode the masks in Fortran's order", by_rows),
        ):
            if _agree(_corners(boxes), other):
                yield "odd-masks", f"{words}; it seems that {remedy}"
                return
        yield "odd-masks", f"{words}; check that both belong to images of this size, or export them again"
        return
    known = np.isfinite(areas) & (boxes_xywh[:, 2:] > boxes_xywh[:, :2]).all(axis=1)
    if len(areas) >= _FEW and known.all() and not there.any():
        as_sizes, as_corners = boxes_xywh[:, 2:].prod(axis=1), (boxes_xywh[:, 2:] - boxes_xywh[:, :2]).prod(axis=1)
        if np.isclose(areas, as_corners, rtol=0.02).mean() >= _NEARLY_ALL and (
            np.isclose(areas, as_sizes, rtol=0.02).mean() < 1 - _NEARLY_ALL
        ):
            yield _BOXES[0][0], f"the areas are those of {_BOXES[0][1]}"


def _corners(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def _agree(boxes: np.ndarray, bounds: np.ndarray) -> bool:
    return bool((_iou(boxes, bounds) >= _ALIKE).mean() >= _NEARLY_ALL)


def _iou(boxes: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """(A,) IoU of each box with the other in its row."""
    low, high = np.maximum(boxes[:, :2], bounds[:, :2]), np.minimum(boxes[:, 2:], bounds[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    union = _areas(boxes) + _areas(bounds) - shared
    result: np.ndarray = np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)
    return result


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)
    return areas
