"""Attention over reduced keys on PyTorch's fused attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reduced_attention(
    q: Tensor, k: Tensor, v: Tensor, *, num_heads: int, scale: float, dropout: float = 0.0
) -> Tensor:
    """Same result as `reference.reduced_attention`, without materialised scores where torch can avoid them."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, h, N or M, D)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    return out.transpose(1, 2).flatten(2)  # (B, N, Cv)
