"""Pictures of what a segmenter does: overlay with a legend, raw label map, sheet of predictions."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw

from scalablevit.safe_write import write_atomically
from scalablevit.segmentation.inference import class_pixels
from scalablevit.visualization.fonts import load_font

Colours = Sequence[tuple[int, int, int]]

_BACKGROUND = (31, 35, 40)
_IGNORED_COLOUR = (128, 128, 128)
_SMALLEST_SIDE = 320
_MOST_LEGEND_ENTRIES = 30
_BAND_PIXELS = 4_000_000  # pixels worked on at once, so that a huge picture needs little beside itself


def draw_overlay(
    image: Image.Image,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    palette: Colours,
    opacity: float = 0.5,
) -> Image.Image:
    """Lay the colours of the classes over a picture, with lines between them and a legend below.

    Small pictures are enlarged so that the legend fits.

    Args:
        image: RGB picture.
        labels: (H, W) class index of each of its pixels.
        class_names: by class index.
        palette: RGB in 0..255, by class index.
        opacity: of the colours, in 0..1.

    Returns:
        a new RGB picture; the legend names the classes, the largest first, with their share of the pixels.
    """
    if labels.shape != (image.height, image.width):
        raise ValueError(f"labels {labels.shape} are not of the picture's size {(image.height, image.width)}")
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


def draw_labels(labels: np.ndarray, *, num_classes: int, palette: Colours) -> Image.Image:
    """A label map as a picture whose pixel values are the class indices.

    Args:
        labels: (H, W) class indices.
        num_classes: how many classes there are.
        palette: RGB in 0..255, by class index.

    Returns:
        mode P with the palette for up to 255 classes, which leaves 255 (ignored) free, else 16-bit grayscale.
    """
    if num_classes > 255:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette([value for colour in palette[:num_classes] for value in colour])  # makes it mode P
    return picture


def draw_predictions(
    examples: Sequence[tuple[Image.Image, np.ndarray, np.ndarray, str]],
    path: Path,
    *,
    class_names: Sequence[str],
    palette: Colours,
) -> None:
    """Draw a sheet with a line for each example: picture, ground truth, prediction.

    Args:
        examples: (RGB picture, its mask (H, W), predicted labels (H, W), a title) each; mask and labels hold class
            indices, a mask anything else where it is ignored. The three need not be of one size.
        path: PNG file to write.
        class_names: by class index.
        palette: RGB in 0..255, by class index.
    """
    K = len(class_names)
    table = np.array([*palette[:K], _IGNORED_COLOUR], dtype=np.uint8)
    seen = np.zeros(K + 1, dtype=np.int64)
    columns = 2 if len(examples) > 3 else 1
    lines = math.ceil(len(examples) / columns)
    shape = np.mean([image.height / image.width for image, *_ in examples])
    legend_rows = 1 + min(K, _MOST_LEGEND_ENTRIES) // (3 * columns + 1)
    height = lines * (2.1 * float(np.clip(shape, 0.4, 1.6)) + 0.35) + 0.25 * legend_rows + 0.5
    figure = Figure(figsize=(6.6 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, 3 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for place, (image, mask, labels, title) in enumerate(examples):
        row, column = divmod(place, columns)
        cells = grid[row, 3 * column : 3 * column + 3]
        known = np.where((mask >= 0) & (mask < K), mask, K)
        seen += np.bincount(known.ravel(), minlength=K + 1) + np.bincount(labels.ravel(), minlength=K + 1)
        cells[0].imshow(image)
        cells[1].imshow(table[known], interpolation="nearest")
        cells[2].imshow(table[labels], interpolation="nearest")
        for cell, text in zip(cells, ("picture", "ground truth", title), strict=True):
            cell.set_title(text, fontsize=9, parse_math=False)
    order = [int(k) for k in np.argsort(-seen, kind="stable") if seen[k] and k < K]
    names = [(_short(class_names[k], 24), palette[k]) for k in order[:_MOST_LEGEND_ENTRIES]]
    if seen[K]:
        names.append(("(ignored)", _IGNORED_COLOUR))
    # $ would begin a formula, and a leading _ hides an entry
    handles = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), label="\u200b" + name.replace("$", r"\$"))
        for name, colour in names
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3 * columns + 1), fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"))


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
    font = load_font(text_size)
    total = max(int(counts.sum()), 1)
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    entries = [(f"{_short(class_names[k], 32)}  {_percent(counts[k] / total)}", palette[k]) for k in order]
    if len(entries) > _MOST_LEGEND_ENTRIES:
        rest = order[_MOST_LEGEND_ENTRIES - 1 :]
        share = sum(int(counts[k]) for k in rest) / total
        entries = [*entries[: _MOST_LEGEND_ENTRIES - 1], (f"{len(rest)} more  {_percent(share)}", _BACKGROUND)]
    patch = round(text_size * 1.1)
    cell = math.ceil(max(font.getlength(text) for text, _ in entries)) + patch + 2 * text_size
    columns = min(len(entries), max(1, (width - text_size) // cell))
    rows = math.ceil(len(entries) / columns)
    pitch = round(text_size * 1.5)
    band = Image.new("RGB", (max(width, columns * cell + text_size), rows * pitch + text_size), _BACKGROUND)
    draw = ImageDraw.Draw(band)
    for i, (text, colour) in enumerate(entries):
        column, row = divmod(i, rows)  # down, then right: sizes fall as one reads a column
        x, y = text_size + column * cell, text_size // 2 + row * pitch
        draw.rectangle((x, y, x + patch, y + patch), fill=colour)
        draw.text((x + patch + text_size // 2, y), text, font=font, fill="white")
    return band


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
