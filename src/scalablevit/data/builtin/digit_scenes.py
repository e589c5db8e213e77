"""Scenes composed from scikit-learn's handwritten digits, as a COCO folder or an ADE20K folder.

Everything that decides a pixel is integer arithmetic on numpy's PCG64 stream, so that a seed gives the same scenes
on any machine.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFilter

from scalablevit.data.builtin.digits import split_digits
from scalablevit.data.builtin.whole_folder import write_whole_folder

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Class names, in the order of the labels 0..9."""

CATEGORY_IDS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)
"""COCO category id of each digit 0..9: with gaps, as COCO's own ids have them."""

Part = Literal["train", "val"]

_SMALLEST_SIDE = 32
_DIGIT_HEIGHTS = (20, 44)
_TINY_HEIGHTS = (10, 12)
_MOST_DIGITS = 8
# Below it a digit can often not be told from others, and a detector would be trained on guesses.
_MIN_VISIBLE = 0.6
_MIN_VISIBLE_PIXELS = 24
# Distance in RGB, of 441, between a digit and all but a twentieth of what lies around it.
_MIN_CONTRAST = 110
# Digits are brighter than what they stand on, as chalk on a blackboard.
_DARK, _BRIGHT = 120, 130
_EMPTY_EVERY, _EMPTY_AT = 20, 7
_CROWD_EVERY, _CROWD_AT = 16, 4
_JPEG_EVERY, _JPEG_AT = 10, 3
_MIN_POLYGON_IOU = 0.97
_MIN_POLYGON_AREA = 100


@dataclass(frozen=True)
class SceneObject:
    """A digit, or a crowd of tiny digits, in a scene.

    Attributes:
        label: the digit, 0..9.
        mask: (H, W) bool, its visible pixels; at least one.
    """

    label: int
    mask: np.ndarray

    @property
    def box_xywh(self) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels of the smallest box around the visible pixels."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


@dataclass(frozen=True)
class Scene:
    """A picture of digits with what is true about it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        digits: the digits, from the hindmost to the foremost; no two masks share a pixel.
        crowd: a cluster of tiny digits of one class, as one region that no digit's mask touches.
    """

    image: np.ndarray
    digits: tuple[SceneObject, ...]
    crowd: SceneObject | None


def compose_scene(
    rng: np.random.Generator,
    digits: Sequence[Sequence[np.ndarray]],
    *,
    size: tuple[int, int] = (96, 160),
    max_digits: int = _MOST_DIGITS,
    crowd: bool = False,
) -> Scene:
    """Lay digits on a coloured, textured background with shapes that are no digits.

    Digits are 16 to 64 pixels high (at most two thirds of the shorter side), lean by up to 14 degrees, and differ
    from what lies around them in colour. A later digit may hide a part of an earlier one or reach beyond the border,
    as long as 60 % of each digit stay visible.

    Args:
        rng: source of everything that is drawn by chance.
        digits: for each label 0..9 its pictures, (8, 8) of 0..16.
        size: the shortest and the longest side that may be drawn, in pixels; at least 32.
        max_digits: the most digits that may be drawn, besides the crowd; 0 for none, else there is at least one
            wherever there is room.
        crowd: put a cluster of tiny digits of one class, too.

    Raises:
        ValueError: `size` or `max_digits` is out of range.
    """
    _check_size(size)
    if max_digits < 0:
        raise ValueError(f"max_digits must be at least 0, got {max_digits}")
    width, height = (int(side) for side in rng.integers(size[0], size[1] + 1, 2))
    canvas = _background(rng, width, height)
    region = _place_crowd(rng, canvas, digits) if crowd else None
    placed: list[_Placed] = []
    wanted = int(rng.integers(1, max_digits + 1)) if max_digits else 0
    tries = 0
    # A crowd on a small picture may leave no room for even one.
    while len(placed) < wanted and tries < (6 * wanted if placed else 200):
        tries += 1
        _place_digit(rng, canvas, digits, placed, None if region is None else region.mask)
    if rng.integers(2):
        canvas += rng.integers(-6, 7, canvas.shape)  # grain
    return Scene(
        np.clip(canvas, 0, 255).astype(np.uint8),
        tuple(SceneObject(item.label, item.visible) for item in placed),
        region,
    )


