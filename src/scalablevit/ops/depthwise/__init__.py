"""Depthwise convolution of (B, H, W, C) maps: `reference.py` defines it, `kernel.py` is its twin in Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from scalablevit.ops.choice import Choice, Implementation
from scalablevit.ops.depthwise import operators, reference
from scalablevit.ops.depthwise.tiles import cannot_serve
from scalablevit.ops.layer_choice import choose_for_layer


def select_implementation(
    *,
    dim: int,
    side: int,
    stride: int,
    padding: int,
    device: torch.device | None,
    dtype: torch.dtype | None,
    x: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Choice:
    """Choose the implementation that computes a depthwise convolution.

    Args:
        dim: channels, C.
        side: of the kernel, in tokens.
        stride, padding: of the convolution, in tokens.
        device: of the map; None while torch.fx records symbols that have none.
        dtype: in which PyTorch would multiply: the map's, or autocast's; None likewise.
        x: the map, for whose size and dtype it may have been measured; None: no measurement is asked for.
        implementation: the one that the caller asked for.
    """
    return choose_for_layer(
        implementation,
        device=device,
        dtype=dtype,
        cannot=lambda: cannot_serve(side=side, stride=stride, padding=padding),
        operator="depthwise",
        sizes=sizes_in_words(dim, side, stride),
        x=x,
    )


def sizes_in_words(dim: int, side: int, stride: int) -> str:
    """What a measurement of it is known by; see `scalablevit.ops.measured`."""
    return f"{dim} channels, {side} x {side} of stride {stride}"


def depthwise_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    residual: bool = False,
    implementation: Implementation = "auto",
) -> Tensor:
    """Convolve each channel of a map with a kernel of its own; beyond the map there are zeros.

    Args:
        x: map, (B, H, W, C).
        weight: (C, 1, K, K).
        bias: (C,), or None.
        stride: tokens of `x` per token of the result, at least 1.
        padding: zeros at each border, at least 0.
        residual: add `x` itself; only where the result has the size of `x`.
        implementation: "triton" (`kernel.py`), "torch" or "reference" (`reference.py`), or "auto": the kernel on CUDA
            devices in bfloat16 and float16 where it can serve, else PyTorch, unless the environment variable
            SCALABLEVIT_LAYERS says otherwise.

    Returns:
        (B, H', W', C) in the dtype of `x`; rows and columns that do not fill a stride are dropped. It is at least as
        precise as what PyTorch gives: the kernel sums in fp32.

    Raises:
        ValueError: `weight` or `bias` does not fit `x`, or `residual` is asked for where sizes differ.
    """
    C, _, side, width = weight.shape
    if x.shape[-1] != C or side != width:
        raise ValueError(f"weight {tuple(weight.shape)} is no square depthwise kernel for {x.shape[-1]} channels")
    if bias is not None and bias.shape != (C,):
        raise ValueError(f"bias {tuple(bias.shape)} does not fit {C} channels")
    if residual and (stride != 1 or 2 * padding != side - 1):
        raise ValueError(
            f"residual needs a result as large as x: stride 1 and padding {side // 2} for a side of {side}"
        )
    choice = select_implementation(
        dim=C,
        side=side,
        stride=stride,
        padding=padding,
        device=x.device,
        dtype=x.dtype,
        x=x,
        implementation=implementation,
    )
    if choice.implementation == "triton":
        return convolve_by_kernel(x, weight, bias, stride=stride, padding=padding, residual=residual)
    return reference.depthwise_convolution(x, weight, bias, stride=stride, padding=padding, residual=residual)


def convolve_by_kernel(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, padding: int, residual: bool
) -> Tensor:
    """Run the kernel where `select_implementation` chose it; arguments as in `depthwise_convolution`."""
    # (C, 1, K, K) -> (K * K, C): programs read a tap of neighbouring channels at once.
    taps = weight.flatten(1).t().contiguous()
    out: Tensor = operators.depthwise(x, taps, bias, weight.shape[-1], stride, padding, residual)
    return out
