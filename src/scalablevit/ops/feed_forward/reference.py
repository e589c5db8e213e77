"""The definition of the feed-forward half of a block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalablevit.ops.feed_forward.weights import Weights


def feed_forward(
    x: Tensor,
    branch: Tensor | None,
    weights: Weights,
    *,
    eps: float,
    branch_scale: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """`y + scale * fc2(gelu(fc1(norm(y))))` of `y = x + branch_scale * proj(branch)`.

    Arguments as in `scalablevit.ops.feed_forward.feed_forward`.
    """
    norm_weight, norm_bias, weight_1, bias_1, weight_2, bias_2, proj_weight, proj_bias = weights
    dtype, factors = x.dtype, (x.shape[0], *[1] * (x.dim() - 1))
    if branch is not None and proj_weight is not None:
        branch = F.linear(branch, proj_weight, None if proj_bias is None else proj_bias.to(proj_weight.dtype))
    if branch is not None:
        x = x + (branch if branch_scale is None else branch * branch_scale.view(factors).to(branch.dtype))
    normalised = F.layer_norm(x, norm_weight.shape, norm_weight.to(x.dtype), norm_bias.to(x.dtype), eps)
    hidden = F.gelu(F.linear(normalised.to(weight_1.dtype), weight_1, bias_1.to(weight_1.dtype)))
    out = F.linear(hidden, weight_2, bias_2.to(weight_2.dtype))
    return (x + (out if scale is None else out * scale.view(factors).to(out.dtype))).to(dtype)
