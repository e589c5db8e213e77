"""Calling a LayerNorm and the linear layer behind it, as one kernel where it can serve."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalablevit.layers.plain import is_plain
from scalablevit.ops import norm_linear
from scalablevit.ops.choice import Implementation
from scalablevit.ops.layer_choice import dtype_of_products, may_run


def normalise_and_project(
    norm: nn.Module | None, linear: nn.Linear, x: Tensor, *, implementation: Implementation = "auto"
) -> Tensor:
    """Compute `linear(norm(x))`: (B, ..., C) -> (B, ..., outputs).

    Args:
        norm: an nn.LayerNorm, or what stands in its place; None where x is normalised.
        linear: called as a module unless the kernel runs.
        x: a map with a device.
        implementation: see `scalablevit.ops.norm_linear.norm_linear`; "auto" keeps to the layers where gradients are
            enabled: the kernel's backward normalises again, which reads more than the forward saves.
    """
    if norm is not None and may_run(x.device) and are_fusible(norm, linear):
        assert isinstance(norm, nn.LayerNorm)
        dtype = dtype_of_products(x)
        choice = norm_linear.select_implementation(
            dim=linear.in_features,
            outputs=linear.out_features,
            device=x.device,
            dtype=dtype,
            x=x,
            implementation=implementation,
        )
        if choice.implementation == "triton" and (implementation == "triton" or not torch.is_grad_enabled()):
            return norm_linear.norm_linear(
                x,
                norm.weight,
                norm.bias,
                linear.weight.to(dtype),
                None if linear.bias is None else linear.bias.to(dtype),
                eps=norm.eps,
                implementation=implementation,
            )
    out: Tensor = linear(x if norm is None else norm(x))
    return out


def are_fusible(norm: nn.Module, linear: nn.Module) -> bool:
    """Tell whether they do no more than the kernel: nobody watches or replaced either."""
    if not isinstance(norm, nn.LayerNorm) or not is_plain(norm, nn.LayerNorm) or not isinstance(linear, nn.Linear):
        return False
    return (
        is_plain(linear, nn.Linear)
        and norm.weight is not None
        and norm.bias is not None
        and norm.normalized_shape == (linear.in_features,)
    )
