"""Draw a sheet of examples: image, ground truth and prediction side by side."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from scalablevit.printable import printable, short_name
from scalablevit.safe_write import write_atomically
from scalablevit.segmentation.draw import MOST_LEGEND_ENTRIES, Colours
from scalablevit.visualization.fonts import label_fonts

_IGNORED_COLOUR = (128, 128, 128)


def draw_predictions(
    examples: Sequence[tuple[Image.Image, np.ndarray, np.ndarray, str]],
    path: Path,
    *,
    class_names: Sequence[str],
    palette: Colours,
) -> None:
    """Draw a sheet with a line for each example: image, ground truth, prediction.

    Args:
        examples: (RGB image, its mask (H, W), predicted labels (H, W), a title) each; mask and labels hold class
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
    legend_rows = 1 + min(K, MOST_LEGEND_ENTRIES) // (3 * columns + 1)
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
        for cell, text in zip(cells, ("image", "ground truth", title), strict=True):
            cell.set_title(printable(text), fontsize=9, parse_math=False)
    order = [int(k) for k in np.argsort(-seen, kind="stable") if seen[k] and k < K]
    names = [(short_name(class_names[k], 24), palette[k]) for k in order[:MOST_LEGEND_ENTRIES]]
    if seen[K]:
        names.append(("(ignored)", _IGNORED_COLOUR))
    # $ would begin a formula, and a leading _ hides an entry
    handles = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), label="\u200b" + name.replace("$", r"\$"))
        for name, colour in names
    ]
    with label_fonts(name for name, _ in names):
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3 * columns + 1), fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"))
