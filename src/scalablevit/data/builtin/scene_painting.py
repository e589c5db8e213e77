"""Paint digits, crowds and what lies behind them on the canvas of a scene.

All of it is integer arithmetic, so that a seed gives the same pixels on any machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

# Distance in RGB, of 441, between a digit and all but a twentieth of what lies around it.
_MIN_CONTRAST = 110
# Digits are brighter than what they stand on, as chalk on a blackboard.
_DARK, _BRIGHT = 120, 130


@dataclass(frozen=True)
class Glyph:
    """One digit as it is painted: (h, w) alpha of 0..255, no row or column of which is empty."""

    alpha: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """(h, w) bool: the pixels that show more of the digit than of what is behind."""
        return self.alpha >= 128


def background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
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


def _draw_glyph(digit: np.ndarray, height: int, lean: int) -> Glyph:
    """Enlarge an (8, 8) digit to `height` pixels with sharpened edges, turned by lean/64 (about radians)."""
    framed = np.pad(digit * 15, 1).astype(np.uint8)  # 0..16 -> 0..240; a margin for the outermost strokes' edges
    side = height * 10 // 8
    enlarged = Image.fromarray(framed).resize((side, side), Image.Resampling.BICUBIC)
    # Multiples of 1/64 are exact in floating point, cosines need not be the same on every machine.
    turn, centre = lean / 64, side / 2
    matrix = (1.0, turn, -turn * centre, -turn, 1.0, turn * centre)
    turned = enlarged.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    gray = np.asarray(turned).astype(np.int64)
    alpha = np.clip((gray - 104) * max(height, 36) // 12 + 128, 0, 255)  # edges one to two pixels wide at any size
    rows, columns = np.flatnonzero((alpha >= 128).any(axis=1)), np.flatnonzero((alpha >= 128).any(axis=0))
    return Glyph(alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def random_glyph(rng: np.random.Generator, images: Sequence[np.ndarray], heights: tuple[int, int]) -> Glyph:
    height, lean = int(rng.integers(heights[0], heights[1] + 1)), int(rng.integers(-10, 11))
    return _draw_glyph(images[int(rng.integers(len(images)))], height, lean)


def on_canvas(alpha: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """(H, W): a glyph's alpha with its corner at (x, y), which may lie outside, and zeros elsewhere."""
    whole = np.zeros((height, width), np.int64)
    h, w = alpha.shape
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
    if top < bottom and left < right:
        whole[top:bottom, left:right] = alpha[top - y : bottom - y, left - x : right - x]
    return whole


def grown(mask: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool: the pixels with one of `mask` in the square of odd side `size` around them."""
    return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(size))) > 0


def paint(rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray, regions: Sequence[np.ndarray]) -> None:
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
