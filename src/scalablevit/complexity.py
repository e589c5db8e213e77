"""Count what a network costs: parameters, FLOPs in both conventions, and the sizes of its feature maps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scalablevit.backbone import PyramidBackbone, ScalableViT, typed
from scalablevit.timm_pyramid import TimmPyramid


@dataclass(frozen=True)
class Complexity:
    """Cost of a network.

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

    Raises:
        ValueError: the model fails on inputs of these shapes.
    """
    model = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        try:
            model(*(torch.empty_like(x, device="meta") for x in inputs))
        except (RuntimeError, AssertionError) as error:  # of a network of timm whose layers fit other sizes
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{type(model).__name__} cannot take inputs {shapes} ({reason}); try another size"
            ) from error
    by_operator = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    attention = sum(n for op, n in by_operator.items() if any(word in op for word in _ATTENTION_WORDS))
    total = sum(by_operator.values())
    return Complexity(sum(p.numel() for p in model.parameters()), (total - attention) // 2, total)


@dataclass(frozen=True)
class Parts:
    """A model taken apart for counting.

    Args:
        network: the whole model, whose parameters are counted.
        backbone: in it, whose stages are described.
        passes: networks that one image goes through, each with its input.
        notes: what is printed beside the cost, as JSON takes it.
    """

    network: nn.Module
    backbone: nn.Module
    passes: Sequence[tuple[nn.Module, torch.Tensor]]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def cost(self) -> Complexity:
        """Count the parameters of the network and the operations of all passes."""
        counts = [count(network, x) for network, x in self.passes]
        return Complexity(
            sum(p.numel() for p in self.network.parameters()),
            sum(part.multiply_adds for part in counts),
            sum(part.flops for part in counts),
        )


def describe(parts: Parts, height: int, width: int) -> dict[str, Any]:
    """Everything that `scalablevit info` prints of a model, for images of `height` by `width` pixels.

    Returns:
        image (height, width), parameters, multiply_adds, flops, stages as of `stage_sizes`, and the parts' notes.
    """
    cost = parts.cost()
    return {
        "image": [height, width],
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "flops": cost.flops,
        "stages": stage_sizes(parts.backbone, height, width),
        **parts.notes,
    }


def stage_sizes(network: nn.Module, height: int, width: int) -> list[dict[str, int]]:
    """Describe the stages of a network, for images of `height` by `width` pixels.

    Args:
        network: `ScalableViT`, `PyramidBackbone`, `TimmPyramid` or a classifier of timm.
        height, width: in pixels.

    Returns:
        for each stage its map's channels, height and width in tokens, its stride in pixels and, of ours, its number of
        blocks.
    """
    if isinstance(network, PyramidBackbone | TimmPyramid):
        infos = list(zip(network.channels, network.strides, strict=True))
    else:
        told: Sequence[Mapping[str, Any]] = list(getattr(network, "feature_info", ()))
        infos = [(info["num_chs"], info["reduction"]) for info in told]
    sizes = [
        {"channels": channels, "height": -(-height // stride), "width": -(-width // stride), "stride": stride}
        for channels, stride in infos
    ]
    if isinstance(network, ScalableViT | PyramidBackbone):
        for size, stage in zip(sizes, typed(network.stages), strict=True):
            size["blocks"] = len(stage.blocks)
    return sizes
