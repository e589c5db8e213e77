"""Scalable Self-Attention (SSA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.layers.convolution import convolve
from scalablevit.layers.norm_reduce import normalise_project_and_reduce
from scalablevit.layers.plain import is_plain_convolution
from scalablevit.ops.choice import Choice, Implementation, check_implementation
from scalablevit.ops.layout import channels_first, channels_last
from scalablevit.ops.recording import is_symbolic
from scalablevit.ops.reduced_attention import fused, reduced_attention, select_implementation
from scalablevit.ops.windows import pad_to_least

# torch.fx records these as they are: they read sizes and devices, which it does not know.
torch.fx.wrap("pad_to_least")
torch.fx.wrap("reduced_attention")


class ScalableSelfAttention(nn.Module):
    """Global attention whose keys and values shrink in space and whose queries and keys scale in width.

    With `reduction` R above 1 keys and values share a trunk: depthwise RxR convolution of stride R (trailing rows and
    columns that do not fill a patch are dropped; maps smaller than R are zero-padded up to it), 1x1 convolution to
    C' = int(dim * channel_ratio), LayerNorm, GELU. With R = 1 it is plain attention.

    Args:
        dim: channels C, a multiple of `num_heads`.
        num_heads: attention heads h, at least 1; divides C' too.
        reduction: R, at least 1; the spatial scaling factor r_n is 1 / R^2.
        channel_ratio: r_c, above 0.
        scale_value: False: values and output have dim channels, as in the released classifiers. True: values have
            C' channels, and one `kv` makes keys and values, as in the published dense-task figures of S.
        qkv_bias: give queries, keys and values a bias.
        attn_drop: dropout probability of the attention weights, in [0, 1).
        proj_drop: dropout probability after the output projection, in [0, 1).
        implementation: of the attention, see `scalablevit.ops.reduced_attention.reduced_attention`.

    Raises:
        ValueError: the heads do not divide the widths, `reduction` or `channel_ratio` is too small, or there is no such
            implementation.

    Source: ScalableViT, arXiv:2203.10790, section 3.2, equations 1 to 3.
    """

    # Attributes that torch.jit.script may take for constants, so that it leaves out the branch without its layers.
    __constants__ = ("fused_kv", "has_trunk")

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        reduction: int = 1,
        channel_ratio: float = 1.0,
        scale_value: bool = False,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        width = int(dim * channel_ratio)
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {reduction}")
        if width < 1 or dim % num_heads or width % num_heads:
            raise ValueError(
                f"num_heads {num_heads} must divide dim {dim} and int(dim * channel_ratio) = {width}; "
                f"change num_heads or channel_ratio {channel_ratio}"
            )
        self.num_heads = num_heads
        self.reduction = reduction
        self.scale = (dim / num_heads * channel_ratio) ** -0.5
        self.attn_drop = attn_drop
        self.implementation = check_implementation(implementation)
        self.reduce_implementation: Implementation = "auto"
        self.value_dim = width if scale_value else dim
        self.key_dim = width
        self.q = nn.Linear(dim, width, bias=qkv_bias)
        self.has_trunk = reduction > 1
        if self.has_trunk:
            self.reduce = nn.Conv2d(dim, dim, reduction, stride=reduction, groups=dim)
            self.expand = nn.Conv2d(dim, width, 1)
            self.norm = nn.LayerNorm(width, eps=1e-5)
        source = width if self.has_trunk else dim
        # The parameters keep the shape of the form they were published in: one matrix or two.
        self.fused_kv = scale_value or reduction == 1
        if self.fused_kv:
            self.kv = nn.Linear(source, width + self.value_dim, bias=qkv_bias)
        else:
            self.k = nn.Linear(source, width, bias=qkv_bias)
            self.v = nn.Linear(source, self.value_dim, bias=qkv_bias)
        self.proj = nn.Linear(self.value_dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def choice(self, device: torch.device, dtype: torch.dtype, dropout: float = 0.0) -> Choice:
        """Choose the implementation for queries, keys and values of a device and dtype."""
        return select_implementation(
            key_width=self.key_dim // self.num_heads,
            value_width=self.value_dim // self.num_heads,
            device=device,
            dtype=dtype,
            dropout=dropout,
            implementation=self.implementation,
        )

    def reduced(self, x: Tensor) -> Tensor:
        """Compute the input of keys and values: (B, H, W, C) -> (B, H // R, W // R, C'), at least one token."""
        if self.has_trunk:
            x = channels_first(pad_to_least(x, self.reduction))  # (B, C, H, W)
            x = F.gelu(self.norm(self._expanded(x)))  # (B, H // R, W // R, C')
        return x

    def _expanded(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H // R, W // R, C')."""
        if torch.jit.is_scripting():
            x = channels_last(self.expand(self.reduce(x)))
        elif is_plain_convolution(self.expand, kernel_size=1, is_depthwise=False) and not is_symbolic(x):
            # A 1x1 convolution is a Linear, and as such takes no detour over the convolution's layouts.
            x = convolve(self.reduce, x, implementation=self.reduce_implementation)  # (B, H // R, W // R, C)
            x = _multiplied(self.expand, x)
        else:
            x = channels_last(self.expand(self.reduce(x)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), for any H and W of at least 1."""
        if torch.jit.is_scripting():
            x = self._attend(self.q(x), self.reduced(x))
        else:
            x = self.attend(x)
        return self.proj_drop(self.proj(x))

    def attend(self, x: Tensor, *, norm: nn.Module | None = None, implementation: Implementation = "auto") -> Tensor:
        """Compute the attention: (B, H, W, C) -> (B, H, W, width of the values), not projected.

        Args:
            x: map, (B, H, W, C).
            norm: what comes before queries and keys, if it has not been computed.
            implementation: of `norm` with what reads its output, see `scalablevit.ops.norm_depthwise`.
        """
        found = None
        is_open = self.has_trunk and self.reduce_implementation in ("auto", "triton")
        if is_open and is_plain_convolution(self.expand, kernel_size=1, is_depthwise=False) and not is_symbolic(x):
            found = normalise_project_and_reduce(norm, self.q, self.reduce, x, implementation=implementation)
        if found is None:
            x = x if norm is None else norm(x)
            return self._attend(self.q(x), self.reduced(x))
        q, x = found  # (B, H, W, C'), (B, H // R, W // R, C)
        return self._attend(q, F.gelu(self.norm(_multiplied(self.expand, x))))

    def _attend(self, q: Tensor, source: Tensor) -> Tensor:
        """Attend from queries, (B, H, W, C'), to keys and values of what was reduced, (B, H // R, W // R, C')."""
        _, H, W, _ = q.shape
        source = source.flatten(1, 2)  # (B, M, C')
        if self.fused_kv:
            k, v = self.kv(source).split([self.key_dim, self.value_dim], dim=-1)
        else:
            k, v = self.k(source), self.v(source)
        q = q.flatten(1, 2)  # (B, N, C')
        dropout = self.attn_drop if self.training else 0.0
        if torch.jit.is_scripting():
            x = fused.reduced_attention(q, k, v, num_heads=self.num_heads, scale=self.scale, dropout=dropout)
        else:
            x = reduced_attention(
                q,
                k,
                v,
                num_heads=self.num_heads,
                scale=self.scale,
                dropout=dropout,
                implementation=self.implementation,
            )
        return x.unflatten(1, (H, W))


def _multiplied(conv: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution of (B, H, W, C) as the Linear that it is."""
    assert isinstance(conv, nn.Conv2d)
    return F.linear(x, conv.weight.flatten(1), conv.bias)
