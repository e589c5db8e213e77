"""Classifier heads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

PUBLISHED_HIDDEN_DIM = 4096


class ClassifierHead(nn.Module):
    """Pooled features to logits.

    Args:
        dim: channels of the features.
        num_classes: K, at least 1.
        hidden_dim: None: one Linear. A number: Linear, LayerNorm, GELU, Linear, as the released classifiers have
            with 4096.
        drop: dropout probability before the first layer, in [0, 1).
    """

    def __init__(self, dim: int, num_classes: int, *, hidden_dim: int | None = None, drop: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop)
        self.hidden = None if hidden_dim is None else nn.Linear(dim, hidden_dim)
        if hidden_dim is not None:
            self.norm = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.fc = nn.Linear(hidden_dim or dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., num_classes)."""
        x = self.drop(x)
        if self.hidden is not None:
            x = F.gelu(self.norm(self.hidden(x)))
        return self.fc(x)
