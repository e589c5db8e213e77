"""Feed-forward part of a block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        x = self.fc1(x)  # (..., hidden_dim), the largest tensor of a block: without gradients it is not doubled
        # A hook on fc1 may keep what it saw, and a traced graph serves with gradients as well as without.
        is_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
        in_place = not (torch.is_grad_enabled() or is_graph or self.fc1._forward_hooks)
        x = torch.ops.aten.gelu_(x) if in_place else F.gelu(x)
        return self.drop(self.fc2(self.drop(x)))
