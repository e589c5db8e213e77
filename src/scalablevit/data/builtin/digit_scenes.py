"""Scenes composed from scikit-learn's handwritten digits.

Everything that decides a pixel is integer arithmetic on numpy's PCG64 stream, so that a seed gives the same scenes
on any machine.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from scalablevit.data.builtin.digits import split_digits
from scalablevit.data.builtin.mask_outlines import box_of
from scalablevit.data.builtin.scene_painting import background, grown, on_canvas, paint, random_glyph

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Class names, in the order of the labels 0..9."""

Part = Literal["train", "val"]

_SMALLEST_SIDE = 32
_DIGIT_HEIGHTS = (20, 44)
_TINY_HEIGHTS = (10, 12)
_MOST_DIGITS = 8
# Below it a digit can often not be told from others, and a detector would be trained on guesses.
_MIN_VISIBLE = 0.6
_MIN_VISIBLE_PIXELS = 24
_EMPTY_EVERY, _EMPTY_AT = 20, 7
_CROWD_EVERY, _CROWD_AT = 16, 4


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
        return box_of(self.mask)


@dataclass(frozen=True)
class Scene:
    """An image of digits with what is true about it.

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
        digits: for each label 0..9 its images, (8, 8) of 0..16.
        size: the shortest and the longest side that may be drawn, in pixels; at least 32.
        max_digits: the most digits that may be drawn, besides the crowd; 0 for none, else there is at least one
            wherever there is space.
        crowd: put a cluster of tiny digits of one class, too.

    Raises:
        ValueError: `size` or `max_digits` is out of range.
    """
    check_size(size)
    if max_digits < 0:
        raise ValueError(f"max_digits must be at least 0, got {max_digits}")
    width, height = (int(side) for side in rng.integers(size[0], size[1] + 1, 2))
    canvas = background(rng, width, height)
    region = _place_crowd(rng, canvas, digits) if crowd else None
    placed: list[_Placed] = []
    wanted = int(rng.integers(1, max_digits + 1)) if max_digits else 0
    tries = 0
    # A crowd on a small image may leave no space for even one.
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


def check_size(size: tuple[int, int]) -> None:
    if not _SMALLEST_SIDE <= size[0] <= size[1]:
        raise ValueError(
            f"size must be the shortest and the longest side of a scene, from {_SMALLEST_SIDE} pixels up, got {size}"
        )


@dataclass(frozen=True)
class _Placed:
    """A digit on the canvas, its visible pixels, and how many it would have if nothing hid it."""

    label: int
    visible: np.ndarray
    num_pixels: int


@functools.cache
def _digits_of(part: Part) -> tuple[tuple[np.ndarray, ...], ...]:
    """The images of each label 0..9 that belong to a part, each (8, 8) int64 of 0..16."""
    # scikit-learn takes a second to import.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images: list[list[np.ndarray]] = [[] for _ in DIGIT_NAMES]
    for owner, label, number in split_digits(digits.target):
        if owner == part:
            images[label].append(digits.images[number].astype(np.int64))
    return tuple(tuple(of_label) for of_label in images)


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
    glyph = random_glyph(rng, digits[label], (_DIGIT_HEIGHTS[0], tallest))
    h, w = glyph.alpha.shape
    # Up to an eighth beyond the border.
    first, last = np.array((-w // 8, -h // 8)), np.array((width - w * 7 // 8, height - h * 7 // 8))
    overlapping = bool(placed) and rng.integers(4) == 0
    if overlapping:  # near an earlier digit, so that they do meet
        left, top, other_w, other_h = box_of(placed[int(rng.integers(len(placed)))].visible)
        corner = np.clip(rng.integers((left - w, top - h), (left + other_w, top + other_h)), first, last)
    else:
        corner = rng.integers(first, last + 1)
    x, y = (int(value) for value in corner)
    alpha = on_canvas(glyph.alpha, x, y, width, height)
    mask = alpha >= 128
    num_pixels = int(glyph.mask.sum())
    if mask.sum() < max(_MIN_VISIBLE_PIXELS, _MIN_VISIBLE * num_pixels):
        return
    around = grown(mask, 7)
    if taken is not None and (around & taken).any():
        return
    remaining = [item.visible & ~mask for item in placed]
    for item, left_over in zip(placed, remaining, strict=True):
        if not overlapping and (around & item.visible).any():
            return
        if left_over.sum() < max(_MIN_VISIBLE_PIXELS, _MIN_VISIBLE * item.num_pixels):
            return
    touched = [around & item.visible for item in placed]
    paint(rng, canvas, alpha, [around, *(region for region in touched if region.any())])
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
            glyph = random_glyph(rng, digits[label], _TINY_HEIGHTS)
            jitter_x, jitter_y = (int(value) for value in rng.integers(-1, 3, 2))
            x, y = left + column * pitch_x + jitter_x, top + row * pitch_y + jitter_y
            alpha = np.maximum(alpha, on_canvas(glyph.alpha, x, y, width, height))
    # Closed, then grown: one region, as a person would draw it.
    closed = ~grown(~grown(alpha >= 128, 9), 5)
    paint(rng, canvas, alpha, [closed])
    return SceneObject(label, closed)
