"""Draw what a segmenter predicts: overlays with a legend, and masks."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from scalablevit.printable import short_name
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.labels import class_pixels
from scalablevit.visualization.fonts import NameFont

Colours = Sequence[tuple[int, int, int]]

MOST_LEGEND_ENTRIES = 30
_BACKGROUND = (31, 35, 40)
_SMALLEST_SIDE = 320
_BAND_PIXELS = 4_000_000  # pixels worked on at once, so that a huge image needs little beside itself


def draw_overlay(
    image: Image.Image,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    palette: Colours,
    opacity: float = 0.5,
) -> Image.Image:
    """Lay the colours of the classes over an image, with lines between them and a legend below.

    Small images are enlarged so that the legend fits.

    Args:
        image: RGB image.
        labels: (H, W) class index of each of its pixels.
        class_names: by class index.
        palette: RGB in 0..255, by class index.
        opacity: of the colours, in 0..1.

    Returns:
        a new RGB image; the legend names the classes, the largest first, with their share of the pixels.
    """
    if labels.shape != (image.height, image.width):
        raise ValueError(f"labels {labels.shape} are not of the image's size {(image.height, image.width)}")
    counts = np.array(class_pixels(labels, len(class_names)))
    scale = max(1, math.ceil(_SMALLEST_SIDE / max(image.size)))
    width, height = image.width * scale, image.height * scale
    text_size = min(max(14, round(math.sqrt(width * height) / 45)), 64)
    legend = _legend(counts, class_names, palette, width=width, text_size=text_size)
    sheet = Image.new("RGB", (legend.width, height + legend.height), _BACKGROUND)
    left = (legend.width - width) // 2
    colours = np.array(palette, dtype=np.uint16)
    line = max(1, round(max(width, height) / 700))
    rows_at_once = max(1, _BAND_PIXELS // (width * scale))
    for top in range(0, image.height, rows_at_once):
        bottom = min(top + rows_at_once, image.height)
        # A line is drawn where a neighbour a little further down or right is of another class.
        reach = min(bottom + line, image.height)
        part = labels[top:reach].repeat(scale, axis=0).repeat(scale, axis=1)
        size = (bottom - top) * scale
        pixels = np.asarray(image.crop((0, top, image.width, bottom)), dtype=np.uint16)
        pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
        weight = round(opacity * 256)
        blended = (pixels * (256 - weight) + colours[part[:size]] * weight) >> 8
        blended[_edges(part, line)[:size]] = 255
        sheet.paste(Image.fromarray(blended.astype(np.uint8)), (left, top * scale))
    sheet.paste(legend, (0, height))
    return sheet


def draw_labels(
    labels: np.ndarray, *, num_classes: int, palette: Colours, label_map: LabelMap | None = None
) -> Image.Image:
    """Draw predicted classes as a mask, in the labels of the masks that the network was trained on.

    Args:
        labels: (H, W) class indices.
        num_classes: how many classes there are.
        palette: RGB in 0..255, by class index.
        label_map: which label is which class; None: class indices are labels.

    Returns:
        RGB where labels are colours; else mode P, whose pixel values are labels and whose palette has the colours of
        the classes, for labels up to 255; else 16-bit grayscale.
    """
    known = np.arange(num_classes) if label_map is None else np.array(label_map.class_labels)
    if label_map is not None:
        labels = label_map.decode(labels)
        if label_map.in_colours:
            return Image.fromarray(labels.astype(np.uint8))
    # With class 255 no value is left for ignored pixels, but a label map may say so.
    if known.max() > (254 if label_map is None else 255):
        return Image.fromarray(labels.astype(np.uint16))
    table = np.zeros((int(known.max()) + 1, 3), np.uint8)
    table[known] = np.array(palette[:num_classes], np.uint8)
    mask = Image.fromarray(labels.astype(np.uint8))
    mask.putpalette(table.tobytes())  # makes it mode P
    return mask


def _edges(labels: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool: whether a pixel up to `reach` further down or right is of another class."""
    edges = np.zeros(labels.shape, dtype=bool)
    for step in range(1, reach + 1):
        edges[:-step] |= labels[:-step] != labels[step:]
        edges[:, :-step] |= labels[:, :-step] != labels[:, step:]
    return edges


def _legend(
    counts: np.ndarray, class_names: Sequence[str], palette: Colours, *, width: int, text_size: int
) -> Image.Image:
    """A band at least `width` wide: a patch of colour, name and share for each class that is there."""
    total = max(int(counts.sum()), 1)
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    entries = [(f"{short_name(class_names[k], 32)}  {_percent(counts[k] / total)}", palette[k]) for k in order]
    if len(entries) > MOST_LEGEND_ENTRIES:
        rest = order[MOST_LEGEND_ENTRIES - 1 :]
        share = sum(int(counts[k]) for k in rest) / total
        entries = [*entries[: MOST_LEGEND_ENTRIES - 1], (f"{len(rest)} more  {_percent(share)}", _BACKGROUND)]
    patch = round(text_size * 1.1)
    cell = math.ceil(max(NameFont(text_size, text).getlength(text) for text, _ in entries)) + patch + 2 * text_size
    columns = min(len(entries), max(1, (width - text_size) // cell))
    rows = math.ceil(len(entries) / columns)
    pitch = round(text_size * 1.5)
    band = Image.new("RGB", (max(width, columns * cell + text_size), rows * pitch + text_size), _BACKGROUND)
    draw = ImageDraw.Draw(band)
    for i, (text, colour) in enumerate(entries):
        column, row = divmod(i, rows)  # down, then right: sizes fall as one reads a column
        x, y = text_size + column * cell, text_size // 2 + row * pitch
        draw.rectangle((x, y, x + patch, y + patch), fill=colour)
        NameFont(text_size, text).draw(draw, (x + patch + text_size // 2, y), text, fill="white")
    return band


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"
