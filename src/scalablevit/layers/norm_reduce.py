"""Calling a LayerNorm with what reads its output in SSA, queries and reduction, as kernels where they can serve."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalablevit.layers.convolution import is_square
from scalablevit.layers.norm_linear import are_fusible
from scalablevit.ops import norm_depthwise, norm_linear
from scalablevit.ops.choice import Implementation
from scalablevit.ops.layer_choice import dtype_of_products, may_run


def normalise_project_and_reduce(
    norm: nn.Module | None, linear: nn.Module, conv: nn.Module, x: Tensor, *, implementation: Implementation = "auto"
) -> tuple[Tensor, Tensor] | None:
    """Compute `linear(norm(x))` and `conv(norm(x))` without a normalised map in memory: each reads x for itself.

    Args:
        norm: an nn.LayerNorm, or what stands in its place; None where x is normalised.
        linear: an nn.Linear, or what stands in its place.
        conv: a depthwise convolution that cuts the map into patches, or what stands in its place.
        x: map with a device, (B, H, W, C).
        implementation: see `scalablevit.ops.norm_depthwise`. Where gradients are enabled the layers compute, whatever
            it is.

    Returns:
        (B, H, W, outputs) and (B, H // side, W // side, C), at least one token a side; None where the kernels do not
        run, and nothing was computed.
    """
    if norm is None or not may_run(x.device) or not can_reduce(norm, linear, conv):
        return None
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(linear, nn.Linear)
    assert isinstance(conv, nn.Conv2d)
    dtype = dtype_of_products(x)
    choice = norm_depthwise.select_implementation(
        dim=linear.in_features,
        outputs=linear.out_features,
        side=conv.kernel_size[0],
        device=x.device,
        dtype=dtype,
        x=x,
        implementation=implementation,
    )
    if choice.implementation != "triton" or torch.is_grad_enabled():
        return None
    bias, conv_bias = (None if part is None else part.to(dtype) for part in (linear.bias, conv.bias))
    projected = norm_linear.by_kernel(x, norm.weight, norm.bias, linear.weight.to(dtype), bias, eps=norm.eps)
    reduced = norm_depthwise.by_kernel(x, norm.weight, norm.bias, conv.weight.to(dtype), conv_bias, eps=norm.eps)
    return projected, reduced


def can_reduce(norm: nn.Module, linear: nn.Module, conv: nn.Module) -> bool:
    """Tell whether they do no more than the kernels: nobody watches or replaced one, and the patches are whole."""
    if not isinstance(linear, nn.Linear) or not are_fusible(norm, linear):
        return False
    if not isinstance(conv, nn.Conv2d) or not is_square(conv) or conv.padding != (0, 0):
        return False
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels == linear.in_features
    return is_depthwise and conv.kernel_size == conv.stride
