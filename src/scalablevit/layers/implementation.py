"""Set and report the implementation of the attentions in a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from scalablevit.layers.iwsa import InteractiveWindowSelfAttention
from scalablevit.layers.ssa import ScalableSelfAttention
from scalablevit.ops.choice import Choice, Implementation, check_implementation


@dataclass(frozen=True)
class AttentionPath:
    """The implementation of some attentions of a network.

    Attributes:
        attention: "IWSA" or "SSA".
        blocks: their number.
        choice: the implementation that runs, and the reason.
    """

    attention: str
    blocks: int
    choice: Choice


def set_attention(model: nn.Module, implementation: Implementation) -> None:
    """Set the implementation of all attentions of a network, at any depth; weights do not change.

    Args:
        model: a classifier, pyramid, detector or segmentation model of ours, or anything that holds one.
        implementation: "triton" (our kernels, where they can serve), "torch" (PyTorch's fused attention), "reference"
            (the definition), or "auto": the kernels in bfloat16 and float16 on CUDA devices, where they can serve, else
            "torch".

    Raises:
        ValueError: an unknown implementation, or the model has no attention of ours.
    """
    check_implementation(implementation)
    attentions = _attentions(model)
    if not attentions:
        raise ValueError(f"{type(model).__name__} has neither IWSA nor SSA, so there is no implementation to set")
    for attention in attentions:
        attention.implementation = implementation


def attention_paths(model: nn.Module, *, device: torch.device, dtype: torch.dtype) -> list[AttentionPath]:
    """Report which implementations a network would use in inference, in the order in which they first occur.

    Args:
        model: as for `set_attention`.
        device, dtype: of the feature maps.
    """
    found: dict[tuple[str, Choice], int] = {}
    for attention in _attentions(model):
        name = "IWSA" if isinstance(attention, InteractiveWindowSelfAttention) else "SSA"
        choice = attention.choice(device, dtype)
        found[name, choice] = found.get((name, choice), 0) + 1
    return [AttentionPath(name, blocks, choice) for (name, choice), blocks in found.items()]


def _attentions(model: nn.Module) -> list[InteractiveWindowSelfAttention | ScalableSelfAttention]:
    return [m for m in model.modules() if isinstance(m, InteractiveWindowSelfAttention | ScalableSelfAttention)]
