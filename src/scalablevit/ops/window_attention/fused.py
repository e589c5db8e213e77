"""Interactive window attention on PyTorch's fused attention; one copy in, one pass out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.layout import channels_first, channels_last
from scalablevit.ops.windows import window_partition


def window_attention(
    qkv: Tensor,
    lim_weight: Tensor | None,
    lim_bias: Tensor | None,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    dropout: float = 0.0,
) -> Tensor:
    """Same result as `reference.window_attention`, without materialised scores."""
    B, H, W, C3 = qkv.shape
    C, (rows, columns) = C3 // 3, window_size
    nh, nw = H // rows, W // columns
    if qkv.is_cpu:  # whole rows of a window are copied at once, and the kernel reads heads where they lie
        x = window_partition(qkv, window_size)  # (B * n, L, 3C)
        q, k, v = x.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B * n, h, L, D)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2)  # (B * n, L, h, D)
        out = out.reshape(B, nh, nw, rows, columns, C).transpose(2, 3)  # (B, nh, rows, nw, columns, C)
    else:
        x = qkv.view(B, nh, rows, nw, columns, 3, num_heads, C // num_heads)
        # Heads count as windows, so that the batch dimension of the fused kernel stays B: CUDA limits it to 65,535.
        x = x.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, B, nh * nw * num_heads, rows * columns, C // num_heads)
        q, k, v = x.unbind(0)  # each (B, n * h, L, D)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # (B, n * h, L, D)
        out = out.view(B, nh, nw, num_heads, rows, columns, C // num_heads)
        out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(B, nh, rows, nw, columns, C)
    if lim_weight is None:
        return out.reshape(B, H, W, C)
    values = channels_first(qkv[..., 2 * C :])  # (B, C, H, W)
    lim = channels_last(F.conv2d(values, lim_weight, lim_bias, padding=1, groups=C))  # (B, H, W, C)
    lim.view(B, nh, rows, nw, columns, C).add_(out)  # the convolution's backward does not need its output
    return lim
