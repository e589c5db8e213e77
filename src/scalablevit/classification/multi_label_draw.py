"""Draw the results of a classifier of several labels an image: average precisions and a sheet of predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scalablevit.classification.data import LabelledImages
from scalablevit.classification.draw import RIGHT, WRONG, sheet_of_images
from scalablevit.classification.multi_label_evaluate import THRESHOLD, MultiLabelEvaluation
from scalablevit.printable import printable, short_name
from scalablevit.safe_write import write_atomically
from scalablevit.visualization.fonts import label_fonts

_MOST_BARS = 60
_MOST_NAMES = 4


def draw_average_precision(per_class: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a bar for each class, the best on top; of more than 60 classes the 60 worst.

    Args:
        per_class: rows with `class`, `average_precision` and `support`, as `results.json` has them.
        path: PNG file to write.
    """
    measured = sorted((row for row in per_class if row["average_precision"] is not None), key=_precision)
    shown = measured[:_MOST_BARS]
    labels = [f"{short_name(printable(row['class']), 32)} ({row['support']:,})" for row in shown]
    with label_fonts(labels):
        figure = Figure(figsize=(7, 1.2 + 0.26 * max(len(shown), 2)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        values = [_precision(row) for row in shown]
        axes.barh(range(len(shown)), values, color="#4c78a8")
        axes.set_yticks(range(len(shown)), labels, parse_math=False)
        axes.set_xlim(0, 1)
        axes.set_xlabel("average precision")
        mean = np.mean([_precision(row) for row in measured]) if measured else float("nan")
        left_out = "" if len(shown) == len(measured) else f", the {len(shown)} worst of {len(measured):,} classes"
        axes.set_title(f"mAP {mean:.1%}{left_out} (images that show the class)")
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw_predictions(
    result: MultiLabelEvaluation,
    dataset: LabelledImages,
    class_names: Sequence[str],
    path: Path,
    *,
    count: int = 24,
) -> None:
    """Draw a sheet of images with their labels: those with the gravest mistakes, then a sample of the set.

    Args:
        result: of `dataset`.
        dataset: where the images are.
        class_names: by class index.
        path: PNG file to write.
        count: images on the sheet, at most.
    """
    names = [printable(name) for name in class_names]
    probabilities, shown = result.probabilities.numpy(), result.targets.numpy() > 0
    gravest = np.abs(probabilities - shown).max(axis=1)
    wrong = [i for i in np.argsort(-gravest).tolist() if gravest[i] > THRESHOLD][: count // 3]

    def write_title(axes: Axes, i: int) -> None:
        said = probabilities[i] > THRESHOLD
        right = [k for k in np.argsort(-probabilities[i]).tolist() if said[k]]
        title = _joined([f"{short_name(names[k], 14)} {probabilities[i, k]:.0%}" for k in right]) or "nothing"
        if missed := [short_name(names[k], 14) for k in np.flatnonzero(shown[i] & ~said)]:
            title += f"\nmissed: {_joined(missed)}"
        if surplus := [short_name(names[k], 14) for k in np.flatnonzero(said & ~shown[i])]:
            title += f"\nnot there: {_joined(surplus)}"
        axes.set_title(title, fontsize=8, color=RIGHT if (said == shown[i]).all() else WRONG, parse_math=False)

    with label_fonts(names):
        figure = sheet_of_images(dataset, result.indices.tolist(), wrong, write_title, count=count)
        figure.suptitle("Validation images: the gravest mistakes, then a sample" if wrong else "Validation images")
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _precision(row: Mapping[str, Any]) -> float:
    return float(row["average_precision"])


def _joined(names: Sequence[str]) -> str:
    """A few names in lines of two, and how many more there are."""
    listed = list(names[:_MOST_NAMES]) + ([f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else [])
    return "\n".join(", ".join(listed[i : i + 2]) for i in range(0, len(listed), 2))
