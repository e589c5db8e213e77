"""What the backward of the feed-forward half gives, and the definition of it in PyTorch's operators."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.feed_forward.weights import Weights


class Gradients(NamedTuple):
    """Gradients, and the maps that products with them turn into gradients of weights.

    What is not wanted or does not exist is nothing, (0,).

    Attributes:
        dx: gradient of the residual stream, as large as it.
        d_projected: gradient of what was added to the stream, (B, ..., C): the branch, or its projection. Nothing where
            there is no branch, and where it is `dx` itself.
        d_attended: gradient of the branch before its projection, (B, ..., width); nothing without projection.
        normalised: output of the LayerNorm, (tokens, C).
        hidden: fc1's outputs behind the GELU, times the image's `scale`, (tokens, hidden).
        d_inner: gradient of fc1's outputs before the GELU, (tokens, hidden).
        sums: gradients of bias_1, norm_weight, norm_bias, bias_2 and proj_bias side by side, (hidden + 4 C,), fp32.
    """

    dx: Tensor
    d_projected: Tensor
    d_attended: Tensor
    normalised: Tensor
    hidden: Tensor
    d_inner: Tensor
    sums: Tensor


def empty(
    x: Tensor, branch: Tensor | None, weights: Weights, *, branch_scale: Tensor | None, with_weights: bool
) -> Gradients:
    """Allocate what `backward` gives; arguments as there."""
    C, (hidden_dim, dtype) = x.shape[-1], (weights.weight_1.shape[0], weights.weight_1.dtype)
    is_projected = weights.proj_weight is not None
    has_own = branch is not None and (branch_scale is not None or branch.dtype != x.dtype)
    tokens = x.numel() // C
    return Gradients(
        x.new_empty(x.shape),
        x.new_empty(x.shape if has_own else (0,), dtype=x.dtype if branch is None else branch.dtype),
        x.new_empty(0) if branch is None else branch.new_empty(branch.shape if is_projected else (0,)),
        x.new_empty((tokens, C) if with_weights else (0,), dtype=dtype),
        x.new_empty((tokens, hidden_dim) if with_weights else (0,), dtype=dtype),
        x.new_empty((tokens, hidden_dim) if with_weights else (0,), dtype=dtype),
        x.new_empty((hidden_dim + 4 * C,) if with_weights else (0,), dtype=torch.float32),
    )


def backward(
    grad: Tensor,
    x: Tensor,
    branch: Tensor | None,
    weights: Weights,
    *,
    eps: float,
    branch_scale: Tensor | None = None,
    scale: Tensor | None = None,
    with_weights: bool = True,
) -> Gradients:
    """Compute the gradients by PyTorch's operators, with the hidden channels once more.

    Args:
        grad: of the output, (B, ..., C).
        x, branch, weights, eps, branch_scale, scale: of the forward, as in `reference.feed_forward`.
        with_weights: gradients of weights are wanted.

    Returns:
        contiguous maps in the dtypes of their inputs; `normalised`, `hidden` and `d_inner` in that of `weight_1`.
    """
    norm_weight, norm_bias, weight_1, bias_1, weight_2, _, proj_weight, proj_bias = weights
    dtype, C = weight_1.dtype, x.shape[-1]
    found = empty(x, branch, weights, branch_scale=branch_scale, with_weights=with_weights)
    y = x
    if branch is not None:
        projected = branch
        if proj_weight is not None:
            projected = F.linear(branch, proj_weight, None if proj_bias is None else proj_bias.to(dtype))
        y = x + scaled(projected, branch_scale)
    norm_weight, norm_bias = norm_weight.to(y.dtype), norm_bias.to(y.dtype)
    normalised, mean, rstd = torch.native_layer_norm(y, [C], norm_weight, norm_bias, eps)
    normalised = normalised.to(dtype).reshape(-1, C)
    inner = F.linear(normalised, weight_1, bias_1.to(dtype))  # (tokens, hidden)
    d_out = scaled(grad, scale).to(dtype).reshape(-1, C)
    d_inner = torch.ops.aten.gelu_backward(d_out @ weight_2, inner)
    dy, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
        (d_inner @ weight_1).view(y.shape).to(y.dtype), y, [C], mean, rstd, norm_weight, norm_bias, [True] * 3
    )
    dx = grad + dy
    found.dx.copy_(dx)
    given = dx if branch is None else scaled(dx, branch_scale).to(branch.dtype)
    if found.d_projected.numel():
        found.d_projected.copy_(given)
    if proj_weight is not None:
        torch.matmul(given, proj_weight, out=found.d_attended)
    if with_weights:
        found.normalised.copy_(normalised)
        found.hidden.copy_(scaled(F.gelu(inner).view(*x.shape[:-1], -1), scale).view_as(inner))
        found.d_inner.copy_(d_inner)
        d_proj_bias = _sum(given) if proj_weight is not None else torch.zeros_like(_sum(d_out))
        parts = (_sum(d_inner), d_norm_weight.float(), d_norm_bias.float(), _sum(d_out), d_proj_bias)
        torch.cat(parts, out=found.sums)
    return found


def scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    """Multiply each image of (B, ..., C) with its factor, (B,), in the dtype of `x`; None for 1."""
    return x if scale is None else x * scale.view(-1, *[1] * (x.dim() - 1)).to(x.dtype)


def _sum(x: Tensor) -> Tensor:
    """(..., C) -> (C,), in fp32."""
    return x.reshape(-1, x.shape[-1]).sum(0, dtype=torch.float32)
