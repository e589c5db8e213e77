"""The weights of the feed-forward half of a block."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Weights(NamedTuple):
    """What LayerNorm, MLP and, where it is computed here too, the attention's projection multiply and add.

    Attributes:
        norm_weight, norm_bias: of the LayerNorm, (C,).
        weight_1, bias_1: of fc1, (hidden, C) and (hidden,).
        weight_2, bias_2: of fc2, (C, hidden) and (C,). Products are in the dtype of `weight_1`.
        proj_weight, proj_bias: of the attention's projection, (C, width) and (C,); None where it has been applied.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    weight_1: Tensor
    bias_1: Tensor
    weight_2: Tensor
    bias_2: Tensor
    proj_weight: Tensor | None = None
    proj_bias: Tensor | None = None
