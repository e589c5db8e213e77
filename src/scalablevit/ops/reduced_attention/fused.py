"""Attention over reduced keys on PyTorch's fused attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.recording import is_exporting


# Not keyword-only: torch.jit.script wants it so beside defaults.
def reduced_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float, dropout: float = 0.0) -> Tensor:
    """Same result as `reference.reduced_attention`, without materialised scores where torch can avoid them."""
    q, k, v = _heads(q, num_heads), _heads(k, num_heads), _heads(v, num_heads)  # (B, h, N or M, D)
    value_dim = v.shape[-1]
    if not torch.jit.is_scripting():
        width = _supported_width(q, value_dim)
        q, k, v = _padded_to(width, q), _padded_to(width, k), _padded_to(width, v)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)  # (B, h, N, width)
    return out[..., :value_dim].transpose(1, 2).flatten(2)  # (B, N, Cv)


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, C) -> (B, h, N, D)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _supported_width(q: Tensor, value_dim: int) -> int:
    """Return the width to which to pad heads for the device's fused kernel; 0: as they are."""
    if is_exporting():
        return 0  # nobody knows where a stored graph will run
    width = max(q.shape[-1], value_dim)
    if q.is_cpu:
        # The CPU's fused kernel wants one width; else torch materialises the scores and checks each for -inf.
        return width
    # CUDA's memory-efficient kernel takes two widths if both are multiples of 8 (in fp32, of 4), its flash kernel one
    # width (in PyTorch's sdp_utils.cpp), and ROCm's kernels one; else torch materialises the scores.
    is_unsupported = q.shape[-1] % 8 or value_dim % 8 or (torch.version.hip is not None and q.shape[-1] != value_dim)
    return width + -width % 8 if q.is_cuda and is_unsupported else 0


def _padded_to(width: int, x: Tensor) -> Tensor:
    """Append columns of zeros, which change no product."""
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x
