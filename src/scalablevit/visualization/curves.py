"""A run's metrics as an image: losses, validation metrics and learning rate over the epochs."""

import math
import os

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scalablevit.printable import plot_text
from scalablevit.safe_write import write_atomically
from scalablevit.visualization.metrics_file import read_metrics

# Okabe and Ito's palette, which colour-blind readers tell apart
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_PANEL_INCHES = (5.2, 3.6)
_RATIO_WORDS = (
    "knn",
    "top1",
    "top5",
    "top-1",
    "top-5",
    "acc",
    "accuracy",
    "mean",
    "miou",
    "iou",
    "map",
    "ap",
    "ap50",
    "ap75",
    "box",
    "mask",
    "f1",
    "macro",
    "micro",
)


def plot_curves(metrics_csv: str | os.PathLike[str], out_png: str | os.PathLike[str]) -> None:
    """Draw the losses, the other validation metrics and the learning rate of `metrics_csv` into `out_png`.

    Columns: `train/*loss*` and `val/*loss*` share a panel; every other `val/*` (or `train/*`) column is drawn
        with
    its like; `lr` has a panel of its own. The best value of a metric that shall be high is marked. Panels
    without data are left out.

    Args:
        metrics_csv: one row an epoch, as `CSVMetrics` writes it.
        out_png: where the image goes.

    Raises:
        ValueError: the file holds no row, or is not a metrics.csv.
    """
    rows = read_metrics(metrics_csv)
    if not rows:
        raise ValueError(f"{os.fspath(metrics_csv)} holds no epoch yet: train first")
    columns = sorted({key for row in rows for key in row} - {"epoch", "step", "lr"})
    losses = [name for name in columns if "loss" in name]
    metrics = [name for name in columns if "loss" not in name and "/" in name]
    ratios = [name for name in metrics if name.split("/", 1)[1].lower().split("_")[0] in _RATIO_WORDS]
    others = [name for name in metrics if name not in ratios]
    panels = [("Loss", losses), ("Accuracy", ratios), ("Metrics", others)]
    if any("lr" in row for row in rows):
        panels.append(("Learning rate", ["lr"]))
    panels = [(title, names) for title, names in panels if names]
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * max(1, len(panels)), height), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (title, names) in enumerate(panels):
        _draw(figure.add_subplot(1, len(panels), i + 1), title, names, rows)
    write_atomically(out_png, lambda file: figure.savefig(file, dpi=130, format="png"))


def _draw(axes: Axes, title: str, names: list[str], rows: list[dict[str, float]]) -> None:
    """One panel: each column a line, ends named in the legend with their last or best value."""
    for i, name in enumerate(names):
        points = [(row["epoch"] + 1, row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
        if not points:
            continue
        x, y = [list(values) for values in zip(*points, strict=True)]
        colour = _COLOURS[i % len(_COLOURS)]
        label = name
        if title == "Accuracy":
            best = max(range(len(y)), key=y.__getitem__)
            axes.plot(x[best], y[best], "o", color=colour, markersize=5)
            label = f"{name}, best {y[best]:.4g}"
        elif title == "Loss":
            label = f"{name}, last {y[-1]:.4g}"
        style = "--" if name.startswith("train/") else "-"
        axes.plot(x, y, style, color=colour, linewidth=1.8, label=plot_text(label), marker="." if len(x) < 3 else "")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if title == "Learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axes.set_ylim(bottom=0)
    elif axes.lines:
        axes.legend(frameon=False, fontsize=9)
