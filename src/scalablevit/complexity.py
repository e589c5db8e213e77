"""What a network costs: parameters and FLOPs in both conventions."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scalablevit.backbone import PyramidBackbone, ScalableViT, typed


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
        model: any network whose computation does not depend on the values it computes (no NMS).
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


def stage_sizes(network: ScalableViT | PyramidBackbone, height: int, width: int) -> list[dict[str, int]]:
    """What `scalablevit info` prints of the stages, for images of `height` by `width` pixels.

    Returns:
        for each stage its map's channels, height and width in tokens, its stride in pixels, and its number of blocks.
    """
    infos = (
        [(info["num_chs"], info["reduction"]) for info in network.feature_info]
        if isinstance(network, ScalableViT)
        else list(zip(network.channels, network.strides, strict=True))
    )
    return [
        {
            "channels": channels,
            "height": -(-height // stride),
            "width": -(-width // stride),
            "stride": stride,
            "blocks": len(stage.blocks),
        }
        for (channels, stride), stage in zip(infos, typed(network.stages), strict=True)
    ]