def digit_scene(part: Part, index: int, *, seed: int = 0, size: tuple[int, int] = (96, 160)) -> Scene:
    """One scene of the built-in data: of the digits of its part only, and always the same one.

    Of 20 scenes in a row one is empty, of 16 in a row one has a crowd.

    Args:
        part: "train" or "val"; no digit is in scenes of both.
        index: number of the scene, from 0.
        seed: number of the whole set.
        size: the shortest and the longest side that may be drawn, in pixels; at least 32.

    Raises:
        ValueError: `size` is out of range.
    """
    rng = np.random.default_rng([seed, ("train", "val").index(part), index])
    return compose_scene(
        rng,
        _digits_of(part),
        size=size,
        max_digits=0 if index % _EMPTY_EVERY == _EMPTY_AT else _MOST_DIGITS,
        crowd=index % _CROWD_EVERY == _CROWD_AT,
    )


def write_coco(
    root: str | Path,
    *,
    num_train: int = 600,
    num_val: int = 100,
    seed: int = 0,
    size: tuple[int, int] = (96, 160),
) -> Path:
    """Write scenes as a COCO folder: `annotations/instances_{train,val}.json` and `{train,val}/*`.

    Pictures are PNG, every tenth is JPEG. Masks are polygons where those give the mask back, else uncompressed RLE
    (small digits and digits with a hole); crowds are RLE with `iscrowd` 1. Category ids have gaps: see
    `CATEGORY_IDS`. The folder appears complete or not at all; processes may race to write it.

    Args:
        root: folder to make; it may exist if it is empty.
        num_train: training scenes; at least 1.
        num_val: validation scenes, of other digits than the training scenes; at least 1.
        seed: number of the set; `write_ade20k` makes the same scenes of the same seed.
        size: the shortest and the longest side of a picture, in pixels; at least 32.

    Returns:
        `root`.

    Raises:
        ValueError: a number is out of range, or `root` holds something already, or is a file.

    Source of the format: T.-Y. Lin et al., Microsoft COCO, arXiv:1405.0312.
    """
    _check_counts(num_train, num_val)
    _check_size(size)

    def write(folder: Path) -> None:
        (folder / "annotations").mkdir()
        parts: tuple[tuple[Part, int, int], ...] = (("train", num_train, 1), ("val", num_val, num_train + 1))
        for part, count, first_id in parts:
            (folder / part).mkdir()
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for index in range(count):
                scene = digit_scene(part, index, seed=seed, size=size)
                name = _save_image(scene.image, folder / part, index)
                height, width = scene.image.shape[:2]
                image_id = first_id + index
                images.append({"id": image_id, "file_name": name, "width": width, "height": height, "license": 1})
                objects = [(item, 0) for item in scene.digits] + ([(scene.crowd, 1)] if scene.crowd else [])
                for item, iscrowd in objects:
                    annotation = {"id": len(annotations) + 1, "image_id": image_id}
                    annotations.append(annotation | _coco_annotation(item, iscrowd))
            content = _coco_header() | {"images": images, "annotations": annotations}
            text = json.dumps(content, separators=(",", ":"))
            (folder / "annotations" / f"instances_{part}.json").write_text(text, encoding="utf-8")

    return write_whole_folder(root, write, parts=("annotations", "train", "val"))


