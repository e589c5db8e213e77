"""What forward and backward of the feed-forward kernel compute alike."""

# A kernel's parameters have the types that a launch gives them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def residual_stream(
    x,  # (tokens, C), contiguous
    branch,  # (tokens, C), or (tokens, WIDTH) where it is to be projected, contiguous; or None
    weight_0,  # (C, WIDTH), contiguous, or None
    bias_0,  # (C,), or None
    branch_scale,  # (images,), or None
    token,  # (BLOCK_T,)
    is_token,
    image,  # of each token
    channel,  # (BLOCK_C,)
    is_channel,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Add the attention's branch, projected first where it is not yet, to the stream: (BLOCK_T, BLOCK_C), fp32."""
    far = token.to(tl.int64)[:, None]
    offset = far * C + channel[None, :]
    mask = is_token[:, None] & is_channel[None, :]
    if weight_0 is not None:
        y = tl.zeros([BLOCK_T, BLOCK_C], dtype=tl.float32)
        for first in range(0, WIDTH, BLOCK_H):
            column = first + tl.arange(0, BLOCK_H)
            is_column = column < WIDTH
            part = tl.load(
                branch + far * WIDTH + column[None, :], mask=is_token[:, None] & is_column[None, :], other=0.0
            )
            w0 = tl.load(
                weight_0 + channel[None, :] * WIDTH + column[:, None],
                mask=is_column[:, None] & is_channel[None, :],
                other=0.0,
            )  # (width, C)
            y = tl.dot(part, w0, y, input_precision="ieee")
        y += tl.load(bias_0 + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    elif branch is not None:
        y = tl.load(branch + offset, mask=mask, other=0.0).to(tl.float32)
    else:
        y = tl.zeros([BLOCK_T, BLOCK_C], dtype=tl.float32)
    if branch_scale is not None:
        y *= tl.load(branch_scale + image).to(tl.float32)[:, None]
    y += tl.load(x + offset, mask=mask, other=0.0).to(tl.float32)
    return y
