"""Draw the results of a classifier: its confusion matrix and a sheet of predictions."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from scalablevit.classification.data import ImageFolderDataset, LabelledImages
from scalablevit.classification.evaluate import Evaluation
from scalablevit.data.image_file import ImageError
from scalablevit.printable import printable, short_name
from scalablevit.safe_write import write_atomically
from scalablevit.visualization.fonts import label_fonts

RIGHT, WRONG = "#1a7f37", "#b3261e"
_THUMBNAIL = 256
_MOST_NAMED_CLASSES = 40
_MOST_NUMBERED_CLASSES = 20


def draw_confusion(confusion: Tensor, class_names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix, each row as shares of its true class.

    Args:
        confusion: (K, K) counts, true class by predicted class.
        class_names: by class index; written out for up to 40 classes.
        path: PNG file to write.
    """
    class_names = [printable(name) for name in class_names]
    with label_fonts(class_names):
        figure = _draw_confusion(confusion.numpy(), class_names)
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _draw_confusion(counts: np.ndarray, class_names: Sequence[str]) -> Figure:
    K = len(class_names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(4 + 0.4 * min(K, _MOST_NAMED_CLASSES), 14)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{np.trace(counts):,} of {counts.sum():,} right ({np.trace(counts) / max(counts.sum(), 1):.1%})")
    if K <= _MOST_NAMED_CLASSES:
        labels = [short_name(name, 24) for name in class_names]
        leaning = max(map(len, labels)) >= 3
        axes.set_xticks(
            range(K),
            labels,
            rotation=60 if leaning else 0,
            ha="right" if leaning else "center",
            rotation_mode="anchor",
            parse_math=False,  # a class may have a $ in its name
        )
        axes.set_yticks(range(K), labels, parse_math=False)
    if K <= _MOST_NUMBERED_CLASSES:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=8)
    return figure


def draw_predictions(
    result: Evaluation,
    dataset: ImageFolderDataset,
    class_names: Sequence[str],
    path: Path,
    *,
    count: int = 24,
) -> None:
    """Draw a sheet of images with their predictions: the mistakes of highest probability, then a sample of the set.

    Args:
        result: of `dataset`.
        dataset: where the images are.
        class_names: by class index.
        path: PNG file to write.
        count: images on the sheet, at most.
    """
    class_names = [printable(name) for name in class_names]
    with label_fonts(class_names):
        figure = _draw_predictions(result, dataset, class_names, count)
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _draw_predictions(
    result: Evaluation, dataset: ImageFolderDataset, class_names: Sequence[str], count: int
) -> Figure:
    probability, predicted = result.probabilities.max(1)
    mistakes = (predicted != result.targets).nonzero()[:, 0]
    wrong = mistakes[probability[mistakes].argsort(descending=True)][: count // 3].tolist()

    def write_title(axes: Axes, i: int) -> None:
        said, true = int(predicted[i]), int(result.targets[i])
        title = f"{short_name(class_names[said], 22)} {probability[i]:.0%}"
        if said != true:
            title += f"\nis {short_name(class_names[true], 22)}"
        axes.set_title(title, fontsize=9, color=RIGHT if said == true else WRONG, parse_math=False)

    figure = sheet_of_images(dataset, result.indices.tolist(), wrong, write_title, count=count)
    figure.suptitle("Validation images: the surest mistakes in red, then a sample" if wrong else "Validation images")
    return figure


def sheet_of_images(
    dataset: LabelledImages,
    indices: Sequence[int],
    wrong: Sequence[int],
    write_title: Callable[[Axes, int], None],
    *,
    count: int,
) -> Figure:
    """Draw images of a set in rows: those that were chosen, then a sample.

    Args:
        dataset: where the images are.
        indices: place of each measured image in the data set.
        wrong: which measured images come first.
        write_title: writes the title of a measured image, by its number.
        count: images on the sheet, at most.
    """
    spread = np.linspace(0, len(indices) - 1, min(count - len(wrong), len(indices))).astype(int).tolist()
    chosen = [*wrong, *(i for i in spread if i not in set(wrong))]
    columns = min(6, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(2.1 * columns, 2.55 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, i in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.set_axis_off()
        try:
            image = dataset.read(int(indices[i]))
        except ImageError:  # readable when it was evaluated, gone since
            continue
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        axes.imshow(image)
        write_title(axes, i)
    return figure
