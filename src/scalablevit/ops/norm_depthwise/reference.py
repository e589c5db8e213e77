"""The definition of a LayerNorm with a depthwise convolution behind it that cuts the map into patches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.layout import channels_first, channels_last
from scalablevit.ops.windows import pad_to_least


def norm_depthwise(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float
) -> Tensor:
    """`conv(norm(x))`, in the dtype of `weight`; arguments as in `scalablevit.ops.norm_depthwise.norm_depthwise`."""
    C, _, side, _ = weight.shape
    normalised = F.layer_norm(x, norm_weight.shape, norm_weight.to(x.dtype), norm_bias.to(x.dtype), eps)
    normalised = channels_first(pad_to_least(normalised.to(weight.dtype), side))  # (B, C, H, W)
    small = None if bias is None else bias.to(weight.dtype)
    return channels_last(F.conv2d(normalised, weight, small, stride=side, groups=C))
