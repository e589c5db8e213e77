"""The kernel as a PyTorch operator, opaque to torch.compile; `kernel.py`, and Triton, are imported on first use.

A kernel that the device cannot build costs speed, not the run: see `fallback.py`. The backward is PyTorch's own
operators, which torch.compile sees: it computes the hidden channels once more instead of keeping them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.fallback import kernel_or_plain
from scalablevit.ops.feed_forward import reference
from scalablevit.ops.feed_forward.weights import Weights


@torch.library.custom_op(
    "scalablevit::feed_forward",
    mutates_args=(),
    schema="(Tensor x, Tensor? branch, Tensor? proj_weight, Tensor? proj_bias, Tensor? branch_scale, "
    "Tensor norm_weight, Tensor norm_bias, Tensor weight_1, Tensor bias_1, Tensor weight_2, Tensor bias_2, "
    "Tensor? scale, float eps) -> Tensor",
)
def feed_forward(
    x: Tensor,
    branch: Tensor | None,
    proj_weight: Tensor | None,
    proj_bias: Tensor | None,
    branch_scale: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    scale: Tensor | None,
    eps: float,
) -> Tensor:
    """The output, as large as x; arguments as in `kernel.forward`."""
    if x.numel() == 0:
        return x.new_empty(x.shape)
    weights = Weights(norm_weight, norm_bias, weight_1, bias_1, weight_2, bias_2, proj_weight, proj_bias)

    def launch() -> Tensor:
        from scalablevit.ops.feed_forward import kernel

        return kernel.forward(x, branch, weights, eps=eps, branch_scale=branch_scale, scale=scale)

    def plain() -> Tensor:
        return reference.feed_forward(x, branch, weights, eps=eps, branch_scale=branch_scale, scale=scale).contiguous()

    return kernel_or_plain(
        launch,
        plain,
        name="feed-forward kernel",
        device=x.device,
        dtype=weight_1.dtype,
        sizes={"channels": x.shape[-1], "hidden": weight_1.shape[0]},
    )


@feed_forward.register_fake
def _(
    x: Tensor,
    branch: Tensor | None,
    proj_weight: Tensor | None,
    proj_bias: Tensor | None,
    branch_scale: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_1: Tensor,
    bias_1: Tensor,
    weight_2: Tensor,
    bias_2: Tensor,
    scale: Tensor | None,
    eps: float,
) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, attended, proj_weight, proj_bias, branch_scale, *weights, scale = ctx.saved_tensors
    norm_weight, norm_bias, weight_1, bias_1, weight_2, bias_2 = weights
    dtype, C, factors = weight_1.dtype, x.shape[-1], (x.shape[0], *[1] * (x.dim() - 1))
    branch = attended if proj_weight is None else F.linear(attended, proj_weight, proj_bias.to(dtype))
    y = x if branch is None else x + _scaled(branch, branch_scale, factors)
    normalised, mean, rstd = torch.native_layer_norm(y, [C], norm_weight.to(y.dtype), norm_bias.to(y.dtype), ctx.eps)
    normalised = normalised.to(dtype).reshape(-1, C)
    inner = F.linear(normalised, weight_1, bias_1.to(dtype))  # (N, hidden)
    d_out = _scaled(grad, scale, factors).to(dtype).reshape(-1, C)
    d_inner = torch.ops.aten.gelu_backward(d_out @ weight_2, inner)
    d_normalised = (d_inner @ weight_1).view(y.shape).to(y.dtype)
    dy, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
        d_normalised, y, [C], mean, rstd, norm_weight.to(y.dtype), norm_bias.to(y.dtype), [True, True, True]
    )
    dx = grad + dy
    d_attended = d_proj_weight = d_proj_bias = None
    if branch is not None:
        d_attended = _scaled(dx, branch_scale, factors).to(branch.dtype)
    if d_attended is not None and proj_weight is not None:
        d_projected = d_attended.reshape(-1, C)
        d_proj_weight = d_projected.t() @ attended.reshape(-1, attended.shape[-1])
        d_proj_bias = d_projected.sum(0).to(proj_bias.dtype)
        d_attended = (d_projected @ proj_weight).view(attended.shape)
    return (
        dx.to(x.dtype),
        d_attended,
        d_proj_weight,
        d_proj_bias,
        None,
        d_norm_weight.to(norm_weight.dtype),
        d_norm_bias.to(norm_bias.dtype),
        d_inner.t() @ normalised,
        d_inner.sum(0).to(bias_1.dtype),
        d_out.t() @ F.gelu(inner),
        d_out.sum(0).to(bias_2.dtype),
        None,
        None,
    )


def _scaled(x: Tensor, scale: Tensor | None, factors: tuple[int, ...]) -> Tensor:
    return x if scale is None else x * scale.view(factors).to(x.dtype)


feed_forward.register_autograd(_backward, setup_context=_save)
