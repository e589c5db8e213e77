"""Prepare the network of a predictor where that pays."""

from __future__ import annotations

import torch
from torch import nn

from scalablevit.deploy.optimize import optimize
from scalablevit.layers import InteractiveWindowSelfAttention, ScalableSelfAttention

PAYS_FROM = 8
"""Images from which on preparing, which copies and packs the weights, takes less time than it saves."""


def prepare_for_prediction(network: nn.Module) -> nn.Module:
    """Prepare a network of ours on a CPU: layers are folded and packed, nothing is compiled.

    Outputs are those of the network but for rounding in float32; the prepared copy takes any size of images.

    Returns:
        the prepared copy; the network itself where it is of others, exported, on another device, or not in float32.
    """
    ours = (InteractiveWindowSelfAttention, ScalableSelfAttention)
    if not any(isinstance(module, ours) for module in network.modules()):
        return network
    if any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in network.parameters()):
        return network
    return optimize(network, backend="eager", dtype=torch.float32)
