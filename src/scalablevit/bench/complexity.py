"""Parameters, FLOPs in both conventions, and the sizes of the feature maps."""

from __future__ import annotations

from typing import Any

import torch

from scalablevit.backbone import ScalableViT
from scalablevit.complexity import Complexity, count, stage_sizes

__all__ = ["Complexity", "count", "describe"]


def describe(model: ScalableViT, height: int, width: int) -> dict[str, Any]:
    """Everything `scalablevit info` prints, for images of `height` by `width` pixels.

    Returns:
        parameters, multiply_adds, flops, and for each stage its map's (C, H, W) and stride.
    """
    cost = count(model, torch.empty(1, model.in_chans, height, width))
    return {
        "image": [height, width],
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "flops": cost.flops,
        "stages": stage_sizes(model, height, width),
    }
