"""The definition of a depthwise convolution of a (B, H, W, C) map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.layout import channels_first, channels_last


def depthwise_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, residual: bool = False
) -> Tensor:
    """PyTorch's convolution with as many groups as channels, plus `x` where `residual`.

    Arguments as in `scalablevit.ops.depthwise.depthwise_convolution`.
    """
    out = F.conv2d(channels_first(x), weight, bias, stride=stride, padding=padding, groups=x.shape[-1])
    return x + channels_last(out) if residual else channels_last(out)
