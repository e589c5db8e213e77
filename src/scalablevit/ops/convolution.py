"""Any convolution of a (B, H, W, C) map as one operator, which torch.compile does not look into.

Inductor decides on a layout for the convolutions that it sees, and copies maps into it and back: (B, H, W, C) maps it
takes for (B, C, H, W). This operator hands PyTorch's convolution the map as it lies in memory. It computes what
`torch.nn.functional.conv2d` computes, by the same libraries.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.layout import channels_first, channels_last, convolved_size
from scalablevit.ops.operator import custom_op


@custom_op(
    "scalablevit::convolution",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, SymInt stride, SymInt padding, SymInt groups) -> Tensor",
)
def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int) -> Tensor:
    """(B, H, W, C) -> (B, H', W', C'), contiguous.

    Args:
        x: the map.
        weight: (C', C / groups, K, K).
        bias: (C',), or None.
        stride, padding, groups: of the convolution.
    """
    x = channels_first(x.contiguous())  # (B, C, H, W), channels_last in memory
    return channels_last(F.conv2d(x, weight, bias, stride=stride, padding=padding, groups=groups)).contiguous()


@convolution.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int) -> Tensor:
    B, H, W, _ = x.shape
    rows, columns = convolved_size(H, W, side=weight.shape[-1], stride=stride, padding=padding)
    return x.new_empty((B, rows, columns, weight.shape[0]))


@custom_op(
    "scalablevit::convolution_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, SymInt stride, SymInt padding, SymInt groups, bool needs_x, "
    "bool needs_sums) -> (Tensor, Tensor, Tensor)",
)
def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    groups: int,
    needs_x: bool,
    needs_sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the map, the weight and the bias; nothing, (0,), where they are not wanted."""
    dx, dweight, dbias = torch.ops.aten.convolution_backward(
        channels_first(grad.contiguous()),
        channels_first(x.contiguous()),
        weight,
        [weight.shape[0]],
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        groups,
        [needs_x, needs_sums, needs_sums],
    )
    none = x.new_empty(0)
    dx = channels_last(dx).contiguous() if needs_x else none
    return (dx, dweight.contiguous(), dbias.contiguous()) if needs_sums else (dx, none, none.clone())


@convolution_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    groups: int,
    needs_x: bool,
    needs_sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (weight.shape, weight.shape[:1]) if needs_sums else ((0,), (0,))
    dweight, dbias = (weight.new_empty(shape) for shape in shapes)
    return x.new_empty(x.shape if needs_x else (0,)), dweight, dbias


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.stride, ctx.padding, ctx.groups = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    needs_bias = needs_bias and ctx.has_bias
    dx, dweight, dbias = convolution_backward(
        grad, x, weight, ctx.stride, ctx.padding, ctx.groups, needs_x, needs_weight or needs_bias
    )
    gradients = (dx, needs_x), (dweight, needs_weight), (dbias, needs_bias)
    return *(gradient if is_needed else None for gradient, is_needed in gradients), None, None, None


convolution.register_autograd(_backward, setup_context=_save)
