"""LayerNorm with a depthwise convolution of patches behind it in one Triton kernel: the normalised map is not written.

Each token belongs to one patch, so that nothing is normalised twice: a program loads whole patches, normalises their
tokens, multiplies them with the taps and sums. Of a map of M bytes it moves M, and the few results; two kernels move
3 M. All of it is in fp32.
"""

# A kernel's parameters have the types that a launch gives them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from scalablevit.ops.norm_depthwise.tiles import Tiles, tiles


@triton.jit(do_not_specialize=["H", "W", "rows", "columns", "patches"])
def _forward_kernel(
    out,  # (patches, C), contiguous
    x,  # (B, H, W, C), contiguous
    norm_weight,  # (C,)
    norm_bias,  # (C,)
    taps,  # (SIDE * SIDE, C), contiguous
    bias,  # (C,), or None
    H,
    W,
    rows,
    columns,
    patches,
    eps,
    C: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    patch = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    tap = tl.arange(0, BLOCK_T)
    channel = tl.arange(0, BLOCK_C)
    is_channel = (channel < C)[None, None, :]
    image = (patch // (rows * columns)).to(tl.int64)[:, None]
    y = (patch // columns % rows * SIDE)[:, None] + (tap // SIDE)[None, :]  # (patches, tokens)
    x_ = (patch % columns * SIDE)[:, None] + (tap % SIDE)[None, :]
    # A map smaller than a patch is continued by zeros.
    is_token = (patch < patches)[:, None] & (tap < SIDE * SIDE)[None, :] & (y < H) & (x_ < W)
    far = ((image * H + y) * W + x_) * C

    z = tl.load(x + far[:, :, None] + channel[None, None, :], mask=is_token[:, :, None] & is_channel, other=0.0).to(
        tl.float32
    )  # (patches, tokens, C)
    mean = tl.sum(z, axis=2) / C
    z = tl.where(is_channel, z - mean[:, :, None], 0.0)
    z *= tl.rsqrt(tl.sum(z * z, axis=2) / C + eps)[:, :, None]
    z *= tl.load(norm_weight + channel, mask=channel < C, other=0.0).to(tl.float32)[None, None, :]
    z += tl.load(norm_bias + channel, mask=channel < C, other=0.0).to(tl.float32)[None, None, :]
    w = tl.load(
        taps + tap[:, None] * C + channel[None, :],
        mask=(tap < SIDE * SIDE)[:, None] & (channel < C)[None, :],
        other=0.0,
    ).to(tl.float32)
    total = tl.sum(tl.where(is_token[:, :, None], z * w[None, :, :], 0.0), axis=1)  # (patches, C)
    if bias is not None:
        total += tl.load(bias + channel, mask=channel < C, other=0.0).to(tl.float32)[None, :]
    tl.store(
        out + patch.to(tl.int64)[:, None] * C + channel[None, :],
        total.to(out.dtype.element_ty),
        mask=(patch < patches)[:, None] & (channel < C)[None, :],
    )


def forward(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    *,
    side: int,
    eps: float,
    override: Tiles | None = None,
) -> Tensor:
    """Launch the kernel.

    Args:
        x: (B, H, W, C); not empty.
        norm_weight, norm_bias, eps: of the LayerNorm, (C,).
        taps: of the convolution, (side * side, C).
        bias: of the convolution, (C,), or None.
        side: rows and columns of a patch, in tokens.
        override: other tiles than `tiles` gives, for tuning.

    Returns:
        (B, H // side, W // side, C), at least one token, contiguous, in the dtype of `taps`.
    """
    x, (B, H, W, C) = x.contiguous(), x.shape
    rows, columns = max(H // side, 1), max(W // side, 1)
    patches, tile = B * rows * columns, override or tiles(C, side)
    out = taps.new_empty((B, rows, columns, C))
    with torch.cuda.device_of(x):
        _forward_kernel[(triton.cdiv(patches, tile.patches),)](
            out,
            x,
            norm_weight.contiguous(),
            norm_bias.contiguous(),
            taps.contiguous(),
            None if bias is None else bias.contiguous(),
            H,
            W,
            rows,
            columns,
            patches,
            eps,
            C=C,
            SIDE=side,
            BLOCK_P=tile.patches,
            BLOCK_T=tile.tokens,
            BLOCK_C=tile.channels,
            num_warps=tile.num_warps,
        )
    return out
