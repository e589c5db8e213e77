"""Tables and plots of studies."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from scalablevit.explain.bootstrap import Interval
from scalablevit.explain.draw import rendered
from scalablevit.explain.study import Measure, RunStudy, differences, measures
from scalablevit.printable import plot_text
from scalablevit.visualization.fonts import label_fonts
from scalablevit.visualization.palette import class_colours


def table(studies: Sequence[RunStudy]) -> list[tuple[str, ...]]:
    """Lay out the figures of studies: a heading, then a row for each figure with its 95 % interval.

    With two runs or more there is a column for the difference of each to the first, over the same images.
    """
    summaries = [study.summary() for study in studies]
    changes = [differences(studies[0], study) for study in studies[1:]]
    heading = ("figure", *(study.label for study in studies), *(f"{s.label} - first" for s in studies[1:]))
    rows: list[tuple[str, ...]] = [heading]
    for measure in _shown(studies):
        cells = [_cell(found.get(measure.key)) for found in summaries]
        cells += [_cell(found.get(measure.key), signed=True) for found in changes]
        rows.append((measure.title + {"higher": " ↑", "lower": " ↓"}.get(measure.better, ""), *cells))
    return rows


def draw_studies(studies: Sequence[RunStudy]) -> Image.Image:
    """Draw the figures of studies: a panel for each group, a point and its 95 % interval for each run."""
    groups: dict[str, list[Measure]] = {}
    for measure in _shown(studies):
        groups.setdefault(measure.group, []).append(measure)
    summaries = [study.summary() for study in studies]
    colours = [tuple(value / 255 for value in colour) for colour in class_colours(len(studies))]
    heights = [max(2, len(group)) for group in groups.values()]
    with label_fonts([study.label for study in studies]):
        figure = Figure(figsize=(13, 0.28 * sum(heights) + 1.1 * len(groups) + 0.6), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(len(groups), 2, height_ratios=heights, width_ratios=(1.35, 1))
        for i, (name, group) in enumerate(groups.items()):
            ax = figure.add_subplot(grid[i, 0])
            _draw_group(ax, name, group, summaries, colours)
            if i == 0:
                for study, colour in zip(studies, colours, strict=True):
                    ax.plot([], [], "o", color=colour, label=plot_text(study.label))
                ax.legend(loc="lower left", bbox_to_anchor=(0, 1.12), ncols=3, frameon=False, fontsize=9)
        _draw_curves(figure.add_subplot(grid[0 : max(1, len(groups) // 2), 1]), studies, colours)
        _draw_blocks(figure.add_subplot(grid[max(1, len(groups) // 2) :, 1]), studies, colours)
        return rendered(figure)


def _shown(studies: Sequence[RunStudy]) -> list[Measure]:
    """The figures that some run has."""
    there = {key for study in studies for key in study.summary()}
    return [m for m in measures(max(study.num_stages for study in studies)) if m.key in there]


def _cell(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return "-"
    sign = "+" if signed else ""
    return f"{interval.value:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def _draw_group(
    ax: Axes,
    name: str,
    group: Sequence[Measure],
    summaries: Sequence[dict[str, Interval]],
    colours: Sequence[tuple[float, ...]],
) -> None:
    for i, measure in enumerate(group):
        for j, (found, colour) in enumerate(zip(summaries, colours, strict=True)):
            if (interval := found.get(measure.key)) is None:
                continue
            y = i + (j - (len(summaries) - 1) / 2) * 0.6 / max(1, len(summaries))
            ax.plot([interval.low, interval.high], [y, y], color=colour, linewidth=1.8)
            ax.plot(interval.value, y, "o", color=colour, markersize=4.5)
    ax.set_yticks(range(len(group)), [measure.title for measure in group], fontsize=8)
    ax.set_ylim(len(group) - 0.5, -0.5)
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    ax.set_title(name, loc="left", fontsize=10, fontweight="bold")
    ax.grid(axis="x", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_curves(ax: Axes, studies: Sequence[RunStudy], colours: Sequence[tuple[float, ...]]) -> None:
    for study, colour in zip(studies, colours, strict=True):
        if (pair := study.mean_curves()) is None:
            continue
        for values, style in zip(pair, ("-", "--"), strict=True):
            ax.plot([i / (len(values) - 1) for i in range(len(values))], values, style, color=colour)
    ax.plot([], [], "-", color="black", label="deletion: hidden, the highest first (lower is better)")
    ax.plot([], [], "--", color="black", label="insertion: shown, the highest first (higher is better)")
    ax.set_xlabel("share of the pixels")
    ax.set_ylabel("score, over the image's")
    ax.set_title("faithfulness of Layer-CAM", loc="left", fontsize=10, fontweight="bold")
    _finish(ax)


def _draw_blocks(ax: Axes, studies: Sequence[RunStudy], colours: Sequence[tuple[float, ...]]) -> None:
    for study, colour in zip(studies, colours, strict=True):
        for i, (key, style) in enumerate((("entropy", "o-"), ("distance", "s--"))):
            points = [
                (n, interval["value"])
                for n, block in enumerate(study.to_dict()["attention_by_block"].values())
                if (interval := block[key]) is not None
            ]
            if points:
                ax.plot(*zip(*points, strict=True), style, color=colour, markersize=4)
            if study is studies[0]:
                words = ("entropy, over its maximum", "mean distance, over the diagonal")[i]
                ax.plot([], [], style, color="black", markersize=4, label=words)
    longest = max(studies, key=lambda study: len(study.blocks))
    names = [name.replace("stages.", "").replace(".blocks.", ".") for name in longest.blocks]
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set_xlabel("block of SSA (stage.block, from 0)")
    ax.set_ylim(bottom=0)
    ax.set_title("attention by block", loc="left", fontsize=10, fontweight="bold")
    _finish(ax)


def _finish(ax: Axes) -> None:
    ax.grid(axis="y", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
