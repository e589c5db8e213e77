"""The network in the style of published code: `scalablevit bench` times ours against it, tests compare outputs.

Tokens are (B, N, C), with H and W passed along. Every convolution and every window partition stands between two
transposes with a copy, maps are always padded, and attention is `softmax(q k^T) v` with materialised scores.
Parameters have our names, so one state dict fits both. There is no dropout and no drop path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.backbone import VARIANTS

WINDOW = 7


def tokens_to_map(x: Tensor, height: int, width: int) -> Tensor:
    """(B, N, C) -> (B, C, H, W), contiguous."""
    B, _, C = x.shape
    return x.transpose(1, 2).contiguous().view(B, C, height, width)


def map_to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, N, C), contiguous."""
    return x.flatten(2).transpose(1, 2).contiguous()


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`softmax(scale * q k^T) v`, step by step; (..., N, D), (..., M, D) and (..., M, Dv) -> (..., N, Dv)."""
    scores = (q @ k.transpose(-2, -1)) * scale  # (..., N, M)
    return scores.softmax(dim=-1) @ v


class PlainPatchEmbed(nn.Module):
    """(B, C_in, H, W) -> tokens (B, N, C), and their height and width."""

    def __init__(self, in_chans: int, dim: int, *, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride=stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        return self.norm(map_to_tokens(x)), x.shape[2], x.shape[3]


class PlainPEG(nn.Module):
    """`x + depthwise3x3(x)`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return x + map_to_tokens(self.conv(tokens_to_map(x, height, width)))


class PlainIWSA(nn.Module):
    """Window attention, and LIM over the re-merged values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.lim = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        B, _, C = x.shape
        h, D = self.num_heads, C // self.num_heads
        x = F.pad(x.view(B, height, width, C), (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        _, Hp, Wp, _ = x.shape
        nh, nw = Hp // WINDOW, Wp // WINDOW
        x = x.view(B, nh, WINDOW, nw, WINDOW, C).transpose(2, 3).contiguous()
        x = x.view(B, nh * nw, WINDOW * WINDOW, C)
        qkv = self.qkv(x).reshape(B, nh * nw, WINDOW * WINDOW, 3, h, D)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each (B, n, h, L, D)
        out = self.to_map(attend(q, k, v, self.scale), nh, nw)  # (B, C, Hp, Wp)
        out = out + self.lim(self.to_map(v, nh, nw))
        out = out[:, :, :height, :width]
        return self.proj(map_to_tokens(out))

    @staticmethod
    def to_map(x: Tensor, nh: int, nw: int) -> Tensor:
        """Windows by head (B, n, h, L, D) -> (B, C, Hp, Wp), contiguous."""
        B, _, h, _, D = x.shape
        x = x.unflatten(3, (WINDOW, WINDOW)).unflatten(1, (nh, nw))  # (B, nh, nw, h, rows, columns, D)
        x = x.permute(0, 3, 6, 1, 4, 2, 5).contiguous()  # (B, h, D, nh, rows, nw, columns)
        return x.view(B, h * D, nh * WINDOW, nw * WINDOW)


class PlainSSA(nn.Module):
    """Attention to spatially reduced keys, in the released or the scaled-value form."""

    def __init__(self, dim: int, num_heads: int, *, reduction: int, channel_ratio: float, scale_value: bool) -> None:
        super().__init__()
        width = int(dim * channel_ratio)
        self.num_heads, self.reduction, self.width = num_heads, reduction, width
        self.scale = (dim / num_heads * channel_ratio) ** -0.5
        self.q = nn.Linear(dim, width)
        if reduction > 1:
            self.reduce = nn.Conv2d(dim, dim, reduction, stride=reduction, groups=dim)
            self.expand = nn.Conv2d(dim, width, 1)
            self.norm = nn.LayerNorm(width, eps=1e-5)
        source, value_dim = (width if reduction > 1 else dim), (width if scale_value else dim)
        if reduction == 1 or scale_value:
            self.kv = nn.Linear(source, width + value_dim)
        else:
            self.k = nn.Linear(source, width)
            self.v = nn.Linear(source, value_dim)
        self.proj = nn.Linear(value_dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        B, N, _ = x.shape
        q = self.by_head(self.q(x))  # (B, h, N, D)
        if self.reduction > 1:
            x = tokens_to_map(x, height, width)
            x = F.pad(x, (0, max(self.reduction - width, 0), 0, max(self.reduction - height, 0)))
            x = map_to_tokens(self.expand(self.reduce(x)))  # (B, M, C')
            x = F.gelu(self.norm(x))
        if hasattr(self, "kv"):
            kv = self.kv(x)
            k, v = kv[..., : self.width], kv[..., self.width :]
        else:
            k, v = self.k(x), self.v(x)
        x = attend(q, self.by_head(k), self.by_head(v), self.scale)  # (B, h, N, Dv)
        return self.proj(x.transpose(1, 2).reshape(B, N, -1))

    def by_head(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, h, N, D)."""
        B, N, _ = x.shape
        return x.reshape(B, N, self.num_heads, -1).permute(0, 2, 1, 3)


class PlainMlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PlainBlock(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, dim: int, attn: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = PlainMlp(dim, 4 * dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.attn(self.norm1(x), height, width)
        return x + self.mlp(self.norm2(x))


class PlainStage(nn.Module):
    """Patch embedding, blocks that alternate IWSA and SSA, PEG after the first."""

    def __init__(
        self,
        in_chans: int,
        dim: int,
        *,
        first: bool,
        num_heads: int,
        depth: int,
        reduction: int,
        channel_ratio: float,
        scale_value: bool,
    ) -> None:
        super().__init__()
        self.patch_embed = PlainPatchEmbed(in_chans, dim, kernel_size=7 if first else 3, stride=4 if first else 2)
        self.blocks = nn.ModuleList()
        for i in range(depth):
            attn: nn.Module = PlainIWSA(dim, num_heads)
            if i % 2:
                attn = PlainSSA(
                    dim, num_heads, reduction=reduction, channel_ratio=channel_ratio, scale_value=scale_value
                )
            self.blocks.append(PlainBlock(dim, attn))
        self.peg = PlainPEG(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H', W'), contiguous."""
        x, height, width = self.patch_embed(x)
        for i, block in enumerate(self.blocks):
            x = block(x, height, width)
            if i == 0:
                x = self.peg(x, height, width)
        return tokens_to_map(x, height, width)


class PlainHead(nn.Module):
    """The published head, or a single Linear."""

    def __init__(self, dim: int, num_classes: int, hidden_dim: int | None) -> None:
        super().__init__()
        if hidden_dim is not None:
            self.hidden = nn.Linear(dim, hidden_dim)
            self.norm = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.fc = nn.Linear(hidden_dim or dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "hidden"):
            x = F.gelu(self.norm(self.hidden(x)))
        return self.fc(x)


class PlainScalableViT(nn.Module):
    """Classifier with the parameters of `scalablevit.ScalableViT` under the same names.

    Args:
        variant: a name in `scalablevit.backbone.VARIANTS`.
        num_classes: K, at least 1.
        scale_value: use SSA's scaled-value form.
    """

    def __init__(self, variant: str, *, num_classes: int = 1000, scale_value: bool = False) -> None:
        super().__init__()
        numbers: dict[str, Any] = VARIANTS[variant]
        dims: Sequence[int] = numbers["embed_dims"]
        self.stages = nn.ModuleList(
            PlainStage(
                dims[i - 1] if i else 3,
                dim,
                first=i == 0,
                num_heads=numbers["num_heads"][i],
                depth=numbers["depths"][i],
                reduction=(8, 4, 2, 1)[i],
                channel_ratio=numbers["channel_ratios"][i],
                scale_value=scale_value,
            )
            for i, dim in enumerate(dims)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = PlainHead(dims[-1], num_classes, None if numbers.get("head") == "plain" else 4096)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, K)."""
        for stage in self.stages:
            x = stage(x)
        x = self.norm(map_to_tokens(x))  # (B, N, C)
        return self.head(torch.mean(x, dim=1))
