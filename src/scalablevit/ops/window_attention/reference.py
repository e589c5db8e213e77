"""The definition of interactive window attention, in plain maths."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.layout import channels_first, channels_last
from scalablevit.ops.window_attention.padding import pad_with_fill
from scalablevit.ops.windows import crop_to, window_partition, window_unpartition


def window_attention(
    qkv: Tensor,
    lim_weight: Tensor | None,
    lim_bias: Tensor | None,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    fill: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """`softmax(q k^T / sqrt(D)) v` inside each window of the padded map, plus LIM of all its values; cropped.

    Arguments as in `scalablevit.ops.window_attention.window_attention`.
    """
    _, height, width, C3 = qkv.shape
    C = C3 // 3
    qkv = pad_with_fill(qkv, fill, window_size)
    _, H, W, _ = qkv.shape
    q, k, v = (
        window_partition(x, window_size).unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B * n, h, L, D)
        for x in qkv.split(C, dim=-1)
    )
    scores = (q @ k.transpose(-2, -1)) * (C // num_heads) ** -0.5  # (B * n, h, L, L)
    attention = F.dropout(scores.softmax(dim=-1), dropout)
    out = (attention @ v).transpose(1, 2).flatten(2)  # (B * n, L, C)
    out = window_unpartition(out, window_size, H, W)  # (B, H, W, C)
    if lim_weight is not None:
        values = channels_first(qkv[..., 2 * C :])  # (B, C, H, W)
        out = out + channels_last(F.conv2d(values, lim_weight, lim_bias, padding=1, groups=C))
    return crop_to(out, height, width)
