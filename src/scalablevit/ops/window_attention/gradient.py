"""The gradient of interactive window attention written out, for where autograd cannot be asked: inside an operator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from scalablevit.ops.layout import channels_first, channels_last
from scalablevit.ops.window_attention.padding import pad_with_fill
from scalablevit.ops.window_attention.tiles import SUM_ROWS
from scalablevit.ops.windows import crop_to, pad_to_multiple, window_partition, window_unpartition


def backward(
    grad: Tensor,
    qkv: Tensor,
    lim_weight: Tensor | None,
    fill: Tensor | None,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    with_sums: bool,
) -> tuple[Tensor, Tensor]:
    """What `kernel.backward` gives, in plain maths of at least fp32; arguments and results are described there."""
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    _, H, W, C3 = qkv.shape
    C, scale = C3 // 3, (C3 // 3 // num_heads) ** -0.5
    padded = pad_with_fill(qkv, fill, window_size).to(dtype)  # (B, Hp, Wp, 3C)
    grad = pad_to_multiple(grad.to(dtype), window_size)  # (B, Hp, Wp, C)
    _, Hp, Wp, _ = grad.shape

    q, k, v, dout = (
        window_partition(x, window_size).unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B * n, h, L, D)
        for x in (*padded.split(C, dim=-1), grad)
    )
    p = (q @ k.mT * scale).softmax(-1)  # (B * n, h, L, L)
    dp = dout @ v.mT
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
    dqkv = torch.cat([x.transpose(1, 2).flatten(2) for x in (ds @ k, ds.mT @ q, p.mT @ dout)], dim=-1)
    dqkv = window_unpartition(dqkv, window_size, Hp, Wp)  # (B, Hp, Wp, 3C)

    sums = dqkv.new_zeros((SUM_ROWS, C) if with_sums else 0)
    if lim_weight is not None:
        values, dlim = channels_first(padded[..., 2 * C :]), channels_first(grad)
        weight = lim_weight.to(dtype)
        dqkv[..., 2 * C :] += channels_last(F.conv_transpose2d(dlim, weight, padding=1, groups=C))
        if with_sums:
            sums[:9] = conv2d_weight(values, weight.shape, dlim, padding=1, groups=C).view(C, 9).t()
            sums[9] = grad.sum((0, 1, 2))
    if with_sums and fill is not None:
        outside = torch.ones(Hp, Wp, dtype=torch.bool, device=qkv.device)
        outside[:H, :W] = False
        sums[10:] = dqkv[:, outside, C:].sum((0, 1)).view(2, C)
    return crop_to(dqkv, H, W).to(qkv.dtype).contiguous(), sums.float()
