"""The method `receptive-field`: figures and numbers of networks' effective receptive fields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from scalablevit.explain.explainable import explainable
from scalablevit.explain.receptive_field import SHARES, ReceptiveField, effective_receptive_field, timm_network
from scalablevit.explain.subject import Explanation, Subject

_COLOURS = ("#00e5ff", "#ffd166", "#ffffff")
_SMALLEST = 32


def explain(
    subjects: Iterable[Subject],
    *,
    size: int = 256,
    stage: int | None = None,
    timm: Sequence[str] = (),
    pretrained: bool = False,
) -> list[Explanation]:
    """Measure the effective receptive field over images, of the network and of networks of timm beside it.

    Args:
        subjects: the images; what the network sees of each is resized to a square.
        size: side of the square, in pixels; at least 32. The token in the middle of the last map lies in the middle of
            the image for multiples of 64.
        stage: whose map is measured, from 1; None: the last.
        timm: names of networks in timm; at their own last map.
        pretrained: take timm's pretrained weights, which it downloads; otherwise they are random.

    Raises:
        ValueError: `size` or `stage` is out of range, or timm has no such network.
    """
    if size < _SMALLEST:
        raise ValueError(f"size must be at least {_SMALLEST} pixels, got {size}")
    if stage is not None and stage < 1:
        raise ValueError(f"stage must be at least 1, got {stage}")
    index = -1 if stage is None else stage - 1
    ours, theirs = [], []
    network: nn.Module | None = None
    for subject in subjects:
        network = subject.network
        ours.append(squared_pixels(subject, size))
        if timm:
            theirs.append(_imagenet_pixels(subject.image, size))
    if network is None:
        return []
    num_stages = len(explainable(network).strides)
    if index >= num_stages:
        raise ValueError(f"stage must be 1..{num_stages}, got {stage}")
    others = {name: timm_network(name, size=size, pretrained=pretrained).to(ours[0].device) for name in timm}
    fields = {"this network": effective_receptive_field(network, ours, stage=index)}
    for name, other in others.items():
        label = name if pretrained else f"{name} (random weights)"
        fields[label] = effective_receptive_field(other, [x.to(ours[0].device) for x in theirs])
    numbers = {"networks": {name: field.numbers() for name, field in fields.items()}}
    words = []
    for name, field in fields.items():
        shown = ", ".join(f"{field.square(share).side_share:.0%} hold {share:.0%}" for share in SHARES)
        words.append((name, f"of the side {shown}"))
    return [Explanation("receptive-field", None, numbers, lambda: draw_fields(fields), words)]


def squared_pixels(subject: Subject, size: int) -> Tensor:
    """(1, C, size, size): what the network sees of the image, without padding, resized to a square."""
    height, width = subject.pixels_frame.seen
    seen = subject.pixels[..., :height, :width].float()
    return (
        F.interpolate(seen, (size, size), mode="bilinear", antialias=True) if seen.shape[2:] != (size, size) else seen
    )


def draw_fields(fields: dict[str, ReceptiveField]) -> Image.Image:
    """Draw fields side by side, on a logarithmic scale, with the squares that hold shares of the gradient."""
    from matplotlib.lines import Line2D  # matplotlib takes a while to import
    from matplotlib.patches import Rectangle

    from scalablevit.explain.draw import panel_grid, rendered
    from scalablevit.printable import plot_text

    height, width = next(iter(fields.values())).contribution.shape
    square = Image.new("L", (width, height))
    figure, axes = panel_grid(square, len(fields))
    for ax, (name, field) in zip(axes, fields.items(), strict=True):
        share = field.contribution.numpy() / float(field.contribution.max())
        shown = np.log10(np.maximum(share, 1e-4))
        image = ax.imshow(shown, cmap="inferno", vmin=-4, vmax=0, extent=(0, width, height, 0), interpolation="nearest")
        for colour, held in zip(_COLOURS, SHARES, strict=True):
            side = field.square(held).side
            corner = (field.centre[1] + 0.5 - side / 2, field.centre[0] + 0.5 - side / 2)
            ax.add_patch(Rectangle(corner, side, side, fill=False, ec=colour, lw=1.5))
        ax.set_title(plot_text(name), fontsize=9)
        ax.set_xlim(0, width)
        ax.set_ylim(height, 0)
        ax.set_xticks([])
        ax.set_yticks([])
        lines = [
            Line2D([], [], color=colour, label=f"{held:.0%}: {field.square(held).side} px")
            for colour, held in zip(_COLOURS, SHARES, strict=True)
        ]
        legend = ax.legend(handles=lines, loc="lower right", fontsize=7, framealpha=0.75, facecolor="black")
        for text in legend.get_texts():
            text.set_color("white")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.set_ticks(range(-4, 1), labels=["≤ 0.0001", "0.001", "0.01", "0.1", "1"])
    bar.set_label("gradient, over its maximum")
    return rendered(figure)


def _imagenet_pixels(image: Image.Image, size: int) -> Tensor:
    """(1, 3, size, size) normalised as most networks of timm are fed."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    resized = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return ((pixels - mean) / std)[None]
