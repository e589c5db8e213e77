"""Detect small objects in large images: tile by tile, with what the tiles find put together.

Neighbouring tiles overlap. An object in the overlap is found by both, and one that lies across the edge of a tile is
found in pieces. In the area that two tiles share, both see the same: what they find there of one object coincides. By
that, pieces are dropped where another tile has the whole, and joined where none has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.ops import batched_nms

if TYPE_CHECKING:
    from scalablevit.detection.predict import Detection

Box = tuple[int, int, int, int]
Detect = Callable[[list[Image.Image]], "list[list[Detection]]"]

SMALLEST_TILE = 32
_EDGE = 0.02
"""Share of a tile's side within which a box ends at the edge: detectors do not meet it to the pixel."""


@dataclass(frozen=True)
class Slicing:
    """How an image is cut into tiles.

    Args:
        tile: side of a tile, in pixels; smaller where the image is.
        overlap: share of a tile that it has in common with the next; objects up to that size are seen whole.
        iou: of two boxes from which on they are of one object, in (0, 1].
        class_agnostic: two boxes of different classes can be of one object too.
        batch_size: tiles at a time.

    Raises:
        ValueError: a value is out of range.
    """

    tile: int
    overlap: float = 0.25
    iou: float = 0.5
    class_agnostic: bool = False
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.tile < SMALLEST_TILE:
            raise ValueError(f"tile must be at least {SMALLEST_TILE} pixels, got {self.tile}")
        if not 0.05 <= self.overlap <= 0.9:
            raise ValueError(f"overlap must lie in [0.05, 0.9], as a share of a tile, got {self.overlap}")
        if not 0 < self.iou <= 1:
            raise ValueError(f"nms_iou must lie in (0, 1], got {self.iou}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def tiles(self, width: int, height: int) -> list[Box]:
        """Return left, top, right and bottom of the tiles of an image; the last ones are shifted inwards."""
        columns, rows = self._starts(width), self._starts(height)
        return [(x, y, min(x + self.tile, width), min(y + self.tile, height)) for y in rows for x in columns]

    def _starts(self, length: int) -> list[int]:
        step = max(1, round(self.tile * (1 - self.overlap)))
        last = max(0, length - self.tile)
        return [*range(0, last, step), last]


def detect_sliced(detect: Detect, image: Image.Image, slicing: Slicing) -> list[Detection]:
    """Detect objects in an image by its tiles and, for objects larger than those, in the image as a whole.

    Args:
        detect: from images to the objects in each.
        image: upright RGB image.
        slicing: how it is cut, and what is of one object.

    Returns:
        objects in pixels of the image, the highest score first.
    """
    whole = (0, 0, image.width, image.height)
    tiles = slicing.tiles(image.width, image.height)
    views: list[Box] = []
    found: list[Detection] = []
    if len(tiles) > 1:
        (objects,) = detect([image])
        views, found = [whole] * len(objects), objects
    todo = iter(tiles)
    while batch := list(islice(todo, slicing.batch_size)):
        for tile, objects in zip(batch, detect([image.crop(tile) for tile in batch]), strict=True):
            views += [tile] * len(objects)
            found += [_moved(thing, tile) for thing in objects]
    chosen = found if len(tiles) == 1 else _merged(found, views, slicing, (image.width, image.height))
    return sorted(chosen, key=lambda thing: -thing.score)


def _moved(thing: Detection, tile: Box) -> Detection:
    """Move a detection from the pixels of a tile to those of the image; its mask keeps the tile's size."""
    left, top, right, bottom = thing.box_xyxy
    x, y = tile[:2]
    moved = (round(left + x, 3), round(top + y, 3), round(right + x, 3), round(bottom + y, 3))
    return replace(thing, box_xyxy=moved)


def _merged(found: list[Detection], views: list[Box], slicing: Slicing, size: tuple[int, int]) -> list[Detection]:
    """One detection for each object, of all that was found in the views of an image."""
    if not found:
        return []
    boxes = np.array([thing.box_xyxy for thing in found], dtype=np.float64)
    tiles = np.array(views, dtype=np.float64)
    labels = np.zeros(len(found), dtype=np.int64) if slicing.class_agnostic else np.array([t.label for t in found])
    scores = np.array([thing.score for thing in found])
    is_cut = _is_cut(boxes, tiles, size)
    seen_whole = np.flatnonzero(~is_cut)
    keep = batched_nms(
        *(torch.from_numpy(x[seen_whole]) for x in (boxes, scores, labels)), iou_threshold=slicing.iou
    ).numpy()
    kept = seen_whole[keep]
    chosen = [_placed(found[i], views[i], size) for i in kept.tolist()]

    def is_same(i: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (labels[others] == labels[i]) & _coincide(boxes[i], tiles[i], boxes[others], tiles[others], slicing)

    pieces = np.array([i for i in np.flatnonzero(is_cut).tolist() if not is_same(i, kept).any()], dtype=np.int64)
    groups = _groups(pieces, is_same)
    return [*chosen, *(_joined([_placed(found[i], views[i], size) for i in group]) for group in groups)]


def _is_cut(boxes: NDArray[Any], tiles: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(R,) whether a box ends at an edge of its tile that is no edge of the image."""
    near = np.maximum(2, _EDGE * np.minimum(tiles[:, 2] - tiles[:, 0], tiles[:, 3] - tiles[:, 1]))[:, None]
    starts = (boxes[:, :2] <= tiles[:, :2] + near) & (tiles[:, :2] > 0)
    ends = (boxes[:, 2:] >= tiles[:, 2:] - near) & (tiles[:, 2:] < np.array(size))
    return (starts | ends).any(1)


def _coincide(
    box: NDArray[Any], tile: NDArray[Any], boxes: NDArray[Any], tiles: NDArray[Any], slicing: Slicing
) -> NDArray[np.bool_]:
    """(R,) whether, in the area that two tiles share, a box is where other boxes are.

    A corner that both fill says little of two large objects: there must be something of the smaller one in the area.
    """
    shared = np.concatenate([np.maximum(tile[:2], tiles[:, :2]), np.minimum(tile[2:], tiles[:, 2:])], axis=1)
    ours, theirs = _clipped(box[None], shared), _clipped(boxes, shared)
    both = _areas(_clipped(ours, theirs))
    union = _areas(ours) + _areas(theirs) - both
    smaller = np.minimum(_areas(box[None]), _areas(boxes))
    is_other_tile = (tiles != tile).any(1)
    return is_other_tile & (both > 0) & (both >= slicing.iou * union) & (both >= slicing.overlap / 2 * smaller)


def _clipped(boxes: NDArray[Any], frames: NDArray[Any]) -> NDArray[Any]:
    low, high = np.maximum(boxes[:, :2], frames[:, :2]), np.minimum(boxes[:, 2:], frames[:, 2:])
    return np.concatenate([low, np.maximum(low, high)], axis=1)


def _areas(boxes: NDArray[Any]) -> NDArray[Any]:
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)


def _groups(
    pieces: NDArray[np.int64], is_same: Callable[[int, NDArray[np.int64]], NDArray[np.bool_]]
) -> Iterator[list[int]]:
    """Pieces of one object each: all that hang together, over however many tiles."""
    left = pieces
    while len(left):
        group, todo, left = [], [int(left[0])], left[1:]
        while todo:
            piece = todo.pop()
            group.append(piece)
            near = is_same(piece, left)
            todo += left[near].tolist()
            left = left[~near]
        yield group


def _joined(pieces: Sequence[Detection]) -> Detection:
    """One detection from its pieces: the box around them, the pixels of all, the highest score."""
    from faster_coco_eval import mask as coco_mask

    best = max(pieces, key=lambda piece: piece.score)
    corners = np.array([piece.box_xyxy for piece in pieces])
    left, top = corners[:, :2].min(0).tolist()
    right, bottom = corners[:, 2:].max(0).tolist()
    mask = best.mask
    if mask is not None and len(pieces) > 1:
        code = coco_mask.merge([piece.mask for piece in pieces])
        counts = code["counts"]
        mask = {"size": [int(side) for side in code["size"]], "counts": _text(counts)}
    return replace(best, box_xyxy=(left, top, right, bottom), mask=mask)


def _placed(thing: Detection, tile: Box, size: tuple[int, int]) -> Detection:
    """Put the mask of a detection into an image of `size` (width, height); only the tile's columns are decoded."""
    from faster_coco_eval import mask as coco_mask

    width, height = size
    if thing.mask is None or tile == (0, 0, width, height):
        return thing
    left, top, right, bottom = tile
    columns = np.zeros((height, right - left), dtype=bool, order="F")
    columns[top:bottom] = coco_mask.decode(dict(thing.mask)).astype(bool)
    pixels = columns.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
    if pixels[0]:
        runs.insert(0, 0)  # run lengths begin with the background
    runs[0] += left * height
    behind = (width - right) * height
    if len(runs) % 2:
        runs[-1] += behind
    elif behind:
        runs.append(behind)
    code = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return replace(thing, mask={"size": [height, width], "counts": _text(code["counts"])})


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
