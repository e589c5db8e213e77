"""Attention of every token to spatially reduced keys (SSA).

`reference.py` defines it; `fused.py`, on PyTorch's fused attention, and `kernel.py`, in Triton, are its twins.
`reduced_attention` chooses one, or takes the one that an argument or the environment variable
`SCALABLEVIT_ATTENTION` names.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scalablevit.ops.choice import Choice, Implementation, choose, warn_if_ignored
from scalablevit.ops.reduced_attention import fused, operators, reference
from scalablevit.ops.reduced_attention.limits import cannot_serve


def reduced_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    num_heads: int,
    scale: float,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """Multi-head attention in which keys may be fewer than queries and values of another width.

    Args:
        q: queries, (B, N, C').
        k: keys, (B, M, C').
        v: values, (B, M, Cv).
        num_heads: h; divides C' and Cv.
        scale: factor on the scores before the softmax.
        dropout: probability in [0, 1) with which an attention weight is dropped.
        implementation: "triton", "torch", "reference", or "auto": the kernel in bfloat16 and float16 where it can
            serve, else "torch". Where "triton" is asked for and cannot serve, "torch" runs, with a warning;
            `select_implementation` tells why. Only "reference" has second and forward-mode derivatives.

    Returns:
        (B, N, Cv), before the output projection.

    Raises:
        ValueError: `num_heads` does not divide the widths, or there is no such implementation.

    Source: ScalableViT, arXiv:2203.10790, section 3.2.
    """
    if q.shape[-1] % num_heads or v.shape[-1] % num_heads:
        raise ValueError(f"num_heads {num_heads} must divide the widths of q ({q.shape[-1]}) and v ({v.shape[-1]})")
    choice = select_implementation(
        key_width=q.shape[-1] // num_heads,
        value_width=v.shape[-1] // num_heads,
        device=q.device,
        dtype=q.dtype,
        source_dtypes=(k.dtype, v.dtype),
        dropout=dropout,
        implementation=implementation,
    )
    warn_if_ignored(implementation, choice, q.device)
    if choice.implementation == "triton":
        out: Tensor = operators.reduced_attention(q, k, v, num_heads, float(scale))[0]
        return out
    twin = reference if choice.implementation == "reference" else fused
    return twin.reduced_attention(q, k, v, num_heads=num_heads, scale=scale, dropout=dropout)


def select_implementation(
    *,
    key_width: int,
    value_width: int,
    device: torch.device,
    dtype: torch.dtype,
    source_dtypes: tuple[torch.dtype, ...] = (),
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Choice:
    """Choose the implementation that computes attention over reduced keys.

    Args:
        key_width: of one head's queries and keys.
        value_width: of one head's values.
        device, dtype: of the queries.
        source_dtypes: of keys and values; empty: as the queries.
        dropout, implementation: as in `reduced_attention`.

    Raises:
        ValueError: there is no such implementation.
    """

    def cannot() -> str | None:
        # PyTorch's attention casts under autocast; the kernels take tensors as they are.
        if any(source != dtype for source in source_dtypes):
            return "the kernels take q, k and v of one dtype"
        return cannot_serve(key_width=key_width, value_width=value_width)

    return choose(implementation, device=device, dtype=dtype, dropout=dropout, cannot=cannot)
