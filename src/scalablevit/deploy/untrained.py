"""Networks of random weights to export: for measuring speed, or to be filled later."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scalablevit.backbone import VARIANTS, ScalableViT, create_backbone

Untrained = tuple[nn.Module, dict[str, Any], list[str]]
"""Network in evaluation mode, metadata of its file, names of its outputs."""


def untrained_classifier(variant: str) -> Untrained:
    """Build the classifier of a variant, with the same random weights each time."""
    torch.manual_seed(0)
    network = ScalableViT(**VARIANTS[variant])
    return network.eval(), {"task": "classification", **_described(variant)}, ["logits"]


def untrained_pyramid(variant: str) -> Untrained:
    """Build the four feature maps of a variant, with the same random weights each time."""
    torch.manual_seed(0)
    network = create_backbone(variant)
    names = [f"stride_{stride}" for stride in network.strides]
    shape = {"strides": network.strides, "channels": network.channels}
    return network.eval(), {"task": "features", **_described(variant), **shape}, names


def _described(variant: str) -> dict[str, Any]:
    return {"architecture": variant, "weights": "random"}
