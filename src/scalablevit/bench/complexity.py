"""Parameters, FLOPs in both conventions, and the sizes of the feature maps."""

from __future__ import annotations

from typing import Any

import torch

from scalablevit.backbone import ScalableViT, typed
from scalablevit.complexity import Complexity, count

__all__ = ["Complexity", "count", "describe"]


def describe(model: ScalableViT, height: int, width: int) -> dict[str, Any]:
    """Everything `scalablevit info` prints, for images of `height` by `width` pixels.

    Returns:
        parameters, multiply_adds, flops, and for each stage its map's (C, H, W) and stride.
    """
    cost = count(model, torch.empty(1, model.in_chans, height, width))
    stages, size = [], (height, width)
    for info, stage in zip(model.feature_info, typed(model.stages), strict=True):
        stride = stage.patch_embed.proj.stride[0]
        size = (-(-size[0] // stride), -(-size[1] // stride))
        stages.append(
            {
                "channels": info["num_chs"],
                "height": size[0],
                "width": size[1],
                "stride": info["reduction"],
                "blocks": len(stage.blocks),
            }
        )
    return {
        "image": [height, width],
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "flops": cost.flops,
        "stages": stages,
    }
