"""An image with the boxes, masks and names of its detections drawn into it."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scalablevit.data.resizing import resized_size
from scalablevit.detection.predict import Detection, decode_mask
from scalablevit.printable import printable
from scalablevit.visualization.fonts import NameFont, load_font
from scalablevit.visualization.palette import class_colours

_SMALLEST_SIDE = 512
_MASK_OPACITY = 100  # of 255
_LONGEST_NAME = 300  # characters; no image is wide enough for more

Box = tuple[float, float, float, float]


def annotate(
    image: Image.Image,
    detections: Sequence[Detection],
    *,
    side: int | None = None,
    with_scores: bool = True,
) -> Image.Image:
    """Draw boxes, names, scores and masks into a copy of an image; small images are enlarged for it.

    Args:
        image: upright RGB image.
        detections: in its pixels; drawn in a colour for each class, the highest score on top.
        side: pixels of the longer side of what comes out; None: as it is, small images by a whole factor
            to at least 512.
        with_scores: write scores behind names.

    Returns:
        a new RGB image.
    """
    longer = max(image.size)
    if side is None:
        scale: float = math.ceil(_SMALLEST_SIDE / longer) if longer < _SMALLEST_SIDE else 1
    else:
        scale = side / longer
    height, width = resized_size(image.height, image.width, short_side=None, long_side=None, factor=scale)
    size = (width, height)
    whole_factor = scale == int(scale)
    drawn = (
        image
        if size == image.size
        else image.resize(size, Image.Resampling.NEAREST if whole_factor else Image.Resampling.BICUBIC)
    )
    longer = max(size)
    line = max(2, round(longer / 350))
    font = load_font(max(13, round(longer / 48)))
    colours = class_colours(max((detection.label for detection in detections), default=-1) + 1)
    surest_last = sorted(detections, key=lambda detection: detection.score)
    # boxes are stretched as the image is, whose sides are whole numbers
    stretch_x, stretch_y = size[0] / image.width, size[1] / image.height
    places = [
        (box[0] * stretch_x, box[1] * stretch_y, box[2] * stretch_x, box[3] * stretch_y)
        for box in (detection.box_xyxy for detection in surest_last)
    ]
    drawn = drawn.copy()
    for detection in surest_last:
        if detection.mask is not None:
            _blend(drawn, decode_mask(detection.mask), colours[detection.label], line)
    draw = ImageDraw.Draw(drawn)
    for detection, box in zip(surest_last, places, strict=True):
        _outline(draw, box, size, colours[detection.label], line)
    labels = _Labels(draw, size, font, len(places))
    for detection, box in zip(reversed(surest_last), reversed(places), strict=True):
        text = f"{detection.name} {detection.score:.0%}" if with_scores else detection.name
        labels.write(printable(text), box, colours[detection.label])
    return drawn


def _blend(drawn: Image.Image, mask: np.ndarray, colour: tuple[int, int, int], line: int) -> None:
    """Lay a (h, w) mask, stretched, on an image: tinted inside, the rim opaque."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    # only where the mask is: a hundred masks of a large photograph would take long
    top, y = _stretched(int(rows[0]), int(rows[-1]), mask.shape[0], drawn.height)
    left, x = _stretched(int(columns[0]), int(columns[-1]), mask.shape[1], drawn.width)
    inside = mask[np.ix_(y, x)]
    core = inside
    for _ in range(max(1, line // 2)):
        ring = np.pad(core, 1)
        core = core & ring[:-2, 1:-1] & ring[2:, 1:-1] & ring[1:-1, :-2] & ring[1:-1, 2:]
    opacity = np.where(inside, np.where(core, _MASK_OPACITY, 255), 0).astype(np.uint8)
    drawn.paste(colour, (left, top), Image.fromarray(opacity))


def _stretched(first: int, last: int, size: int, target: int) -> tuple[int, np.ndarray]:
    """Of `target` pixels that `size` are stretched to, the first of those of `first` to `last`, and where each of
    them comes from."""
    begin, end = first * target // size, -(-(last + 1) * target // size)
    return begin, ((np.arange(begin, end) + 0.5) * size / target).astype(int)


def _outline(
    draw: ImageDraw.ImageDraw, box: Box, size: tuple[int, int], colour: tuple[int, int, int], line: int
) -> None:
    left, right = (min(max(round(x), 0), size[0] - 1) for x in (box[0], box[2] - 1))
    top, bottom = (min(max(round(y), 0), size[1] - 1) for y in (box[1], box[3] - 1))
    draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)


class _Labels:
    """Names at boxes. The first ones choose their places, and no label covers an earlier one while there is space.

    Args:
        draw: of the image.
        size: (width, height) of the image in pixels.
        font: of all labels.
        count: how many labels there will be at most.
    """

    def __init__(
        self, draw: ImageDraw.ImageDraw, size: tuple[int, int], font: ImageFont.FreeTypeFont, count: int
    ) -> None:
        self._draw, self._size, self._font = draw, size, font
        self._pad = max(2, round(font.size / 6))
        self._taken = np.zeros((count, 4))
        self._count = 0

    def write(self, text: str, box: Box, colour: tuple[int, int, int]) -> None:
        """Write a name at its box, within the image."""
        pad, font = self._pad, NameFont(round(self._font.size), text)
        text = _fitting(text, self._size[0] - 2 * pad, font)
        width = math.ceil(font.getlength(text)) + 2 * pad
        height = sum(font.getmetrics()) + pad
        left, top, right, bottom = box
        corners = np.array(
            [
                (left, top - height),  # above the box, then inside it, then below
                (right - width, top - height),
                (left, top),
                (right - width, top),
                (left, bottom - height),
                (left, bottom),
            ]
        )
        low = corners.clip(0, [max(self._size[0] - width, 0), max(self._size[1] - height, 0)])
        place = low[self._covered(low, low + np.array([width, height])).argmin()]  # the first of those that cover least
        x, y = (float(v) for v in place)
        self._taken[self._count] = x, y, x + width, y + height
        self._count += 1
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        red, green, blue = colour
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
        font.draw(self._draw, (x + pad, y + pad / 2), text, fill=ink)

    def _covered(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Pixels of earlier labels that each of (P, 2) corners would cover, (P,)."""
        taken = self._taken[: self._count]  # (n, 4)
        sides = np.minimum(high[:, None], taken[:, 2:]) - np.maximum(low[:, None], taken[:, :2])  # (P, n, 2)
        covered: np.ndarray = sides.clip(0).prod(axis=2).sum(axis=1)
        return covered


def _fitting(text: str, width: float, font: NameFont) -> str:
    """As much of a text as fits into a width in pixels."""
    text = text[:_LONGEST_NAME]
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
