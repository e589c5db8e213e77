"""The plots of a comparison: the metric over the epochs, and over what a network costs."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scalablevit.printable import plot_text

# Okabe and Ito's palette, which colour-blind readers tell apart; after its last colour the line's style changes
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")
_LONGEST_LABEL = 60


@dataclass(frozen=True)
class Line:
    """A combination, as it is drawn.

    Attributes:
        label: of it.
        curves: one per seed: epoch -> metric.
        multiply_adds: of its network, an image; None: unknown.
        values: the metric of each seed's best epoch.
    """

    label: str
    curves: Sequence[Mapping[int, float]]
    multiply_adds: int | None
    values: Sequence[float]


def plot_comparison_curves(lines: Sequence[Line], metric: str, out_png: str | os.PathLike[str]) -> None:
    """Draw the metric over the epochs: for each combination the mean over seeds, in a band from the lowest to the
    highest seed.

    Args:
        lines: of the combinations; those without a curve are left out.
        metric: name of the axis.
        out_png: where the image goes.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for line, (colour, style, marker) in zip(lines, _looks(), strict=False):
        # of seeds that have fewer epochs than others, the mean ends with the first
        epochs = sorted(set.intersection(*(set(curve) for curve in line.curves))) if line.curves else []
        if not epochs:
            continue
        values = np.array([[curve[epoch] for epoch in epochs] for curve in line.curves])
        shown = marker if len(epochs) < 3 else ""
        axes.plot(
            epochs, values.mean(axis=0), style, color=colour, marker=shown, linewidth=1.8, label=_label(line.label)
        )
        if len(values) > 1:
            axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, metric, len(lines))
    figure.savefig(out_png, dpi=130, format="png")


def plot_comparison_costs(lines: Sequence[Line], metric: str, out_png: str | os.PathLike[str]) -> None:
    """Draw the metric over multiply-adds: for each combination the mean over seeds, and each seed as a faint point.

    Args:
        lines: of the combinations; those without a value or a cost are left out.
        metric: name of the axis.
        out_png: where the image goes.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    largest = max((line.multiply_adds or 0 for line in lines), default=0)
    unit, word = (1e9, "billions") if largest >= 1e9 else (1e6, "millions")
    for line, (colour, _, marker) in zip(lines, _looks(), strict=False):
        if line.multiply_adds is None or not line.values:
            continue
        cost = line.multiply_adds / unit
        axes.plot([cost] * len(line.values), line.values, ".", color=colour, alpha=0.35, markersize=5)
        axes.plot([cost], [np.mean(line.values)], marker, color=colour, markersize=8, label=_label(line.label))
    axes.set_xlabel(f"multiply-adds, {word} an image")
    _finish(figure, metric, len(lines))
    figure.savefig(out_png, dpi=130, format="png")


def _looks() -> Iterator[tuple[str, str, str]]:
    """Colour, line style and marker of the lines."""
    styles = zip(_STYLES, _MARKERS, strict=True)
    return itertools.cycle([(colour, style, marker) for style, marker in styles for colour in _COLOURS])


def _label(text: str) -> str:
    short = text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
    return plot_text(short)


def _finish(figure: Figure, metric: str, count: int) -> None:
    axes = figure.axes[0]
    axes.set_ylabel(plot_text(metric))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if count > 4 else {}
        axes.legend(frameon=False, fontsize=8, **beside)
