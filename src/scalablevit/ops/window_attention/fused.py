"""Interactive window attention on PyTorch's fused attention; one copy in, one copy out."""

from __future__ import annotations

import torch
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
    """Same result as `reference.window_attention`, without materialised scores."""
    _, H, W, _ = qkv.shape
    out = whole_windows(
        pad_with_fill(qkv, fill, window_size),
        lim_weight,
        lim_bias,
        num_heads=num_heads,
        window_size=window_size,
        dropout=dropout,
    )
    return crop_to(out, H, W)


def whole_windows(
    qkv: Tensor,
    lim_weight: Tensor | None,
    lim_bias: Tensor | None,
    num_heads: int,  # not keyword-only: torch.jit.script wants it so beside defaults
    window_size: tuple[int, int],
    dropout: float = 0.0,
) -> Tensor:
    """The same of a map whose H and W are multiples of the window's sides: nothing is padded, nothing cropped."""
    B, H, W, C3 = qkv.shape
    C, (rows, columns) = C3 // 3, window_size
    # Eager on a CPU it pays to copy whole rows of a window at once, and to let the kernel read heads where they
    # lie. Traced, that copy would guard in torch.export on whether there is but one window.
    if qkv.is_cpu and not torch.compiler.is_compiling():
        x = window_partition(qkv, window_size)  # (B * n, L, 3C)
        q, k, v = x.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # each (B * n, h, L, D)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2)  # (B * n, L, h, D)
        out = window_unpartition(out.flatten(2), window_size, H, W)  # (B, H, W, C)
    else:
        nh, nw, D = H // rows, W // columns, C // num_heads
        x = qkv.view(B, nh, rows, nw, columns, 3, num_heads, D).permute(5, 0, 1, 3, 6, 2, 4, 7)
        # Heads count as windows, so that the batch dimension of the fused kernel stays B: CUDA limits it to
        # 65,535.
        x = x.reshape(3, B, nh * nw * num_heads, rows * columns, D)
        q, k, v = x.unbind(0)  # each (B, n * h, L, D)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # (B, n * h, L, D)
        out = out.view(B, nh, nw, num_heads, rows, columns, D).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(B, H, W, C)
    if lim_weight is None:
        return out
    values = channels_first(qkv[..., 2 * C :])  # (B, C, H, W)
    lim = channels_last(F.conv2d(values, lim_weight, lim_bias, padding=1, groups=C))  # (B, H, W, C)
    return lim.add_(out)  # in place: the convolution's backward does not need its output
