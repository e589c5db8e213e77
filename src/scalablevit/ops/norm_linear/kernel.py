"""LayerNorm with a linear layer behind it in one Triton kernel: the normalised map never reaches memory.

A program owns some tokens, normalises them, and walks through the outputs block by block. Of a map of M bytes whose
result has m it moves M + m, where two kernels move 3 M + m. Statistics and sums are in fp32; normalised tokens are
rounded for the tensor cores, as PyTorch rounds them.
"""

# A kernel's parameters have the types that a launch gives them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from scalablevit.ops.norm_linear.tiles import Tiles, tiles


@triton.jit(do_not_specialize=["tokens"])
def _forward_kernel(
    out,  # (tokens, OUTPUTS), contiguous
    x,  # (tokens, C), contiguous
    norm_weight,  # (C,)
    norm_bias,  # (C,)
    weight,  # (OUTPUTS, C), contiguous
    bias,  # (OUTPUTS,), or None
    tokens,
    eps,
    C: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.arange(0, BLOCK_C)
    is_token = token < tokens
    is_channel = channel < C
    far = token.to(tl.int64)[:, None]

    y = tl.load(x + far * C + channel[None, :], mask=is_token[:, None] & is_channel[None, :], other=0.0).to(tl.float32)
    mean = tl.sum(y, axis=1) / C
    y = tl.where(is_channel[None, :], y - mean[:, None], 0.0)
    y *= tl.rsqrt(tl.sum(y * y, axis=1) / C + eps)[:, None]
    y *= tl.load(norm_weight + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    y += tl.load(norm_bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    normalised = y.to(weight.dtype.element_ty)

    for first in range(0, OUTPUTS, BLOCK_O):
        output = first + tl.arange(0, BLOCK_O)
        is_output = output < OUTPUTS
        w = tl.load(
            weight + output[None, :] * C + channel[:, None], mask=is_channel[:, None] & is_output[None, :], other=0.0
        )  # (C, outputs)
        found = tl.dot(normalised, w, input_precision="ieee")
        if bias is not None:
            found += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[None, :]
        tl.store(
            out + far * OUTPUTS + output[None, :],
            found.to(out.dtype.element_ty),
            mask=is_token[:, None] & is_output[None, :],
        )


def forward(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float,
    override: Tiles | None = None,
) -> Tensor:
    """Launch the kernel.

    Args:
        x: (B, ..., C); not empty.
        norm_weight, norm_bias, eps: of the LayerNorm, (C,).
        weight, bias: of the linear layer, (outputs, C) and (outputs,) or None.
        override: other tiles than `tiles` gives, for tuning.

    Returns:
        (B, ..., outputs), contiguous, in the dtype of `weight`.
    """
    x, (OUTPUTS, C) = x.contiguous(), weight.shape
    tokens = x.numel() // C
    tile = override or tiles(C)
    out = weight.new_empty((*x.shape[:-1], OUTPUTS))
    with torch.cuda.device_of(x):
        _forward_kernel[(triton.cdiv(tokens, tile.tokens),)](
            out,
            x,
            norm_weight.contiguous(),
            norm_bias.contiguous(),
            weight.contiguous(),
            None if bias is None else bias.contiguous(),
            tokens,
            eps,
            C=C,
            OUTPUTS=OUTPUTS,
            BLOCK_T=tile.tokens,
            BLOCK_C=tile.channels,
            BLOCK_O=tile.outputs,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return out
