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
        q, k, v = _padded_to(max(q.shape[-1], value_dim), q, k, v)
    elif q.is_cuda and not torch.compiler.is_exporting():
        # CUDA's memory-efficient kernel takes two widths if both are multiples of 8 (in fp32, of 4), its flash
        # kernel one width (in PyTorch's sdp_utils.cpp), and ROCm's kernels one; else torch materialises the scores.
        width = max(q.shape[-1], value_dim)
        if q.shape[-1] % 8 or value_dim % 8 or (torch.version.hip is not None and q.shape[-1] != value_dim):
            q, k, v = _padded_to(width + -width % 8, q, k, v)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)  # (B, h, N, width)
    return out[..., :value_dim].transpose(1, 2).flatten(2)  # (B, N, Cv)


def _padded_to(width: int, *tensors: Tensor) -> list[Tensor]:
    """With columns of zeros at the end, which change no product."""
    return [x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1])) for x in tensors]
