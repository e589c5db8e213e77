"""Masks of many annotations: outlines and run lengths, as COCO files have them.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalablevit.detection.coco.json_file import append_numbers, called, shown
from scalablevit.detection.coco.run_lengths import MaskSizeError, decode_runs, run_bounds, run_lengths

_NO_MASK, _POLYGONS, _RUNS = 0, 1, 2


class CocoMasks:
    """A mask for each annotation, or none, in flat arrays: small objects would be copied into each loading process.

    `append` fills it, `pack` ends that; then masks are read by their row.
    """

    def __init__(self) -> None:
        self._points: Any = array("d")
        self._polygon_ends: Any = array("q", [0])
        self._runs: Any = array("I")
        self._kinds: Any = array("b")
        # first and last polygon of an annotation, or first and last run
        self._spans: Any = array("q")

    def append(self, entry: Mapping[str, Any], number: int, *, width: int, height: int) -> list[tuple[str, str]]:
        """Append the mask of one annotation.

        Args:
            entry: the annotation, as the file has it.
            number: its place in the file, for messages.
            width: of the image, in pixels.
            height: likewise.

        Returns:
            For each thing that is wrong: its kind, and a message to stand behind the image's path.
        """
        segmentation = entry.get("segmentation")
        if isinstance(segmentation, dict):
            return self._append_runs(segmentation, called(entry, number), width=width, height=height)
        if segmentation is not None and not isinstance(segmentation, list):
            self._kinds.append(_NO_MASK)
            self._spans.extend((0, 0))
            what = f"is {shown(segmentation)}, neither a list of polygons nor a run-length code; export it again"
            return [("bad-mask", f"the mask of {called(entry, number)} {what}")]
        polygons = segmentation if isinstance(segmentation, list) else []
        if polygons and isinstance(polygons[0], int | float):
            polygons = [polygons]  # one polygon without the list around it
        first = last = len(self._polygon_ends) - 1
        problems = []
        for polygon in polygons:
            if append_numbers(self._points, polygon):
                self._polygon_ends.append(len(self._points))
                last += 1
            else:
                whose = f"a polygon of {called(entry, number)} is {shown(polygon)}"
                problems.append(("bad-polygon", f"{whose}; {_polygon_remedy(polygon)}"))
        self._kinds.append(_POLYGONS if last > first else _NO_MASK)
        self._spans.extend((first, last))
        if last == first:
            if not problems:
                return [("no-mask", f"{called(entry, number)} has no mask")]
            return [("bad-mask", f"the mask of {called(entry, number)} cannot be used: {problems[0][1]}")]
        points = np.array(self._points[self._polygon_ends[first] :]).reshape(-1, 2)
        if (points.max(axis=0).clip(0, (width, height)) <= points.min(axis=0).clip(0, (width, height))).any():
            problems.append(("empty-mask", f"the mask of {called(entry, number)} covers no pixel of the image"))
        return problems

    def _append_runs(
        self, segmentation: Mapping[str, Any], whose: str, *, width: int, height: int
    ) -> list[tuple[str, str]]:
        kind, first, problems = _NO_MASK, len(self._runs), []
        try:
            runs = run_lengths(segmentation, width=width, height=height)
        except MaskSizeError as error:
            problems.append(("mask-size", f"the mask of {whose} {error}"))
        except ValueError as error:
            problems.append(("bad-mask", f"the mask of {whose} {error}"))
        else:
            kind = _RUNS
            if not runs[1::2].any():
                problems.append(("empty-mask", f"the mask of {whose} covers no pixel"))
            self._runs.frombytes(runs.astype(np.uint32).tobytes())
        self._kinds.append(kind)
        self._spans.extend((first, len(self._runs)))
        return problems

    def pack(self) -> None:
        """End appending."""
        self._kinds = np.array(self._kinds, np.int8)
        self._spans = np.array(self._spans, np.int64).reshape(-1, 2)
        self._points, self._runs = np.array(self._points), np.array(self._runs, np.uint32)
        self._polygon_ends = np.array(self._polygon_ends, np.int64)

    def usable(self) -> np.ndarray:
        """Which annotations have a mask, (A,) bool."""
        there: np.ndarray = np.asarray(self._kinds) != _NO_MASK
        return there

    def bounds(self, sizes: np.ndarray, *, by_rows: bool = False) -> np.ndarray:
        """Boxes around the masks, (A, 4) left, top, right and bottom in pixels; NaN without a mask, or an empty one.

        Args:
            sizes: (A, 2) width and height of the image of each annotation.
            by_rows: read run lengths along the rows, which is wrong, in the place of down the columns.
        """
        found = np.full((len(self._kinds), 4), np.nan)
        rows = np.flatnonzero(self._kinds == _POLYGONS)
        if len(rows):
            points = self._points.reshape(-1, 2)
            starts = self._polygon_ends[self._spans[rows, 0]] // 2
            found[rows, :2] = np.minimum.reduceat(points, starts)
            found[rows, 2:] = np.maximum.reduceat(points, starts)
        for row in np.flatnonzero(self._kinds == _RUNS).tolist():
            first, last = self._spans[row]
            width, height = sizes[row].tolist()
            box = run_bounds(self._runs[first:last], width if by_rows else height)
            if box is not None:
                low, top, high, bottom = box
                found[row] = (top, low, bottom, high) if by_rows else (low, top, high, bottom)
        return found

    def keep(self, rows: np.ndarray) -> None:
        """Keep the masks of these annotations, in this order."""
        self._kinds, self._spans = self._kinds[rows], self._spans[rows]

    def decode(self, row: int, *, width: int, height: int) -> np.ndarray:
        """Decode a mask: (H, W) uint8 of 0 and 1; all 0 where the annotation has none.

        Args:
            row: of the annotation.
            width: of the image, in pixels.
            height: likewise.
        """
        first, last = self._spans[row]
        if self._kinds[row] == _NO_MASK:
            return np.zeros((height, width), np.uint8)
        if self._kinds[row] == _RUNS:
            return decode_runs(self._runs[first:last], height, width)
        polygons = [self._polygon(polygon, width, height).tolist() for polygon in range(first, last)]
        # Import takes a moment, and only masks need it.
        from faster_coco_eval.core import mask as coco_mask

        mask: np.ndarray = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        return mask

    def segmentation(self, row: int, *, width: int, height: int) -> Any:
        """A mask as COCO files hold it: polygons, or lengths of runs.

        Args:
            row: of the annotation.
            width: of the image, in pixels.
            height: likewise.
        """
        first, last = (int(i) for i in self._spans[row])
        if self._kinds[row] == _POLYGONS:
            return [self._polygon(polygon, width, height).tolist() for polygon in range(first, last)]
        return {"size": [height, width], "counts": self._runs[first:last].tolist()}

    def area(self, row: int, *, width: int, height: int) -> float:
        """Of a mask, in pixels; parts of polygons that overlap count twice.

        Args:
            row: of the annotation.
            width: of the image, in pixels.
            height: likewise.
        """
        first, last = (int(i) for i in self._spans[row])
        if self._kinds[row] == _RUNS:
            return float(self._runs[first:last][1::2].sum())
        return sum(_polygon_area(self._polygon(polygon, width, height)) for polygon in range(first, last))

    def _polygon(self, polygon: int, width: int, height: int) -> np.ndarray:
        """x, y, x, y, ... of one polygon, within the image and as much again on each side of it."""
        ends = self._polygon_ends
        points: np.ndarray = self._points[ends[polygon] : ends[polygon + 1]].reshape(-1, 2)
        # Outlines are drawn point by point: one that runs off to a million would take minutes and gigabytes.
        return points.clip((-width, -height), (2 * width, 2 * height)).ravel()


def _polygon_area(points: np.ndarray) -> float:
    x, y = points[::2], points[1::2]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _polygon_remedy(polygon: Any) -> str:
    """What is wrong with a polygon, and what to do."""
    needed = "it needs x and y of at least three points, as one list of numbers"
    if isinstance(polygon, dict):
        return f"{needed}; this is a run-length code in a list: take it out of the list"
    if isinstance(polygon, list) and polygon and isinstance(polygon[0], list):
        return f"{needed}; these are points in lists of their own: write [x1, y1, x2, y2, ...]"
    return needed
