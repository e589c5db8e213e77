"""Describe what a classification network costs."""

from __future__ import annotations

from typing import Any

import torch

from scalablevit.backbone import ScalableViT
from scalablevit.complexity import Complexity, count, stage_sizes
from scalablevit.device import choose_device
from scalablevit.layers import attention_paths

__all__ = ["Complexity", "count", "describe"]


def describe(model: ScalableViT, height: int, width: int) -> dict[str, Any]:
    """Collect what `scalablevit info` prints for images of `height` by `width` pixels.

    Returns:
        parameters, multiply_adds, flops; feature map (C, H, W) and stride of each stage; and the implementations of
        attention that run on this machine, in bfloat16 on a GPU and else in float32.
    """
    cost = count(model, torch.empty(1, model.in_chans, height, width))
    device = choose_device(None)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        "image": [height, width],
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "flops": cost.flops,
        "stages": stage_sizes(model, height, width),
        "attention": [
            {"attention": path.attention, "blocks": path.blocks, **vars(path.choice)}
            for path in attention_paths(model, device=device, dtype=dtype)
        ],
    }
