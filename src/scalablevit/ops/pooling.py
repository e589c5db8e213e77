"""Average pooling to a fixed number of rows and columns, in a form that any runtime can run at any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.recording import is_exporting


def adaptive_average_pool(x: Tensor, size: int) -> Tensor:
    """Average a feature map to `size` rows and columns.

    Same result as `torch.nn.functional.adaptive_avg_pool2d`. ONNX has no such operator, and exporters write down the
    bins of the size they saw: exported graphs pool by matrices instead, which are made of the size they meet.

    Args:
        x: feature map, (B, C, H, W).
        size: rows and columns of the result; at least 1.

    Returns:
        (B, C, size, size).
    """
    if torch.jit.is_scripting():
        pooled = F.adaptive_avg_pool2d(x, size)
    elif is_exporting() or torch.onnx.is_in_onnx_export():
        rows, columns = (bins(x, length, size) for length in x.shape[2:])  # (size, H), (size, W)
        pooled = rows @ x @ columns.t()
    else:
        pooled = F.adaptive_avg_pool2d(x, size)
    return pooled


def bins(x: Tensor, length: int, size: int) -> Tensor:
    """Build the matrix (size, length) that averages `length` positions to `size` bins, in the dtype of `x`.

    Bin i covers the positions from floor(i * length / size) up to, not including, ceil((i + 1) * length / size).
    """
    bin_index = torch.arange(size, device=x.device)[:, None]  # (size, 1)
    position = torch.arange(length, device=x.device)[None]  # (1, length)
    # The two roundings, multiplied out: whole numbers only.
    is_inside = (bin_index * length < (position + 1) * size) & (position * size < (bin_index + 1) * length)
    members = is_inside.to(x.dtype)
    return members / members.sum(1, keepdim=True)
