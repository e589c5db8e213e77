"""LayerNorm with a depthwise convolution of patches behind it: `reference.py` defines it, `kernel.py` is its twin."""

from __future__ import annotations

import torch
from torch import Tensor

from scalablevit.ops.choice import Choice, Implementation
from scalablevit.ops.layer_choice import choose_for_layer
from scalablevit.ops.norm_depthwise import operators, reference
from scalablevit.ops.norm_depthwise.tiles import cannot_serve
from scalablevit.ops.norm_linear.tiles import cannot_serve as cannot_project


def select_implementation(
    *,
    dim: int,
    outputs: int,
    side: int,
    device: torch.device | None,
    dtype: torch.dtype | None,
    x: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Choice:
    """Choose what normalises a map for a linear layer (`scalablevit.ops.norm_linear`) and for patches, both at once.

    One kernel without the other saves nothing: somebody would have to write the normalised map.

    Args:
        dim: channels, C.
        outputs: of the linear layer.
        side: rows and columns of a patch, in tokens.
        device: of the map; None while torch.fx records symbols that have none.
        dtype: of the products: the map's, or autocast's; None likewise.
        x: the map, for which a measurement was made or not; None: no measurement is asked for.
        implementation: the one that the caller asked for.
    """

    def cannot() -> str | None:
        assert dtype is not None  # `choose` asks about sizes only where there are tensors
        return cannot_serve(dim=dim, side=side, dtype=dtype) or cannot_project(dim=dim, dtype=dtype)

    return choose_for_layer(
        implementation,
        device=device,
        dtype=dtype,
        cannot=cannot,
        operator="norm_reduce",
        sizes=sizes_in_words(dim, outputs, side),
        x=x,
    )


def sizes_in_words(dim: int, outputs: int, side: int) -> str:
    """What a measurement of both is known by; see `scalablevit.ops.measured`."""
    return f"{dim} channels, {outputs} outputs, {side} x {side}"


def norm_depthwise(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float,
    implementation: Implementation = "auto",
) -> Tensor:
    """Compute `conv(norm(x))` without a normalised map in memory, of a convolution that cuts the map into patches.

    Rows and columns that do not fill a patch are dropped; a map smaller than a patch is continued by zeros.

    Args:
        x: map, (B, H, W, C).
        norm_weight, norm_bias: of the LayerNorm, (C,).
        weight: (C, 1, side, side); the result is in its dtype.
        bias: (C,), or None.
        eps: of the LayerNorm.
        implementation: "triton" (`kernel.py`), "torch" or "reference" (`reference.py`), or "auto": the kernel on CUDA
            devices in bfloat16 and float16 where it can serve, else PyTorch, unless the environment variable
            SCALABLEVIT_LAYERS says otherwise.

    Returns:
        (B, H // side, W // side, C), at least one token a side.

    Raises:
        ValueError: weights do not fit `x`, where the kernel runs; PyTorch has errors of its own.
    """
    side, C = weight.shape[-1], x.shape[-1]
    choice = select_implementation(
        dim=C, outputs=C, side=side, device=x.device, dtype=weight.dtype, implementation=implementation
    )
    if choice.implementation != "triton":
        return reference.norm_depthwise(x, norm_weight, norm_bias, weight, bias, eps=eps)
    if weight.shape != (C, 1, side, side) or norm_weight.shape != (C,) or norm_bias.shape != (C,):
        raise ValueError(
            f"norm_weight {tuple(norm_weight.shape)}, norm_bias {tuple(norm_bias.shape)} and weight "
            f"{tuple(weight.shape)} do not fit patches of a map of {C} channels"
        )
    if bias is not None and bias.shape != (C,):
        raise ValueError(f"bias {tuple(bias.shape)} does not fit {C} channels")
    return by_kernel(x, norm_weight, norm_bias, weight, bias, eps=eps)


def by_kernel(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float
) -> Tensor:
    """Run the kernel where `select_implementation` chose it; arguments as in `norm_depthwise`."""
    # (C, 1, K, K) -> (K * K, C): programs read a tap of neighbouring channels at once.
    taps = weight.flatten(1).t().contiguous()
    out: Tensor = operators.norm_depthwise(x, norm_weight, norm_bias, taps, bias, weight.shape[-1], eps)
    return out
