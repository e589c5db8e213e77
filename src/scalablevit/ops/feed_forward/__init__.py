"""What follows the attention of a block: its projection, the feed-forward part and both residuals.

`reference.py` defines it, `kernel.py` is its twin in Triton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scalablevit.ops.choice import Choice, Implementation
from scalablevit.ops.feed_forward import operators, reference
from scalablevit.ops.feed_forward.tiles import cannot_serve
from scalablevit.ops.feed_forward.weights import Weights
from scalablevit.ops.layer_choice import choose_for_layer


def select_implementation(
    *,
    dim: int,
    hidden_dim: int,
    device: torch.device | None,
    dtype: torch.dtype | None,
    x: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Choice:
    """Choose the implementation that computes the feed-forward half of a block.

    Args:
        dim: channels, C.
        hidden_dim: channels between the two linear layers.
        device: of the map; None while torch.fx records symbols that have none.
        dtype: of the products: the map's, or autocast's; None likewise.
        x: the map, for whose size and dtype it may have been measured; None: no measurement is asked for.
        implementation: the one that the caller asked for.
    """

    def cannot() -> str | None:
        assert dtype is not None  # `choose` asks about sizes only where there are tensors
        return cannot_serve(dim=dim, hidden_dim=hidden_dim, dtype=dtype)

    return choose_for_layer(
        implementation,
        device=device,
        dtype=dtype,
        cannot=cannot,
        operator="feed_forward",
        sizes=sizes_in_words(dim, hidden_dim),
        x=x,
    )


def sizes_in_words(dim: int, hidden_dim: int) -> str:
    """What a measurement of it is known by; see `scalablevit.ops.measured`."""
    return f"{dim} channels, {hidden_dim} hidden"


def feed_forward(
    x: Tensor,
    branch: Tensor | None,
    weights: Weights,
    *,
    eps: float,
    branch_scale: Tensor | None = None,
    scale: Tensor | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """Compute `y + scale * fc2(gelu(fc1(norm(y))))` of `y = x + branch_scale * proj(branch)`, with the exact GELU.

    Args:
        x: residual stream, (B, ..., C).
        branch: what the attention adds to it, as large, or (B, ..., width) before its projection; None for nothing.
        weights: of LayerNorm and MLP, and of the projection where it has not been applied.
        eps: of the LayerNorm.
        branch_scale, scale: (B,), factors of each image, as drop path has them; None for 1. They get no gradients.
        implementation: "triton" (`kernel.py`), "torch" or "reference" (`reference.py`), or "auto": the kernel on CUDA
            devices in bfloat16 and float16 where it can serve, else PyTorch, unless the environment variable
            SCALABLEVIT_LAYERS says otherwise.

    Returns:
        as large as `x`, in its dtype.

    Raises:
        ValueError: only one of `proj_weight` and `proj_bias` is given, or they come without a branch; or, where the
            kernel runs, a tensor does not fit `x`.
    """
    *parts, proj_weight, proj_bias = weights
    if (proj_weight is None) != (proj_bias is None) or (proj_weight is not None and branch is None):
        raise ValueError("proj_weight and proj_bias go together, with the branch that they project")
    choice = select_implementation(
        dim=weights.weight_1.shape[1],
        hidden_dim=weights.weight_1.shape[0],
        device=x.device,
        dtype=weights.weight_1.dtype,
        x=x,
        implementation=implementation,
    )
    if choice.implementation == "triton":
        _check_shapes(x, branch, weights, branch_scale, scale)
        out: Tensor = operators.feed_forward(x, branch, proj_weight, proj_bias, branch_scale, *parts, scale, eps)
        return out
    return reference.feed_forward(x, branch, weights, eps=eps, branch_scale=branch_scale, scale=scale)


def _check_shapes(
    x: Tensor, branch: Tensor | None, weights: Weights, branch_scale: Tensor | None, scale: Tensor | None
) -> None:
    """Check that the kernel reads and writes inside of its tensors, which it trusts to fit.

    Raises:
        ValueError: a tensor does not fit `x`.
    """
    C, hidden = x.shape[-1], weights.weight_1.shape[0]
    width = C if weights.proj_weight is None else weights.proj_weight.shape[1]
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "branch": (branch, (*x.shape[:-1], width)),
        "branch_scale": (branch_scale, x.shape[:1]),
        "scale": (scale, x.shape[:1]),
        "norm_weight": (weights.norm_weight, (C,)),
        "norm_bias": (weights.norm_bias, (C,)),
        "weight_1": (weights.weight_1, (hidden, C)),
        "bias_1": (weights.bias_1, (hidden,)),
        "weight_2": (weights.weight_2, (C, hidden)),
        "bias_2": (weights.bias_2, (C,)),
        "proj_weight": (weights.proj_weight, (C, width)),
        "proj_bias": (weights.proj_bias, (C,)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} {tuple(tensor.shape)} must be {tuple(shape)} for a map {tuple(x.shape)}")
