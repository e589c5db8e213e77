"""The kernels as PyTorch operators, opaque to torch.compile; `kernel.py`, and Triton, are imported on first use.

A kernel that the device cannot build costs speed, not the run: see `fallback.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scalablevit.ops.depthwise import reference
from scalablevit.ops.fallback import kernel_or_plain
from scalablevit.ops.layout import channels_first, channels_last, convolved_size
from scalablevit.ops.operator import custom_op


def _case(x: Tensor, side: int, stride: int) -> dict[str, Any]:
    """For what a kernel is built."""
    return {"device": x.device, "dtype": x.dtype, "sizes": {"channels": x.shape[-1], "side": side, "stride": stride}}


def _as_weight(taps: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """(K * K, C) -> (C, 1, K, K)."""
    return taps.t().reshape(-1, 1, side, side).to(dtype)


@custom_op(
    "scalablevit::depthwise",
    mutates_args=(),
    schema="(Tensor x, Tensor taps, Tensor? bias, SymInt side, SymInt stride, SymInt padding, bool residual) -> Tensor",
)
def depthwise(
    x: Tensor, taps: Tensor, bias: Tensor | None, side: int, stride: int, padding: int, residual: bool
) -> Tensor:
    """The output, (B, H', W', C); arguments as in `kernel.forward`."""
    out = _empty_output(x, side, stride, padding)
    if out.numel() == 0:
        return out
    sizes: dict[str, Any] = {"stride": stride, "padding": padding, "residual": residual}

    def launch() -> Tensor:
        from scalablevit.ops.depthwise import kernel

        return kernel.forward(x, taps.contiguous(), bias, side=side, **sizes)

    def plain() -> Tensor:
        small = None if bias is None else bias.to(x.dtype)
        return reference.depthwise_convolution(x, _as_weight(taps, side, x.dtype), small, **sizes).contiguous()

    return kernel_or_plain(launch, plain, name="depthwise kernel", **_case(x, side, stride))


def _empty_output(x: Tensor, side: int, stride: int, padding: int) -> Tensor:
    B, H, W, C = x.shape
    rows, columns = convolved_size(H, W, side=side, stride=stride, padding=padding)
    return x.new_empty((B, rows, columns, C))


@depthwise.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor | None, side: int, stride: int, padding: int, residual: bool) -> Tensor:
    return _empty_output(x, side, stride, padding)


@custom_op(
    "scalablevit::depthwise_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor taps, SymInt side, SymInt stride, SymInt padding, bool residual, "
    "bool with_sums) -> (Tensor, Tensor)",
)
def depthwise_backward(
    grad: Tensor,
    x: Tensor,
    taps: Tensor,
    side: int,
    stride: int,
    padding: int,
    residual: bool,
    with_sums: bool,
) -> tuple[Tensor, Tensor]:
    """The gradient of x and the summed gradients; arguments and results as in `kernel.backward`."""
    if grad.numel() == 0:
        dx, sums = _empty_gradients(x, side, with_sums)
        return dx.zero_(), sums.zero_()
    sizes: dict[str, Any] = {"stride": stride, "padding": padding}

    def launch() -> tuple[Tensor, Tensor]:
        from scalablevit.ops.depthwise import kernel

        return kernel.backward(grad, x, taps.contiguous(), side=side, residual=residual, with_sums=with_sums, **sizes)

    def plain() -> tuple[Tensor, Tensor]:
        return _plain_backward(grad, x, taps, side, stride, padding, residual, with_sums)

    return kernel_or_plain(launch, plain, name="backward of the depthwise kernel", **_case(x, side, stride))


def _plain_backward(
    grad: Tensor, x: Tensor, taps: Tensor, side: int, stride: int, padding: int, residual: bool, with_sums: bool
) -> tuple[Tensor, Tensor]:
    dtype, C = torch.promote_types(x.dtype, torch.float32), x.shape[-1]
    dx, dweight, dbias = torch.ops.aten.convolution_backward(
        channels_first(grad).to(dtype),
        channels_first(x).to(dtype),
        _as_weight(taps, side, dtype),
        [C],
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        C,
        [True, with_sums, with_sums],
    )
    dx = channels_last(dx) + grad if residual else channels_last(dx)
    if not with_sums:
        return dx.to(x.dtype).contiguous(), x.new_empty(0, dtype=torch.float32)
    sums = torch.cat([dweight.flatten(1).t(), dbias[None]]).float()  # (K * K + 1, C)
    return dx.to(x.dtype).contiguous(), sums


def _empty_gradients(x: Tensor, side: int, with_sums: bool) -> tuple[Tensor, Tensor]:
    shape = (side * side + 1, x.shape[-1]) if with_sums else (0,)
    return x.new_empty(x.shape), x.new_empty(shape, dtype=torch.float32)


@depthwise_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    taps: Tensor,
    side: int,
    stride: int,
    padding: int,
    residual: bool,
    with_sums: bool,
) -> tuple[Tensor, Tensor]:
    return _empty_gradients(x, side, with_sums)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, taps, bias, ctx.side, ctx.stride, ctx.padding, ctx.residual = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(x, taps)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, taps = ctx.saved_tensors
    _, needs_taps, needs_bias, *_ = ctx.needs_input_grad
    dx, sums = depthwise_backward(
        grad, x, taps, ctx.side, ctx.stride, ctx.padding, ctx.residual, needs_taps or needs_bias
    )
    dtaps = sums[:-1].to(taps.dtype) if needs_taps else None
    dbias = sums[-1].to(ctx.bias_dtype) if needs_bias and ctx.bias_dtype is not None else None
    return dx, dtaps, dbias, None, None, None, None


depthwise.register_autograd(_backward, setup_context=_save)