def write_ade20k(
    root: str | Path,
    *,
    num_train: int = 2000,
    num_val: int = 100,
    seed: int = 0,
    size: tuple[int, int] = (96, 160),
) -> Path:
    """Write scenes as an ADE20K folder: `{images,annotations}/{training,validation}/*` and `objectInfo150.txt`.

    Pictures are PNG, every tenth is JPEG. Annotations are 8-bit gray PNG: 0 is other (crowds), 1 the background,
    2..11 the digits 0..9. The folder appears complete or not at all; processes may race to write it.

    Args:
        root: folder to make; it may exist if it is empty.
        num_train: training scenes; at least 1.
        num_val: validation scenes, of other digits than the training scenes; at least 1.
        seed: number of the set; `write_coco` makes the same scenes of the same seed.
        size: the shortest and the longest side of a picture, in pixels; at least 32.

    Returns:
        `root`.

    Raises:
        ValueError: a number is out of range, or `root` holds something already, or is a file.

    Source of the format: B. Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017.
    """
    _check_counts(num_train, num_val)
    _check_size(size)

    def write(folder: Path) -> None:
        num_classes = len(DIGIT_NAMES) + 1
        pixels = np.zeros(num_classes + 1, np.int64)  # of each label, over all scenes
        found: dict[Part, np.ndarray] = {}  # pictures that hold each label
        parts: tuple[tuple[Part, str, int], ...] = (("train", "training", num_train), ("val", "validation", num_val))
        for part, part_name, count in parts:
            image_folder, mask_folder = folder / "images" / part_name, folder / "annotations" / part_name
            image_folder.mkdir(parents=True)
            mask_folder.mkdir(parents=True)
            found[part] = np.zeros(num_classes + 1, np.int64)
            for index in range(count):
                scene = digit_scene(part, index, seed=seed, size=size)
                name = _save_image(scene.image, image_folder, index)
                labels = _label_map(scene)
                Image.fromarray(labels).save((mask_folder / name).with_suffix(".png"))
                histogram = np.bincount(labels.ravel(), minlength=num_classes + 1)
                pixels += histogram
                found[part] += histogram > 0
        rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
        for i, class_name in enumerate(("background", *DIGIT_NAMES), start=1):
            ratio = f"{pixels[i] / pixels.sum():.4f}"
            rows.append(f"{i}\t{ratio}\t{found['train'][i]}\t{found['val'][i]}\t{int(i == 1)}\t{class_name}")
        (folder / "objectInfo150.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")

    return write_whole_folder(root, write, parts=("annotations", "images"))


@dataclass(frozen=True)
class _Glyph:
    """One digit as it is painted: (h, w) alpha of 0..255, no row or column of which is empty."""

    alpha: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """(h, w) bool: the pixels that show more of the digit than of what is behind."""
        return self.alpha >= 128


@dataclass(frozen=True)
class _Placed:
    """A digit on the canvas, its visible pixels, and how many it would have if nothing hid it."""

    label: int
    visible: np.ndarray
    num_pixels: int


@functools.cache
def _digits_of(part: Part) -> tuple[tuple[np.ndarray, ...], ...]:
    """The pictures of each label 0..9 that belong to a part, each (8, 8) int64 of 0..16."""
    # scikit-learn takes a second to import.
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures: list[list[np.ndarray]] = [[] for _ in DIGIT_NAMES]
    for owner, label, number in split_digits(digits.target):
        if owner == part:
            pictures[label].append(digits.images[number].astype(np.int64))
    return tuple(tuple(of_label) for of_label in pictures)


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(H, W, 3) int64 of 0.._DARK: one dark colour with a gradient, clouds or stripes, and shapes on it."""
    base = rng.integers(10, 90, 3)
    columns, rows = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
    canvas = np.zeros((height, width, 3), np.int64) + base
    kind = rng.integers(4)
    if kind == 0:
        across, down = rng.integers(-30, 31, (2, 3))
        canvas += across * columns // width + down * rows // height
    elif kind == 1:
        coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3)).astype(np.uint8)
        clouds = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        canvas += (np.asarray(clouds).astype(np.int64) - 128) * 50 // 256
    elif kind == 2:
        period, step_x, step_y = int(rng.integers(6, 25)), *(int(step) for step in rng.integers(-2, 3, 2))
        phase = (step_x * columns + step_y * rows) % (2 * period)
        canvas += np.abs(phase - period) * rng.integers(-25, 26, 3) // period
    for _ in range(rng.integers(0, 6)):
        shape = _random_shape(rng, columns[..., 0], rows[..., 0])
        canvas[shape] = base + rng.integers(-25, 41, 3)
    return np.clip(canvas, 0, _DARK)


def _random_shape(rng: np.random.Generator, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(H, W) bool: an ellipse, a rectangle, a triangle or a line from border to border.

    Pillow's own shapes differ by pixels from version to version.

    Args:
        rng: source of what is drawn by chance.
        columns: (1, W) numbers of the columns.
        rows: (H, 1) numbers of the rows.
    """
    width, height = columns.shape[1], rows.shape[0]
    x, y = columns - rng.integers(width), rows - rng.integers(height)  # from the shape's centre
    half_w, half_h = rng.integers(3, 20, 2)
    kind = rng.integers(4)
    if kind == 0:
        return (x * half_h) ** 2 + (y * half_w) ** 2 <= (half_w * half_h) ** 2
    if kind == 1:
        return (np.abs(x) <= half_w) & (np.abs(y) <= half_h)
    if kind == 2:
        return (np.abs(x) * 2 * half_h <= (y + half_h) * half_w) & (y <= half_h)
    slope_x, slope_y = rng.integers(-8, 9), rng.integers(1, 9)
    return (x * slope_y - y * slope_x) ** 2 <= slope_x**2 + slope_y**2  # at most one pixel off the line


