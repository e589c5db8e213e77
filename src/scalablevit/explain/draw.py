"""Figures of maps: laid over an image, with a legend, a scale, and what they explain."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from scalablevit.printable import plot_text, short_name
from scalablevit.visualization.fonts import label_fonts

_PANEL_INCHES = 2.7
_DPI = 140
_MOST_COLUMNS = 5
_LONGEST_TITLE = 36
_MOST_DRAWN = 1024  # pixels along a side of a panel, which has about 400
_DIMMED = 0.6  # of the gray image: the bright colours of high values show on white, too
_OPACITY = 0.85  # of the highest values; the lowest leave the image as it is


@dataclass(frozen=True)
class Panel:
    """A map over an image.

    Args:
        title: what it shows.
        heat: (H, W) in 0..1; of other sizes, it is stretched over the image.
        box_xyxy: of the object that is explained, drawn as a frame; None: none.
        point: (x, y) in pixels of the image that is marked; None: none.
    """

    title: str
    heat: NDArray[Any]
    box_xyxy: tuple[float, float, float, float] | None = None
    point: tuple[float, float] | None = None


def draw_heatmaps(
    image: Image.Image, panels: Sequence[Panel], *, scale: str, limits: tuple[float, float] = (0, 1)
) -> Image.Image:
    """Draw an image, and maps over it in gray, with a scale of colours.

    Args:
        image: RGB.
        panels: maps.
        scale: what the colours stand for.
        limits: values of the lowest and the highest colour.

    Returns:
        RGB image.
    """
    colours = transparent_colours()
    with label_fonts([panel.title for panel in panels]):
        figure, axes = panel_grid(image, len(panels) + 1)
        show_image(axes[0], image, "image")
        gray = dimmed(image)
        for ax, panel in zip(axes[1:], panels, strict=True):
            show_image(ax, gray, panel.title)
            ax.imshow(
                drawn(panel.heat),
                cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="bilinear",
                extent=(0, image.width, image.height, 0),
            )  # fmt: skip
            mark(ax, box_xyxy=panel.box_xyxy, point=panel.point)
        bar = figure.colorbar(ScalarMappable(Normalize(*limits), colours), ax=axes, shrink=0.8, pad=0.02)
        bar.set_label(plot_text(scale))
        return rendered(figure)


def draw_colours(image: Image.Image, panels: Sequence[tuple[str, NDArray[Any]]]) -> Image.Image:
    """Draw an image and, beside it, maps whose colours are features.

    Args:
        image: RGB.
        panels: title, and (H, W, 3) in 0..1 of the image's size.

    Returns:
        RGB image.
    """
    figure, axes = panel_grid(image, len(panels) + 1)
    show_image(axes[0], image, "image")
    for ax, (title, colours) in zip(axes[1:], panels, strict=True):
        show_image(ax, Image.fromarray((255 * colours).round().astype(np.uint8)), title)
    figure.supxlabel(
        "like colours: like features within a stage (first three principal components; % of variance)", fontsize=8
    )
    return rendered(figure)


def panel_grid(image: Image.Image, count: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with `count` panels of the image's proportions."""
    rows = math.ceil(count / _MOST_COLUMNS)
    columns = math.ceil(count / rows)
    ratio = min(max(image.height / image.width, 1 / 3), 3)
    width = _PANEL_INCHES * min(1.0, 1 / ratio + 0.25)
    figure = Figure(figsize=(columns * width + 0.9, rows * (width * ratio + 0.35)), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def show_image(ax: Axes, image: Image.Image, title: str) -> None:
    """Show an image in its own pixels: positions count from its upper left corner."""
    smooth = "antialiased" if max(image.size) > 128 else "nearest"
    extent = (0, image.width, image.height, 0)
    if max(image.size) > _MOST_DRAWN:  # the figure has no room for more, and matplotlib computes with every pixel
        image = image.copy()
        image.thumbnail((_MOST_DRAWN, _MOST_DRAWN), Image.Resampling.BOX)
    ax.imshow(np.asarray(image), extent=extent, interpolation=smooth)
    ax.set_title(plot_text(short_name(title, _LONGEST_TITLE)), fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def drawn(heat: NDArray[Any]) -> NDArray[Any]:
    """A map, of a large image its values at every few pixels: it is smooth."""
    step = max(1, max(heat.shape) // _MOST_DRAWN)
    return np.asarray(heat[step // 2 :: step, step // 2 :: step], dtype=np.float32)


def mark(
    ax: Axes,
    *,
    box_xyxy: tuple[float, float, float, float] | None = None,
    point: tuple[float, float] | None = None,
) -> None:
    """Draw a frame, or a cross at a point, that shows on light and on dark."""
    if box_xyxy is not None:
        left, top, right, bottom = box_xyxy
        for colour, width in (("black", 2.4), ("white", 1.2)):
            ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, lw=width))
    if point is not None:
        for colour, width in (("black", 3.2), ("#00e5ff", 1.6)):
            ax.plot(*point, marker="+", color=colour, markersize=12, markeredgewidth=width)


def rendered(figure: Figure) -> Image.Image:
    """The figure as an RGB image."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def dimmed(image: Image.Image) -> Image.Image:
    """The image in gray and darker, to lie under a map."""
    return image.convert("L").point(lambda value: round(_DIMMED * value)).convert("RGB")


def transparent_colours() -> ListedColormap:
    """Inferno, from transparent to nearly opaque."""
    colours = colormaps["inferno"](np.linspace(0.15, 1, 256))
    colours[:, 3] = _OPACITY * np.linspace(0, 1, 256) ** 0.6
    return ListedColormap(colours, name="heat")
