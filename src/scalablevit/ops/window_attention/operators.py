"""The kernels as PyTorch operators, opaque to torch.compile; `kernel.py`, and Triton, are imported on first use.

A kernel that the device cannot build costs speed, not the run: see `fallback.py`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from scalablevit.ops.fallback import kernel_or_plain
from scalablevit.ops.operator import custom_op
from scalablevit.ops.window_attention import fused, gradient
from scalablevit.ops.window_attention.tiles import SUM_ROWS


def _case(qkv: Tensor, num_heads: int, rows: int, columns: int) -> dict[str, Any]:
    """For what a kernel is built."""
    sizes = {"channels": qkv.shape[-1] // 3, "heads": num_heads, "rows": rows, "columns": columns}
    return {"device": qkv.device, "dtype": qkv.dtype, "sizes": sizes}


@custom_op(
    "scalablevit::window_attention",
    mutates_args=(),
    schema="(Tensor qkv, Tensor? lim_weight, Tensor? lim_bias, Tensor? fill, SymInt num_heads, SymInt rows, "
    "SymInt columns) -> Tensor",
)
def window_attention(
    qkv: Tensor,
    lim_weight: Tensor | None,
    lim_bias: Tensor | None,
    fill: Tensor | None,
    num_heads: int,
    rows: int,
    columns: int,
) -> Tensor:
    """The output, (B, H, W, C); arguments as in `kernel.forward`."""
    if qkv.numel() == 0:
        return _empty_output(qkv)
    sizes: dict[str, Any] = {"num_heads": num_heads, "window_size": (rows, columns)}

    def launch() -> Tensor:
        from scalablevit.ops.window_attention import kernel

        return kernel.forward(qkv, lim_weight, lim_bias, fill, **sizes)

    def plain() -> Tensor:
        weight, bias = (None if x is None else x.to(qkv.dtype) for x in (lim_weight, lim_bias))
        return fused.window_attention(qkv, weight, bias, fill=fill, **sizes).contiguous()

    return kernel_or_plain(
        launch, plain, name="forward kernel of window attention", **_case(qkv, num_heads, rows, columns)
    )


def _empty_output(qkv: Tensor) -> Tensor:
    B, H, W, C3 = qkv.shape
    return qkv.new_empty((B, H, W, C3 // 3))


@window_attention.register_fake
def _(
    qkv: Tensor,
    lim_weight: Tensor | None,
    lim_bias: Tensor | None,
    fill: Tensor | None,
    num_heads: int,
    rows: int,
    columns: int,
) -> Tensor:
    return _empty_output(qkv)


@custom_op(
    "scalablevit::window_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor qkv, Tensor? lim_weight, Tensor? fill, SymInt num_heads, SymInt rows, "
    "SymInt columns, bool with_sums) -> (Tensor, Tensor)",
)
def window_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    lim_weight: Tensor | None,
    fill: Tensor | None,
    num_heads: int,
    rows: int,
    columns: int,
    with_sums: bool,
) -> tuple[Tensor, Tensor]:
    """The gradient of qkv and the summed gradients; arguments and results as in `kernel.backward`."""
    if qkv.numel() == 0:
        dqkv, sums = _empty_gradients(qkv, with_sums)
        return dqkv, sums.zero_()
    options: dict[str, Any] = {"num_heads": num_heads, "window_size": (rows, columns), "with_sums": with_sums}

    def launch() -> tuple[Tensor, Tensor]:
        from scalablevit.ops.window_attention import kernel

        return kernel.backward(grad, qkv, lim_weight, fill, **options)

    def plain() -> tuple[Tensor, Tensor]:
        return gradient.backward(grad, qkv, lim_weight, fill, **options)

    return kernel_or_plain(
        launch, plain, name="backward kernel of window attention", **_case(qkv, num_heads, rows, columns)
    )


def _empty_gradients(qkv: Tensor, with_sums: bool) -> tuple[Tensor, Tensor]:
    shape = (SUM_ROWS, qkv.shape[-1] // 3) if with_sums else (0,)
    return qkv.new_empty(qkv.shape), qkv.new_empty(shape, dtype=torch.float32)


@window_attention_backward.register_fake
def _(
    grad: Tensor,
    qkv: Tensor,
    lim_weight: Tensor | None,
    fill: Tensor | None,
    num_heads: int,
    rows: int,
    columns: int,
    with_sums: bool,
) -> tuple[Tensor, Tensor]:
    return _empty_gradients(qkv, with_sums)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, lim_weight, lim_bias, fill, ctx.num_heads, ctx.rows, ctx.columns = inputs
    ctx.bias_dtype = None if lim_bias is None else lim_bias.dtype
    ctx.save_for_backward(qkv, lim_weight, fill)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    qkv, lim_weight, fill = cast(tuple[Tensor, Tensor | None, Tensor | None], ctx.saved_tensors)
    _, needs_weight, needs_bias, needs_fill, *_ = ctx.needs_input_grad
    dqkv, sums = window_attention_backward(
        grad, qkv, lim_weight, fill, ctx.num_heads, ctx.rows, ctx.columns, needs_weight or needs_bias or needs_fill
    )
    dweight = dbias = dfill = None
    if needs_weight and lim_weight is not None:
        dweight = sums[:9].t().reshape(lim_weight.shape).to(lim_weight.dtype)
    if needs_bias and ctx.bias_dtype is not None:
        # Without LIM its bias takes no part, and nothing was summed.
        dbias = sums[9].to(ctx.bias_dtype)
    if needs_fill and fill is not None:
        # Queries of padded tokens give nothing that is kept.
        dfill = torch.cat([torch.zeros_like(sums[0]), sums[10], sums[11]]).to(fill.dtype)
    return dqkv, dweight, dbias, dfill, None, None, None


window_attention.register_autograd(_backward, setup_context=_save)
