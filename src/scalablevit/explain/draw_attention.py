"""Figures of attention maps: a row for each of the two attentions, a column for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from scalablevit.explain.draw import Panel, dimmed, drawn, mark, rendered, show_image, transparent_colours

_PANEL_INCHES = 2.1
_DPI = 140


def draw_rows(image: Image.Image, rows: Mapping[str, Sequence[Panel | None]]) -> Image.Image:
    """Draw an image, and rows of maps over it in gray.

    Args:
        image: RGB.
        rows: title -> panels with weights of keys; None: there is none at this place. Each panel has colours of its
            own, from 0 to its largest weight.

    Returns:
        RGB image.
    """
    colours = transparent_colours()
    columns = max(len(panels) for panels in rows.values())
    ratio = min(max(image.height / image.width, 1 / 3), 3)
    width = _PANEL_INCHES * min(1.0, 1 / ratio + 0.25)
    size = ((columns + 1) * width + 0.9, len(rows) * (width * ratio + 0.35) + 0.3)
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns + 1, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    show_image(axes[0, 0], image, "image")
    gray = dimmed(image)
    for line, (title, panels) in zip(axes, rows.items(), strict=True):
        for i, panel in enumerate(panels):
            if panel is None:
                continue
            ax = line[i + 1]
            ax.set_axis_on()
            show_image(ax, gray, panel.title)
            heat = drawn(panel.heat)
            extent = (0, image.width, image.height, 0)
            most = float(heat.max()) or 1.0
            ax.imshow(heat, cmap=colours, vmin=0, vmax=most, interpolation="nearest", extent=extent)
            mark(ax, point=panel.point)
            if i == 0:
                ax.set_ylabel(title, fontsize=10, fontweight="bold")
    point = next(panel.point for panels in rows.values() for panel in panels if panel is not None)
    axes[0, 0].set_axis_on()
    mark(axes[0, 0], point=point)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), colours), ax=axes, shrink=0.8, pad=0.01)
    bar.set_label("weight of a key, over the panel's largest")
    return rendered(figure)
