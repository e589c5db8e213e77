"""What follows a block's attention in one Triton kernel: projection, sum, LayerNorm, Linear, GELU, Linear, residual.

A program owns some tokens. It adds the attention's branch, projected first where its projection is handed over, to
their residual stream, normalises them, and walks through the hidden channels block by block: a block of fc1's outputs
goes through GELU and straight into fc2's sums, so that the hidden map, four times as wide as the others, never reaches
memory. Weights come from the L2 cache. The stream waits for the last sum in the memory of the result, that is in a
cache, as registers are what a program is short of.

What it moves, of a map of M bytes: 3 M (stream, branch, result) where PyTorch moves about 26 M. Sums, normalisation
and GELU are in fp32; normalised tokens and hidden channels are rounded for the tensor cores, as PyTorch rounds them.
"""

# A kernel's parameters have the types that a launch gives them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from scalablevit.ops.feed_forward.programs import residual_stream
from scalablevit.ops.feed_forward.tiles import Tiles, tiles
from scalablevit.ops.feed_forward.weights import Weights


@triton.jit(do_not_specialize=["tokens", "tokens_of_image"])
def _forward_kernel(
    out,  # (tokens, C), contiguous
    x,  # (tokens, C), contiguous
    branch,  # (tokens, C), or (tokens, WIDTH) where it is to be projected, contiguous; or None
    weight_0,  # (C, WIDTH), contiguous, or None
    bias_0,  # (C,), or None
    branch_scale,  # (images,), or None
    norm_weight,  # (C,)
    norm_bias,  # (C,)
    weight_1,  # (HIDDEN, C), contiguous
    bias_1,  # (HIDDEN,)
    weight_2,  # (C, HIDDEN), contiguous
    bias_2,  # (C,)
    scale,  # (images,), or None
    tokens,
    tokens_of_image,
    eps,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.arange(0, BLOCK_C)
    is_token = token < tokens
    is_channel = channel < C
    mask = is_token[:, None] & is_channel[None, :]
    image = tl.where(is_token, token // tokens_of_image, 0)

    offset = token.to(tl.int64)[:, None] * C + channel[None, :]
    found = residual_stream(
        x,
        branch,
        weight_0,
        bias_0,
        branch_scale,
        token,
        is_token,
        image,
        channel,
        is_channel,
        C,
        WIDTH,
        BLOCK_T,
        BLOCK_C,
        BLOCK_H,
    )
    tl.store(out + offset, found.to(out.dtype.element_ty), mask=mask)
    tl.debug_barrier()  # other threads of the program read it below

    mean = tl.sum(found, axis=1) / C
    found = tl.where(is_channel[None, :], found - mean[:, None], 0.0)
    found *= tl.rsqrt(tl.sum(found * found, axis=1) / C + eps)[:, None]
    found *= tl.load(norm_weight + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    found += tl.load(norm_bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    normalised = found.to(weight_1.dtype.element_ty)

    total = tl.zeros([BLOCK_T, BLOCK_C], dtype=tl.float32)
    for first in range(0, HIDDEN, BLOCK_H):
        hidden = first + tl.arange(0, BLOCK_H)
        is_hidden = hidden < HIDDEN
        w1 = tl.load(
            weight_1 + hidden[None, :] * C + channel[:, None],
            mask=is_channel[:, None] & is_hidden[None, :],
            other=0.0,
        )  # (C, hidden)
        inner = tl.dot(normalised, w1, input_precision="ieee")
        inner += tl.load(bias_1 + hidden, mask=is_hidden, other=0.0).to(tl.float32)[None, :]
        inner = 0.5 * inner * (1.0 + tl.erf(inner * 0.7071067811865476))
        w2 = tl.load(
            weight_2 + channel[None, :] * HIDDEN + hidden[:, None],
            mask=is_hidden[:, None] & is_channel[None, :],
            other=0.0,
        )  # (hidden, C)
        total = tl.dot(inner.to(w2.dtype), w2, total, input_precision="ieee")

    total += tl.load(bias_2 + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    if scale is not None:
        total *= tl.load(scale + image).to(tl.float32)[:, None]
    total += tl.load(out + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + offset, total.to(out.dtype.element_ty), mask=mask)


def forward(
    x: Tensor,
    branch: Tensor | None,
    weights: Weights,
    *,
    eps: float,
    branch_scale: Tensor | None = None,
    scale: Tensor | None = None,
    override: Tiles | None = None,
) -> Tensor:
    """Launch the kernel.

    Args:
        x: (B, ..., C); not empty.
        branch: as large as x, or None; with a projection (B, ..., width).
        weights: of LayerNorm, MLP and, where the branch is still to be projected, the projection.
        eps: of the LayerNorm.
        branch_scale, scale: (B,), factors of an image on the branch and on the feed-forward part, or None for 1.
        override: other tiles than `tiles` gives, for tuning.

    Returns:
        as large as x and in its dtype, contiguous.
    """
    x, C = x.contiguous(), x.shape[-1]
    *parts, proj_weight, proj_bias = weights
    branch, proj_weight, proj_bias, branch_scale, scale = (
        None if found is None else found.contiguous() for found in (branch, proj_weight, proj_bias, branch_scale, scale)
    )
    tokens = x.numel() // C
    tile = override or tiles(C)
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _forward_kernel[(triton.cdiv(tokens, tile.tokens),)](
            out,
            x,
            branch,
            proj_weight,
            proj_bias,
            branch_scale,
            *(weight.contiguous() for weight in parts),
            scale,
            tokens,
            tokens // x.shape[0],
            eps,
            C=C,
            HIDDEN=weights.weight_1.shape[0],
            WIDTH=C if branch is None else branch.shape[-1],
            BLOCK_T=tile.tokens,
            BLOCK_C=tile.channels,
            BLOCK_H=tile.hidden,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return out
