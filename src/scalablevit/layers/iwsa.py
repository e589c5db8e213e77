"""Interactive Window-based Self-Attention (IWSA)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalablevit.ops.choice import Choice, Implementation, check_implementation, warn_if_ignored
from scalablevit.ops.window_attention import fused, why, window_attention
from scalablevit.ops.windows import as_window, crop_to, pad_to_multiple


class InteractiveWindowSelfAttention(nn.Module):
    """Attention inside windows, which a Local Interactive Module (LIM) lets talk to each other.

    The map is zero-padded to whole windows before `qkv`, so padded tokens carry the bias and take part, unmasked,
    as in the published code; our kernel gives the same without the padding. LIM is a 3x3 depthwise convolution over
    the whole re-merged value map, added before the output projection.

    Args:
        dim: channels, a multiple of `num_heads`.
        num_heads: attention heads, at least 1.
        window_size: side of a window in tokens, or (rows, columns); at least 1.
        qkv_bias: give queries, keys and values a bias.
        lim: have LIM; without it this is plain window attention.
        attn_drop: dropout probability of the attention weights, in [0, 1).
        proj_drop: dropout probability after the output projection, in [0, 1).
        implementation: of the attention: "auto", "triton", "torch" or "reference"; see
            `scalablevit.ops.window_attention.window_attention`. Weights are the same for all.

    Raises:
        ValueError: `num_heads` does not divide `dim`, the window is empty, or `implementation` is unknown.

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
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.set_window_size(window_size)
        self.attn_drop = attn_drop
        self.implementation = check_implementation(implementation)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.lim = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if lim else None
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def set_window_size(self, window_size: int | tuple[int, int]) -> None:
        """Change the windows, in tokens; no weight depends on them."""
        self.window_size = as_window(window_size)

    def choice(self, device: torch.device, dtype: torch.dtype, dropout: float = 0.0) -> Choice:
        """How its attention computes on queries, keys and values of a device and dtype, and why."""
        return why(
            head_width=self.proj.in_features // self.num_heads,  # not of an input: no number while torch.jit traces
            window_size=self.window_size,
            device=device,
            dtype=dtype,
            dropout=dropout,
            implementation=self.implementation,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), for any H and W of at least 1."""
        _, H, W, _ = x.shape
        weight, bias = (None, None) if self.lim is None else (self.lim.weight, self.lim.bias)
        dropout = self.attn_drop if self.training else 0.0
        choice = self.choice(x.device, _dtype_of_products(x), dropout)
        if choice.implementation == "torch":
            warn_if_ignored(self.implementation, choice, x.device)
            # Zeros are padded before qkv: one copy of x costs a third of one of qkv.
            qkv = self.qkv(pad_to_multiple(x, self.window_size))  # (B, Hp, Wp, 3C)
            x = fused.whole_windows(
                qkv, weight, bias, num_heads=self.num_heads, window_size=self.window_size, dropout=dropout
            )
            x = crop_to(x, H, W)
        else:
            x = window_attention(
                self.qkv(x),  # (B, H, W, 3C)
                weight,
                bias,
                num_heads=self.num_heads,
                window_size=self.window_size,
                fill=self.qkv.bias,
                dropout=dropout,
                implementation=self.implementation,
            )
        return self.proj_drop(self.proj(x))


def _dtype_of_products(x: Tensor) -> torch.dtype:
    """Of what a linear layer makes of x: autocast's, where it is on."""
    device = x.device.type
    # Asked only where a kernel may run: the meta device knows no autocast, and torch raises.
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype
