"""Parameters, FLOPs in both conventions, and the sizes of the feature maps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scalablevit.backbone import ScalableViT, typed


@dataclass(frozen=True)
class Complexity:
    """What a network costs.

    Attributes:
        parameters: their number.
        multiply_adds: of convolutions and linear layers, an image: what papers of this field print as FLOPs.
        flops: all floating-point operations of convolutions, linear layers and attention products, an image,
            with a multiply-add counted as two.
    """

    parameters: int
    multiply_adds: int
    flops: int


# Matrix products of attention reach the dispatcher as these; linear layers as addmm, mm or linear.
_ATTENTION_WORDS = ("attention", "bmm")


def count(model: nn.Module, *inputs: torch.Tensor) -> Complexity:
    """Count by running the model on torch's meta device: exact, without the time or memory of a real pass.

    Args:
        model: any network.
        inputs: its inputs, for one image; only shapes and dtypes matter.

    Returns:
        counts for that input.
    """
    model = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*(torch.empty_like(x, device="meta") for x in inputs))
    by_operator = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    attention = sum(n for op, n in by_operator.items() if any(word in op for word in _ATTENTION_WORDS))
    total = sum(by_operator.values())
    return Complexity(sum(p.numel() for p in model.parameters()), (total - attention) // 2, total)


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
