"""Tables and plots of studies."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from scalablevit.explain.bootstrap import Interval
from scalablevit.explain.draw import rendered
from scalablevit.explain.study import Measure, RunStudy, differences, measures
from scalablevit.printable import plot_text
from scalablevit.visualization.fonts import label_fonts
from scalablevit.visualization.palette import class_colours

_HOLLOW = "hollow: by chance, of even weights, or with LIM switched off"
_RATIO = "energy_over_chance"
_RIVALS = {
    "energy_inside": "energy_by_chance",
    "energy_inside_box": "box_by_chance",
    "deletion": "deletion_by_chance",
    "insertion": "insertion_by_chance",
}
_SHARES = ("object sensitivity", "faithfulness")
"""Groups whose figures lie in 0..1, and are drawn so."""


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


def rival_of(key: str) -> str | None:
    """The figure that a figure is measured against: by chance, with even weights, or without LIM."""
    if key in _RIVALS:
        return _RIVALS[key]
    if match := re.fullmatch(r"(attention|stage_end)_(\d+)", key):
        return f"{match[1]}_without_lim_{match[2]}"
    return f"even_{key}" if key.startswith("distance_") else None


def draw_studies(studies: Sequence[RunStudy]) -> Image.Image:
    """Draw the figures of studies: a panel for each group, a point and its 95 % interval for each run.

    What a figure is measured against is a hollow point in the same line.
    """
    shown = _shown(studies)
    rivals = {rival_of(measure.key) for measure in shown}
    groups: dict[str, list[Measure]] = {}
    for measure in shown:
        if measure.key not in rivals and measure.key != _RATIO:
            groups.setdefault(measure.group, []).append(measure)
    summaries = [study.summary() for study in studies]
    colours = [(red / 255, green / 255, blue / 255) for red, green, blue in class_colours(len(studies))]
    heights = [max(2, len(group)) for group in groups.values()]
    middle = 1 if len(groups) < 3 else 2
    with label_fonts([study.label for study in studies]):
        figure = Figure(figsize=(12, 0.26 * sum(heights) + 0.75 * len(groups) + 0.9), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(len(groups), 2, height_ratios=[height + 1.5 for height in heights])
        for i, (name, group) in enumerate(groups.items()):
            ax = figure.add_subplot(grid[i, 0])
            _draw_group(ax, name, group, summaries, colours)
        marks = [
            Line2D([], [], linestyle="", marker="o", color=colour, label=plot_text(study.label))
            for study, colour in zip(studies, colours, strict=True)
        ]
        marks.append(Line2D([], [], linestyle="", marker="o", color="black", mfc="white", label=_HOLLOW))
        figure.legend(handles=marks, loc="outside upper left", ncols=len(marks), frameon=False, fontsize=9)
        _draw_curves(figure.add_subplot(grid[:middle, 1]), studies, colours)
        _draw_blocks(figure.add_subplot(grid[middle:, 1]), studies, colours)
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
    colours: Sequence[tuple[float, float, float]],
) -> None:
    for i, measure in enumerate(group):
        for j, (found, colour) in enumerate(zip(summaries, colours, strict=True)):
            y = i + (j - (len(summaries) - 1) / 2) * 0.6 / max(1, len(summaries))
            for key, fill in ((rival_of(measure.key), "white"), (measure.key, colour)):
                if key is not None and (interval := found.get(key)) is not None:
                    ax.plot([interval.low, interval.high], [y, y], color=colour, linewidth=1.8)
                    ax.plot(interval.value, y, "o", color=colour, mfc=fill, markersize=5 if fill == colour else 7)
            if measure.key == "energy_inside" and (ratio := found.get(_RATIO)) is not None:
                beside = (found[measure.key].high, y)
                words = f"{ratio.value:.1f} times chance"
                ax.annotate(words, beside, (6, 0), textcoords="offset points", va="center", fontsize=8, color=colour)
    ax.set_yticks(range(len(group)), [measure.title for measure in group], fontsize=8)
    ax.set_ylim(len(group) - 0.5, -0.5)
    ax.set_xlim(min(0.0, ax.get_xlim()[0]), max(ax.get_xlim()[1], 1.0 if group[0].group in _SHARES else 0.0))
    ax.set_title(name, loc="left", fontsize=10, fontweight="bold")
    ax.grid(axis="x", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_curves(ax: Axes, studies: Sequence[RunStudy], colours: Sequence[tuple[float, float, float]]) -> None:
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


def _draw_blocks(ax: Axes, studies: Sequence[RunStudy], colours: Sequence[tuple[float, float, float]]) -> None:
    names = sorted({name for study in studies for name in study.blocks}, key=_block_number)
    for study, colour in zip(studies, colours, strict=True):
        for i, (key, style) in enumerate((("entropy", "o-"), ("distance", "s--"))):
            points = [
                (names.index(name), interval["value"])
                for name, block in study.to_dict()["attention_by_block"].items()
                if (interval := block[key]) is not None
            ]
            if points:
                ax.plot(*zip(*points, strict=True), style, color=colour, markersize=4)
            if study is studies[0]:
                words = ("entropy, over its maximum", "mean distance, over the diagonal")[i]
                ax.plot([], [], style, color="black", markersize=4, label=words)
    labels = [".".join(map(str, _block_number(name))) for name in names]
    ax.set_xticks(range(len(names)), labels, fontsize=8)
    ax.set_xlabel("block of SSA (stage.block, from 0)")
    ax.set_ylim(bottom=0)
    ax.set_title("attention by block", loc="left", fontsize=10, fontweight="bold")
    _finish(ax)


def _block_number(name: str) -> tuple[int, ...]:
    """Stage and block of a name such as "stages.2.blocks.1"."""
    return tuple(int(part) for part in name.split(".") if part.isdigit())


def _finish(ax: Axes) -> None:
    ax.grid(axis="y", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=1)
