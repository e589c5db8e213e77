"""The definition of a LayerNorm with a linear layer behind it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def norm_linear(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor | None, *, eps: float
) -> Tensor:
    """`linear(norm(x))`, in the dtype of `weight`; arguments as in `scalablevit.ops.norm_linear.norm_linear`."""
    normalised = F.layer_norm(x, norm_weight.shape, norm_weight.to(x.dtype), norm_bias.to(x.dtype), eps)
    return F.linear(normalised.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))
