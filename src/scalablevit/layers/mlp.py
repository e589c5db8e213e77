"""Feed-forward part of a block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.layers.plain import is_plain
from scalablevit.ops.recording import is_recorded


class Mlp(nn.Module):
    """Linear, exact (erf) GELU, Linear, token by token.

    Args:
        dim: channels in and out.
        hidden_dim: channels between.
        drop: dropout probability after either linear layer, in [0, 1).
    """

    def __init__(self, dim: int, hidden_dim: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        x = self.fc1(x)  # (..., hidden_dim), the largest tensor of a block
        if torch.jit.is_scripting():
            x = F.gelu(x)
        else:
            # Not doubled where nobody else holds it: gradients, a hook on fc1, or what stands in its place.
            is_ours = not torch.is_grad_enabled() and not is_recorded(x) and is_plain(self.fc1, nn.Linear)
            x = torch.ops.aten.gelu_(x) if is_ours else F.gelu(x)
        return self.drop(self.fc2(self.drop(x)))
