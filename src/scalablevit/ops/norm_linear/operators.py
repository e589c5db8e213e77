"""The kernel as a PyTorch operator, opaque to torch.compile; `kernel.py`, and Triton, are imported on first use.

A kernel that the device cannot build costs speed, not the run: see `fallback.py`. The backward is PyTorch's own
operators, which torch.compile sees: it normalises once more instead of keeping the normalised map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalablevit.ops.fallback import kernel_or_plain
from scalablevit.ops.norm_linear import reference
from scalablevit.ops.operator import custom_op


@custom_op(
    "scalablevit::norm_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor weight, Tensor? bias, float eps) -> Tensor",
)
def norm_linear(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    """The output, (B, ..., outputs); arguments as in `kernel.forward`."""
    if x.numel() == 0:
        return weight.new_empty((*x.shape[:-1], weight.shape[0]))

    def launch() -> Tensor:
        from scalablevit.ops.norm_linear import kernel

        return kernel.forward(x, norm_weight, norm_bias, weight, bias, eps=eps)

    def plain() -> Tensor:
        return reference.norm_linear(x, norm_weight, norm_bias, weight, bias, eps=eps).contiguous()

    return kernel_or_plain(
        launch,
        plain,
        name="kernel of LayerNorm and linear layer",
        device=x.device,
        dtype=weight.dtype,
        sizes={"channels": x.shape[-1], "outputs": weight.shape[0]},
    )


@norm_linear.register_fake
def _(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return weight.new_empty((*x.shape[:-1], weight.shape[0]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, norm_weight, norm_bias, weight, bias, ctx.eps = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, norm_weight, norm_bias, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, norm_weight, norm_bias, weight = ctx.saved_tensors
    needs, C = ctx.needs_input_grad, x.shape[-1]
    small = norm_weight.to(x.dtype), norm_bias.to(x.dtype)
    normalised, mean, rstd = torch.native_layer_norm(x, [C], *small, ctx.eps)
    flat = grad.reshape(-1, grad.shape[-1])  # (tokens, outputs)
    dx = d_norm_weight = d_norm_bias = d_weight = d_bias = None
    if any(needs[:3]):
        d_normalised = (flat @ weight).view(x.shape).to(x.dtype)
        dx, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
            d_normalised, x, [C], mean, rstd, *small, list(needs[:3])
        )
    if needs[3]:
        d_weight = flat.t() @ normalised.to(weight.dtype).reshape(-1, C)
    if needs[4]:
        d_bias = flat.sum(0).to(ctx.bias_dtype)
    return (
        dx,
        None if d_norm_weight is None else d_norm_weight.to(norm_weight.dtype),
        None if d_norm_bias is None else d_norm_bias.to(norm_bias.dtype),
        d_weight,
        d_bias,
        None,
    )


norm_linear.register_autograd(_backward, setup_context=_save)
