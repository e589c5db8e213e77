"""A transformer block."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import StochasticDepth


class Block(nn.Module):
    """Pre-norm residual block: attention, then MLP.

    Args:
        dim: channels.
        attn: module that maps (B, H, W, C) to (B, H, W, C): IWSA or SSA.
        mlp: module that maps (B, H, W, C) to (B, H, W, C).
        drop_path: probability that a sample skips either branch while training, in [0, 1).

    Source: ScalableViT, arXiv:2203.10790, figure 3.
    """

    def __init__(self, dim: int, *, attn: nn.Module, mlp: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
