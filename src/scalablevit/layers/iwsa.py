"""Interactive Window-based Self-Attention (IWSA)."""

from __future__ import annotations

from torch import Tensor, nn

from scalablevit.ops.window_attention import window_attention
from scalablevit.ops.windows import as_window, crop_to, pad_to_multiple


class InteractiveWindowSelfAttention(nn.Module):
    """Attention inside windows, which a Local Interactive Module (LIM) lets talk to each other.

    The map is zero-padded to whole windows before `qkv`, so padded tokens carry the bias and take part, unmasked,
    as in the published code. LIM is a 3x3 depthwise convolution over the whole re-merged value map, added before
    the output projection.

    Args:
        dim: channels, a multiple of `num_heads`.
        num_heads: attention heads, at least 1.
        window_size: side of a window in tokens, or (rows, columns); at least 1.
        qkv_bias: give queries, keys and values a bias.
        lim: have LIM; without it this is plain window attention.
        attn_drop: dropout probability of the attention weights, in [0, 1).
        proj_drop: dropout probability after the output projection, in [0, 1).

    Raises:
        ValueError: `num_heads` does not divide `dim`, or the window is empty.

    Source: ScalableViT, arXiv:2203.10790, section 3.3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window_size: int | tuple[int, int] = 7,
        qkv_bias: bool = True,
        lim: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.set_window_size(window_size)
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.lim = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if lim else None
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def set_window_size(self, window_size: int | tuple[int, int]) -> None:
        """Change the windows, in tokens; no weight depends on them."""
        self.window_size = as_window(window_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), for any H and W of at least 1."""
        _, H, W, _ = x.shape
        qkv = self.qkv(pad_to_multiple(x, self.window_size))  # (B, Hp, Wp, 3C)
        x = window_attention(
            qkv,
            None if self.lim is None else self.lim.weight,
            None if self.lim is None else self.lim.bias,
            num_heads=self.num_heads,
            window_size=self.window_size,
            dropout=self.attn_drop if self.training else 0.0,
        )
        return self.proj_drop(self.proj(crop_to(x, H, W)))
