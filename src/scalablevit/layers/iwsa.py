"""Interactive Window-based Self-Attention (IWSA)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalablevit.layers.norm_linear import normalise_and_project
from scalablevit.layers.plain import is_plain, is_plain_convolution
from scalablevit.ops.choice import Choice, Implementation, check_implementation, warn_if_ignored
from scalablevit.ops.layer_choice import dtype_of_products
from scalablevit.ops.layout import channels_first, channels_last
from scalablevit.ops.recording import is_symbolic
from scalablevit.ops.window_attention import operators, select_implementation, whole_windows
from scalablevit.ops.windows import as_window, crop_to, pad_to_multiple

# torch.fx records these as they are: they read sizes, which it does not know.
torch.fx.wrap("pad_to_multiple")
torch.fx.wrap("crop_to")
torch.fx.wrap("whole_windows")


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
        self.dim = dim
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

    def choice(self, device: torch.device | None, dtype: torch.dtype | None, dropout: float = 0.0) -> Choice:
        """Choose the implementation for queries, keys and values of a device and dtype.

        Both are None while torch.fx records symbols that have neither.
        """
        return select_implementation(
            head_width=self.dim // self.num_heads,  # not of an input: no number while torch.jit traces
            window_size=self.window_size,
            device=device,
            dtype=dtype,
            dropout=dropout,
            implementation=self.implementation,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), for any H and W of at least 1."""
        if torch.jit.is_scripting():
            x = self._attend(x, "torch")
        else:
            x = self.attend(x)
        return self.proj_drop(self.proj(x))

    def attend(self, x: Tensor, *, norm: nn.Module | None = None, implementation: Implementation = "auto") -> Tensor:
        """Compute attention and LIM, as chosen for x: (B, H, W, C) -> (B, H, W, C), not projected.

        Args:
            x: map, (B, H, W, C).
            norm: what comes before `qkv`, if it has not been computed.
            implementation: of `norm` and `qkv` together, see `scalablevit.ops.norm_linear.norm_linear`.
        """
        dropout = self.attn_drop if self.training else 0.0
        device = None if is_symbolic(x) else x.device
        choice = self.choice(device, None if device is None else dtype_of_products(x), dropout)
        warn_if_ignored(self.implementation, choice, device)
        has_plain_lim = self.lim is None or is_plain_convolution(self.lim, kernel_size=3, is_depthwise=True)
        if choice.implementation == "triton" and has_plain_lim and is_plain(self.qkv, nn.Linear):
            weight, bias = (None, None) if self.lim is None else (self.lim.weight, self.lim.bias)
            # The kernel computes LIM too, and takes the bias of qkv for padded tokens: nothing is copied.
            return operators.window_attention(
                normalise_and_project(norm, self.qkv, x, implementation=implementation),
                weight,
                bias,
                self.qkv.bias,
                self.num_heads,
                *self.window_size,
            )
        return self._attend(x if norm is None else norm(x), choice.implementation)

    def _attend(self, x: Tensor, implementation: str) -> Tensor:  # `Resolved`, which torch.jit.script does not know
        """Compute attention and LIM step by step, calling every layer as a module."""
        _, H, W, _ = x.shape
        # Zeros are padded before qkv: one copy of x costs a third of one of qkv.
        qkv = self.qkv(pad_to_multiple(x, self.window_size))  # (B, Hp, Wp, 3C)
        x = whole_windows(
            qkv,
            num_heads=self.num_heads,
            window_size=self.window_size,
            dropout=self.attn_drop if self.training else 0.0,
            implementation=implementation,
        )  # (B, Hp, Wp, C)
        if self.lim is not None:
            lim = channels_last(self.lim(channels_first(qkv[..., 2 * self.dim :])))  # (B, Hp, Wp, C)
            if torch.jit.is_scripting():
                x = x + lim
            elif is_plain(self.lim, nn.Conv2d) and not is_symbolic(x):
                x = lim.add_(x)  # in place: the convolution's backward does not need its output
            else:
                x = x + lim
        return crop_to(x, H, W)
