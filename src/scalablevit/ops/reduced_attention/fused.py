"""Attention over reduced keys on PyTorch's fused attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reduced_attention(q: Tensor, k: Tensor, v: Tensor, *, num_heads: int, scale: float, dropout: float = 0.0) -> Tensor:
    """Same result as `reference.reduced_attention`, without materialised scores where torch can avoid them."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, h, N or M, D)
    value_dim = v.shape[-1]
    if q.is_cpu and not torch.compiler.is_exporting():
        # The CPU's fused kernel wants one width; else torch materialises the scores and checks each for -inf.
        width = max(q.shape[-1], value_dim)
        q, k, v = (x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1])) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)  # (B, h, N, width)
    return out[..., :value_dim].transpose(1, 2).flatten(2)  # (B, N, Cv)
