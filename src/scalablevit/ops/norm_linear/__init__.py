"""LayerNorm with a linear layer behind it: `reference.py` defines it, `kernel.py` is its twin in Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from scalablevit.ops.choice import Choice, Implementation
from scalablevit.ops.layer_choice import choose_for_layer
from scalablevit.ops.norm_linear import operators, reference
from scalablevit.ops.norm_linear.tiles import cannot_serve


def select_implementation(
    *,
    dim: int,
    outputs: int,
    device: torch.device | None,
    dtype: torch.dtype | None,
    x: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Choice:
    """Choose the implementation that normalises and multiplies.

    Args:
        dim: channels, C.
        outputs: of the linear layer.
        device: of the map; None while torch.fx records symbols that have none.
        dtype: of the products: the map's, or autocast's; None likewise.
        x: the map, for whose size and dtype it may have been measured; None: no measurement is asked for.
        implementation: the one that the caller asked for.
    """

    def cannot() -> str | None:
        assert dtype is not None  # `choose` asks about sizes only where there are tensors
        return cannot_serve(dim=dim, dtype=dtype)

    return choose_for_layer(
        implementation,
        device=device,
        dtype=dtype,
        cannot=cannot,
        operator="norm_linear",
        sizes=sizes_in_words(dim, outputs),
        x=x,
    )


def sizes_in_words(dim: int, outputs: int) -> str:
    """What a measurement of it is known by; see `scalablevit.ops.measured`."""
    return f"{dim} channels, {outputs} outputs"


def norm_linear(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float,
    implementation: Implementation = "auto",
) -> Tensor:
    """Compute `linear(norm(x))` without a normalised map in memory.

    Args:
        x: map, (B, ..., C).
        norm_weight, norm_bias: of the LayerNorm, (C,).
        weight: (outputs, C); products and result are in its dtype.
        bias: (outputs,), or None.
        eps: of the LayerNorm.
        implementation: "triton" (`kernel.py`), "torch" or "reference" (`reference.py`), or "auto": the kernel on CUDA
            devices in bfloat16 and float16 where it can serve, else PyTorch, unless the environment variable
            SCALABLEVIT_LAYERS says otherwise.

    Returns:
        (B, ..., outputs).

    Raises:
        ValueError: weights do not fit `x`, where the kernel runs; PyTorch has errors of its own.
    """
    choice = select_implementation(
        dim=weight.shape[1],
        outputs=weight.shape[0],
        device=x.device,
        dtype=weight.dtype,
        x=x,
        implementation=implementation,
    )
    if choice.implementation == "triton":
        C = x.shape[-1]
        if weight.shape[1] != C or norm_weight.shape != (C,) or norm_bias.shape != (C,):
            raise ValueError(
                f"norm_weight {tuple(norm_weight.shape)}, norm_bias {tuple(norm_bias.shape)} and weight "
                f"{tuple(weight.shape)} do not fit a map of {C} channels"
            )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias {tuple(bias.shape)} does not fit weight {tuple(weight.shape)}")
        return by_kernel(x, norm_weight, norm_bias, weight, bias, eps=eps)
    return reference.norm_linear(x, norm_weight, norm_bias, weight, bias, eps=eps)


def by_kernel(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float
) -> Tensor:
    """Run the kernel where `select_implementation` chose it; arguments as in `norm_linear`."""
    out: Tensor = operators.norm_linear(x, norm_weight, norm_bias, weight, bias, eps)
    return out