def _draw_glyph(digit: np.ndarray, height: int, lean: int) -> _Glyph:
    """Enlarge an (8, 8) digit to `height` pixels with sharpened edges, turned by lean/64 (about radians)."""
    framed = np.pad(digit * 15, 1).astype(np.uint8)  # 0..16 -> 0..240; room for the outermost strokes' edges
    side = height * 10 // 8
    enlarged = Image.fromarray(framed).resize((side, side), Image.Resampling.BICUBIC)
    # Multiples of 1/64 are exact in floating point, cosines need not be the same on every machine.
    turn, centre = lean / 64, side / 2
    matrix = (1.0, turn, -turn * centre, -turn, 1.0, turn * centre)
    turned = enlarged.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    gray = np.asarray(turned).astype(np.int64)
    alpha = np.clip((gray - 104) * max(height, 36) // 12 + 128, 0, 255)  # edges one to two pixels wide at any size
    rows, columns = np.flatnonzero((alpha >= 128).any(axis=1)), np.flatnonzero((alpha >= 128).any(axis=0))
    return _Glyph(alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _random_glyph(rng: np.random.Generator, pictures: Sequence[np.ndarray], heights: tuple[int, int]) -> _Glyph:
    height, lean = int(rng.integers(heights[0], heights[1] + 1)), int(rng.integers(-10, 11))
    return _draw_glyph(pictures[int(rng.integers(len(pictures)))], height, lean)


def _place_digit(
    rng: np.random.Generator,
    canvas: np.ndarray,
    digits: Sequence[Sequence[np.ndarray]],
    placed: list[_Placed],
    taken: np.ndarray | None,
) -> None:
    """Paint one digit and add it to `placed`, cutting it out of the earlier ones; nothing where it cannot go."""
    height, width = canvas.shape[:2]
    label = int(rng.integers(len(digits)))
    tallest = max(_DIGIT_HEIGHTS[0], min(_DIGIT_HEIGHTS[1], min(height, width) * 2 // 3))
    glyph = _random_glyph(rng, digits[label], (_DIGIT_HEIGHTS[0], tallest))
    h, w = glyph.alpha.shape
    # Up to an eighth beyond the border.
    first, last = np.array((-w // 8, -h // 8)), np.array((width - w * 7 // 8, height - h * 7 // 8))
    overlapping = bool(placed) and rng.integers(4) == 0
    if overlapping:  # near an earlier digit, so that they do meet
        left, top, other_w, other_h = SceneObject(0, placed[int(rng.integers(len(placed)))].visible).box_xywh
        corner = np.clip(rng.integers((left - w, top - h), (left + other_w, top + other_h)), first, last)
    else:
        corner = rng.integers(first, last + 1)
    x, y = (int(value) for value in corner)
    alpha = _on_canvas(glyph.alpha, x, y, width, height)
    mask = alpha >= 128
    num_pixels = int(glyph.mask.sum())
    if mask.sum() < max(_MIN_VISIBLE_PIXELS, _MIN_VISIBLE * num_pixels):
        return
    around = _grown(mask, 7)
    if taken is not None and (around & taken).any():
        return
    remaining = [item.visible & ~mask for item in placed]
    for item, left_over in zip(placed, remaining, strict=True):
        if not overlapping and (around & item.visible).any():
            return
        if left_over.sum() < max(_MIN_VISIBLE_PIXELS, _MIN_VISIBLE * item.num_pixels):
            return
    touched = [around & item.visible for item in placed]
    _paint(rng, canvas, alpha, [around, *(region for region in touched if region.any())])
    placed[:] = [replace(item, visible=left_over) for item, left_over in zip(placed, remaining, strict=True)]
    placed.append(_Placed(label, mask, num_pixels))


def _place_crowd(rng: np.random.Generator, canvas: np.ndarray, digits: Sequence[Sequence[np.ndarray]]) -> SceneObject:
    """Paint rows of tiny digits of one class, which touch and hide each other, and return their region."""
    height, width = canvas.shape[:2]
    label = int(rng.integers(len(digits)))
    pitch_x, pitch_y = 7, 10
    num_columns = min(int(rng.integers(3, 8)), (width - 8) // pitch_x)
    num_rows = min(int(rng.integers(2, 5)), (height - 8) // pitch_y)
    left = int(rng.integers(0, width - num_columns * pitch_x - 3))
    top = int(rng.integers(0, height - num_rows * pitch_y - 3))
    alpha = np.zeros((height, width), np.int64)
    for row in range(num_rows):
        for column in range(num_columns):
            glyph = _random_glyph(rng, digits[label], _TINY_HEIGHTS)
            jitter_x, jitter_y = (int(value) for value in rng.integers(-1, 3, 2))
            x, y = left + column * pitch_x + jitter_x, top + row * pitch_y + jitter_y
            alpha = np.maximum(alpha, _on_canvas(glyph.alpha, x, y, width, height))
    # Closed, then grown: one region, as a person would draw it.
    closed = ~_grown(~_grown(alpha >= 128, 9), 5)
    _paint(rng, canvas, alpha, [closed])
    return SceneObject(label, closed)


def _on_canvas(alpha: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """(H, W): a glyph's alpha with its corner at (x, y), which may lie outside, and zeros elsewhere."""
    whole = np.zeros((height, width), np.int64)
    h, w = alpha.shape
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
    if top < bottom and left < right:
        whole[top:bottom, left:right] = alpha[top - y : bottom - y, left - x : right - x]
    return whole


def _grown(mask: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool: the pixels with one of `mask` in the square of odd side `size` around them."""
    return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(size))) > 0


def _paint(rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray, regions: Sequence[np.ndarray]) -> None:
    """Lay one colour over `canvas` that stands out from what is there in each of the regions."""
    behind = [canvas[region] for region in regions]  # (P, 3) each
    best, best_distance = canvas[0, 0], -1
    for colour in rng.integers(_BRIGHT, 256, (24, 3)):
        distance = min(_low_distance(pixels, colour) for pixels in behind)
        if distance > best_distance:
            best, best_distance = colour, distance
        if best_distance >= _MIN_CONTRAST**2:
            break
    canvas[:] = (canvas * (255 - alpha[..., None]) + best * alpha[..., None] + 127) // 255


def _low_distance(pixels: np.ndarray, colour: np.ndarray) -> int:
    """Squared distance in RGB that all but a twentieth of the (P, 3) pixels keep from the colour."""
    distances = ((pixels - colour) ** 2).sum(axis=1)
    rank = len(distances) // 20
    return int(np.partition(distances, rank)[rank])


def _label_map(scene: Scene) -> np.ndarray:
    """(H, W) uint8: 0 crowd, 1 background, 2..11 the digits 0..9."""
    labels = np.ones(scene.image.shape[:2], np.uint8)
    if scene.crowd is not None:
        labels[scene.crowd.mask] = 0
    for item in scene.digits:
        labels[item.mask] = item.label + 2
    return labels


def _save_image(image: np.ndarray, folder: Path, index: int) -> str:
    """Save a scene's picture and return the file's name; every tenth is JPEG, as users' pictures are."""
    if index % _JPEG_EVERY == _JPEG_AT:
        name = f"{index:06d}.jpg"
        Image.fromarray(image).save(folder / name, quality=95, subsampling=0)
    else:
        name = f"{index:06d}.png"
        Image.fromarray(image).save(folder / name, compress_level=3)
    return name


def _coco_header() -> dict[str, Any]:
    """COCO's fields that are the same for both parts."""
    return {
        "info": {
            "description": "Scenes composed from the handwritten digits of scikit-learn",
            "url": "https://archive.ics.uci.edu/dataset/80",
            "version": "1.0",
            "year": 1998,
            "contributor": "E. Alpaydin and C. Kaynak",
            "date_created": "1998/07/01",
        },
        "licenses": [{"id": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}],
        "categories": [
            {"id": category, "name": name, "supercategory": "digit"}
            for category, name in zip(CATEGORY_IDS, DIGIT_NAMES, strict=True)
        ],
    }


def _coco_annotation(item: SceneObject, iscrowd: int) -> dict[str, Any]:
    """COCO's fields of one object, less its ids."""
    polygons = None if iscrowd else _polygons(item.mask)
    return {
        "category_id": CATEGORY_IDS[item.label],
        "bbox": list(item.box_xywh),
        "area": int(item.mask.sum()),
        "iscrowd": iscrowd,
        "segmentation": _run_lengths(item.mask) if polygons is None else polygons,
    }


def _run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed RLE: lengths of runs of 0 and 1 by turns, down the columns, 0 first."""
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate(([0], starts, [flat.size]))).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def _polygons(mask: np.ndarray) -> list[list[float]] | None:
    """Outlines [x0, y0, x1, y1, …] in pixels, or None where they do not give the mask back.

    Polygons have no holes. Readers' rasterisers differ by half a pixel along the edge, which is much of a small mask.
    """
    if mask.sum() < _MIN_POLYGON_AREA:
        return None
    # contourpy comes with matplotlib.
    from contourpy import LineType, contour_generator

    left, top, w, h = SceneObject(0, mask).box_xywh
    framed = np.pad(mask[top : top + h, left : left + w], 1).astype(np.float64)
    outlines = contour_generator(z=framed, line_type=LineType.Separate).lines(0.5)
    polygons = []
    filled = np.zeros(framed.shape, bool)
    for outline in outlines:
        points = np.asarray(outline)[:-1]  # (points, 2); the last repeats the first
        (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
        if (x * next_y - next_x * y).sum() < 0:
            continue  # a hole: contourpy goes round it the other way
        before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        corners = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
        filled |= _inside(corners, framed.shape)
        # From the frame's pixel centres to the picture's pixel corners.
        polygons.append((corners - 1 + (left + 0.5, top + 0.5)).ravel().tolist())
    solid = framed > 0
    if (filled & solid).sum() < _MIN_POLYGON_IOU * (filled | solid).sum():
        return None
    return polygons


def _inside(corners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) bool: the pixel centres, at whole numbers, inside one polygon of (points, 2) corners x, y."""
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        (x0, y0), (x1, y1) = ((x0, y0), (x1, y1)) if y0 <= y1 else ((x1, y1), (x0, y0))
        rows = np.arange(int(np.ceil(y0)), int(np.ceil(y1)))  # half open, so that a corner counts once
        if len(rows):
            crossings[rows, np.ceil(x0 + (rows - y0) * (x1 - x0) / (y1 - y0)).astype(np.int64)] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def _check_counts(num_train: int, num_val: int) -> None:
    for name, count in (("num_train", num_train), ("num_val", num_val)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1 scene, got {count}")


def _check_size(size: tuple[int, int]) -> None:
    if not _SMALLEST_SIDE <= size[0] <= size[1]:
        raise ValueError(
            f"size must be the shortest and the longest side of a scene, from {_SMALLEST_SIDE} pixels up, got {size}"
        )
