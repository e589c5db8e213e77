"""Attention of every token to spatially reduced keys (SSA): `reference.py` defines it, `fused.py` is its twin."""

from __future__ import annotations

from torch import Tensor

from scalablevit.ops.reduced_attention import fused


def reduced_attention(q: Tensor, k: Tensor, v: Tensor, *, num_heads: int, scale: float, dropout: float = 0.0) -> Tensor:
    """Multi-head attention in which keys may be fewer than queries and values of another width.

    Args:
        q: queries, (B, N, C').
        k: keys, (B, M, C').
        v: values, (B, M, Cv).
        num_heads: h; divides C' and Cv.
        scale: factor on the scores before the softmax.
        dropout: probability in [0, 1) with which an attention weight is dropped.

    Returns:
        (B, N, Cv), before the output projection.

    Raises:
        ValueError: `num_heads` does not divide the widths.

    Source: ScalableViT, arXiv:2203.10790, section 3.2.
    """
    if q.shape[-1] % num_heads or v.shape[-1] % num_heads:
        raise ValueError(f"num_heads {num_heads} must divide the widths of q ({q.shape[-1]}) and v ({v.shape[-1]})")
    return fused.reduced_attention(q, k, v, num_heads=num_heads, scale=scale, dropout=dropout)
