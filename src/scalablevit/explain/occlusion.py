"""Occlusion by Captum: how a score falls where the image is hidden; for any network, without gradients.

Source: Zeiler and Fergus, arXiv:1311.2901.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scalablevit.explain.cam import normalised
from scalablevit.explain.energy import heatmaps
from scalablevit.explain.explainable import frozen, in_float32
from scalablevit.explain.subject import MOST_TARGETS, Explanation, Subject, Target, chosen_targets

WINDOWS = 8
"""Windows side by side along the shorter side of an image, each overlapping the next by half."""


def occlusion_maps(subject: Subject, targets: Sequence[Target], *, windows: int = WINDOWS) -> list[Tensor]:
    """Hide windows of an image in turn, filled with the mean colour, and average what each pixel's windows cost.

    Args:
        subject: the image.
        targets: scores; all are read from the same passes.
        windows: how many fit side by side along the image's shorter side; at least 1. Passes grow with its square.

    Returns:
        for each target (H, W) at the image's size, in 0..1 with the maximum 1; falls of the score count, rises do not.

    Raises:
        ValueError: Captum is not installed, or `windows` is below 1.
    """
    if windows < 1:
        raise ValueError(f"windows must be at least 1, got {windows}")
    try:
        from captum.attr import Occlusion
    except ImportError:
        raise ValueError("--method occlusion needs Captum; install it: pip install 'scalablevit[explain]'") from None
    inputs, network = subject.inputs.float(), in_float32(subject.network)
    C, h, w = inputs.shape[1:]
    side, step = _window(h, w, windows)
    baseline = inputs.new_tensor(subject.mean)[None, :, None, None]

    def scores(images: Tensor) -> Tensor:
        output = subject.compute(network, images)
        return torch.stack([target.score(output) for target in targets], dim=1).float()  # (1, T)

    with frozen(network), torch.no_grad():
        falls: Tensor = Occlusion(scores).attribute(
            inputs,
            sliding_window_shapes=(C, side, side),
            strides=(C, step, step),
            baselines=baseline.expand_as(inputs),
        )  # (T, C, h, w): the same in every channel
    maps = normalised(falls.mean(dim=1).clamp(min=0).float())
    return list(subject.frame.to_image(maps))


def num_passes(height: int, width: int, windows: int) -> int:
    """Count the passes through the network that occlusion of an input takes: one for each window, and one without."""
    side, step = _window(height, width, windows)
    return math.prod(math.ceil((length - side) / step) + 1 for length in (height, width)) + 1


def _window(height: int, width: int, windows: int) -> tuple[int, int]:
    """Side of a window and step to the next one, in pixels."""
    side = max(1, math.ceil(min(height, width) / windows))
    return side, max(1, side // 2)


def explain(
    subject: Subject, *, class_name: str | None = None, most: int = MOST_TARGETS, windows: int = WINDOWS
) -> list[Explanation]:
    """Explain what the network finds in an image, or a class, by what hiding parts costs; the method `occlusion`.

    Raises:
        ValueError: `most` or `windows` is below 1, there is no such class, or Captum is not installed.
    """
    targets = chosen_targets(subject, class_name, most)
    if not targets:
        return []
    maps = [x.cpu().numpy() for x in occlusion_maps(subject, targets, windows=windows)]
    return [heatmaps("occlusion", subject, targets, maps, scale="fall of the score (maximum 1)")]
