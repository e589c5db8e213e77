"""The kernel as a PyTorch operator, opaque to torch.compile; `kernel.py`, and Triton, are imported on first use.

A kernel that the device cannot build costs speed, not the run: see `fallback.py`. The backward normalises once more,
by PyTorch, and asks the depthwise kernel for the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalablevit.ops.depthwise.operators import depthwise_backward
from scalablevit.ops.fallback import kernel_or_plain
from scalablevit.ops.norm_depthwise import reference
from scalablevit.ops.operator import custom_op
from scalablevit.ops.windows import crop_to, pad_to_least


@custom_op(
    "scalablevit::norm_depthwise",
    mutates_args=(),
    schema="(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor taps, Tensor? bias, SymInt side, float eps) "
    "-> Tensor",
)
def norm_depthwise(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, taps: Tensor, bias: Tensor | None, side: int, eps: float
) -> Tensor:
    """The output, (B, H // side, W // side, C); arguments as in `kernel.forward`."""
    out = _empty_output(x, taps, side)
    if x.numel() == 0:
        return out.zero_()

    def launch() -> Tensor:
        from scalablevit.ops.norm_depthwise import kernel

        return kernel.forward(x, norm_weight, norm_bias, taps, bias, side=side, eps=eps)

    def plain() -> Tensor:
        weight = taps.t().reshape(-1, 1, side, side)
        return reference.norm_depthwise(x, norm_weight, norm_bias, weight, bias, eps=eps).contiguous()

    return kernel_or_plain(
        launch,
        plain,
        name="kernel of LayerNorm and patches",
        device=x.device,
        dtype=taps.dtype,
        sizes={"channels": x.shape[-1], "side": side},
    )


def _empty_output(x: Tensor, taps: Tensor, side: int) -> Tensor:
    B, H, W, C = x.shape
    # Branches, not maxima: see `pad_to_least`.
    return taps.new_empty((B, H // side if side <= H else 1, W // side if side <= W else 1, C))


@norm_depthwise.register_fake
def _(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, taps: Tensor, bias: Tensor | None, side: int, eps: float
) -> Tensor:
    return _empty_output(x, taps, side)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, norm_weight, norm_bias, taps, bias, ctx.side, ctx.eps = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, norm_weight, norm_bias, taps)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, norm_weight, norm_bias, taps = ctx.saved_tensors
    needs, (_, H, W, C) = ctx.needs_input_grad, x.shape
    small = norm_weight.to(x.dtype), norm_bias.to(x.dtype)
    normalised, mean, rstd = torch.native_layer_norm(x, [C], *small, ctx.eps)
    padded = pad_to_least(normalised.to(taps.dtype), ctx.side)
    d_padded, sums = depthwise_backward(grad, padded, taps, ctx.side, ctx.side, 0, False, needs[3] or needs[4])
    dx = d_norm_weight = d_norm_bias = None
    if any(needs[:3]):
        d_normalised = crop_to(d_padded, H, W).to(x.dtype)
        dx, d_norm_weight, d_norm_bias = torch.ops.aten.native_layer_norm_backward(
            d_normalised, x, [C], mean, rstd, *small, list(needs[:3])
        )
    return (
        dx,
        None if d_norm_weight is None else d_norm_weight.to(norm_weight.dtype),
        None if d_norm_bias is None else d_norm_bias.to(norm_bias.dtype),
        sums[:-1].to(taps.dtype) if needs[3] else None,
        sums[-1].to(ctx.bias_dtype) if needs[4] and ctx.bias_dtype is not None else None,
        None,
        None,
    )


norm_depthwise.register_autograd(_backward, setup_context=_save)
