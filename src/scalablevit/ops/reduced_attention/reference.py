"""The definition of attention over reduced keys, in plain maths."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reduced_attention(q: Tensor, k: Tensor, v: Tensor, *, num_heads: int, scale: float, dropout: float = 0.0) -> Tensor:
    """`softmax(scale * q k^T) v` head by head.

    Arguments as in `scalablevit.ops.reduced_attention.reduced_attention`.
    """
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, h, N or M, D)
    attention = F.dropout((q @ k.transpose(-2, -1) * scale).softmax(dim=-1), dropout)  # (B, h, N, M)
    return (attention @ v).transpose(1, 2).flatten(2)  # (B, N, Cv)
