"""Gradients of what follows a block's attention, in one Triton kernel that computes the forward once more.

The forward keeps its inputs alone. A program owns some tokens: it makes their normalised residual stream as the forward
did, and walks through the hidden channels block by block. Of each block it computes the channels and their gradient,
and adds what these give to the gradient of the normalised tokens. Then come the LayerNorm's backward, the residual's
gradient and, where the projection is ours, the gradient of the attention's result.

Gradients of weights are products over all tokens, which cuBLAS does best: for them normalised tokens, hidden channels
and their gradients are written once, rounded as PyTorch rounds them. Gradients of biases are summed on the way, one row
a program, and the rows in a fixed order.

What it moves, of a map of M bytes: 3 M read (stream, branch, gradient), 11 M written (two maps four times as wide,
normalised tokens, gradients of stream and branch), and the products read 12 M. PyTorch's operators move about 65 M.
"""

# A kernel's parameters have the types that a launch gives them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from scalablevit.ops.feed_forward import gradient
from scalablevit.ops.feed_forward.gradient import Gradients
from scalablevit.ops.feed_forward.programs import residual_stream
from scalablevit.ops.feed_forward.tiles import Tiles, backward_tiles
from scalablevit.ops.feed_forward.weights import Weights


@triton.jit(do_not_specialize=["tokens", "tokens_of_image"])
def _backward_kernel(
    dx,  # (tokens, C), contiguous; holds the sum of stream and branch on the way
    d_projected,  # (tokens, C), contiguous, or None
    d_attended,  # (tokens, WIDTH), contiguous, or None
    normalised_out,  # (tokens, C), contiguous, or None, as the following
    hidden_out,  # (tokens, HIDDEN)
    d_inner_out,  # (tokens, HIDDEN)
    sums,  # (programs, HIDDEN + 4 * C), fp32
    grad,  # (tokens, C), contiguous
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
    far = token.to(tl.int64)[:, None]
    offset = far * C + channel[None, :]

    # What the forward computed.
    y = residual_stream(
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
    tl.store(dx + offset, y.to(dx.dtype.element_ty), mask=mask)
    tl.debug_barrier()  # other threads of the program read it below

    mean = tl.sum(y, axis=1) / C
    y = tl.where(is_channel[None, :], y - mean[:, None], 0.0)
    # Of no token it would be infinite without eps, and NaN in the sums over tokens.
    rstd = tl.where(is_token, tl.rsqrt(tl.sum(y * y, axis=1) / C + eps), 0.0)
    y *= rstd[:, None]
    y *= tl.load(norm_weight + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    y += tl.load(norm_bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    normalised = y.to(weight_1.dtype.element_ty)
    if normalised_out is not None:
        tl.store(normalised_out + offset, normalised, mask=mask)

    d_out = tl.load(grad + offset, mask=mask, other=0.0).to(tl.float32)
    if scale is not None:
        d_out *= tl.load(scale + image).to(tl.float32)[:, None]
    if sums is not None:
        sums += tl.program_id(0).to(tl.int64) * (HIDDEN + 4 * C)
        tl.store(sums + HIDDEN + 2 * C + channel, tl.sum(d_out, axis=0), mask=is_channel)
    d_out = d_out.to(weight_2.dtype.element_ty)

    d_normalised = tl.zeros([BLOCK_T, BLOCK_C], dtype=tl.float32)
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
        below = 0.5 + 0.5 * tl.erf(inner * 0.7071067811865476)
        at = far * HIDDEN + hidden[None, :]
        is_inside = is_token[:, None] & is_hidden[None, :]
        if hidden_out is not None:
            shown = inner * below
            if scale is not None:
                shown *= tl.load(scale + image).to(tl.float32)[:, None]
            tl.store(hidden_out + at, shown.to(hidden_out.dtype.element_ty), mask=is_inside)
        w2 = tl.load(
            weight_2 + channel[:, None] * HIDDEN + hidden[None, :],
            mask=is_channel[:, None] & is_hidden[None, :],
            other=0.0,
        )  # (C, hidden)
        d_inner = tl.dot(d_out, w2, input_precision="ieee")
        d_inner *= below + inner * tl.exp(-0.5 * inner * inner) * 0.3989422804014327
        if sums is not None:
            tl.store(sums + hidden, tl.sum(d_inner, axis=0), mask=is_hidden)
        rounded = d_inner.to(w1.dtype)
        if d_inner_out is not None:
            tl.store(d_inner_out + at, rounded, mask=is_inside)
        d_normalised = tl.dot(rounded, tl.trans(w1), d_normalised, input_precision="ieee")

    # The LayerNorm's backward.
    z = tl.load(dx + offset, mask=mask, other=0.0).to(tl.float32)
    z = tl.where(is_channel[None, :], (z - mean[:, None]) * rstd[:, None], 0.0)
    if sums is not None:
        tl.store(sums + HIDDEN + channel, tl.sum(d_normalised * z, axis=0), mask=is_channel)
        tl.store(sums + HIDDEN + C + channel, tl.sum(d_normalised, axis=0), mask=is_channel)
    d_normalised *= tl.load(norm_weight + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    along = tl.sum(d_normalised * z, axis=1) / C
    d_normalised -= (tl.sum(d_normalised, axis=1) / C)[:, None] + z * along[:, None]
    total = tl.load(grad + offset, mask=mask, other=0.0).to(tl.float32) + d_normalised * rstd[:, None]
    tl.store(dx + offset, total.to(dx.dtype.element_ty), mask=mask)

    if branch is not None:
        if branch_scale is not None:
            total *= tl.load(branch_scale + image).to(tl.float32)[:, None]
        total = tl.where(mask, total, 0.0)
        if d_projected is not None:
            tl.store(d_projected + offset, total.to(d_projected.dtype.element_ty), mask=mask)
        if weight_0 is not None:
            if sums is not None:
                tl.store(sums + HIDDEN + 3 * C + channel, tl.sum(total, axis=0), mask=is_channel)
            given = total.to(weight_0.dtype.element_ty)
            for first in range(0, WIDTH, BLOCK_H):
                column = first + tl.arange(0, BLOCK_H)
                is_column = column < WIDTH
                w0 = tl.load(
                    weight_0 + channel[:, None] * WIDTH + column[None, :],
                    mask=is_channel[:, None] & is_column[None, :],
                    other=0.0,
                )  # (C, width)
                part = tl.dot(given, w0, input_precision="ieee")
                tl.store(
                    d_attended + far * WIDTH + column[None, :],
                    part.to(d_attended.dtype.element_ty),
                    mask=is_token[:, None] & is_column[None, :],
                )


def backward(
    grad: Tensor,
    x: Tensor,
    branch: Tensor | None,
    weights: Weights,
    *,
    eps: float,
    branch_scale: Tensor | None = None,
    scale: Tensor | None = None,
    with_weights: bool = True,
    override: Tiles | None = None,
) -> Gradients:
    """Launch the kernel.

    Args:
        grad: gradient of the output, as large as x.
        x, branch, weights, eps, branch_scale, scale: of the forward; x is not empty.
        with_weights: gradients of weights are wanted, and with them `normalised`, `hidden`, `d_inner` and `sums`.
        override: other tiles than `backward_tiles` gives, for tuning.

    Returns:
        as `gradient.backward`.
    """
    grad, x, C = grad.contiguous(), x.contiguous(), x.shape[-1]
    norm_weight, norm_bias, weight_1, bias_1, weight_2, _, proj_weight, proj_bias = weights
    branch, proj_weight, proj_bias, branch_scale, scale = (
        None if found is None else found.contiguous() for found in (branch, proj_weight, proj_bias, branch_scale, scale)
    )
    found = gradient.empty(x, branch, weights, branch_scale=branch_scale, with_weights=with_weights)
    tokens, HIDDEN = x.numel() // C, weight_1.shape[0]
    tile = override or backward_tiles(C)
    programs = triton.cdiv(tokens, tile.tokens)
    sums = None
    if with_weights:
        sums = x.new_empty((programs, HIDDEN + 4 * C), dtype=torch.float32)
        if proj_weight is None:
            sums[:, -C:].zero_()
    with torch.cuda.device_of(x):
        _backward_kernel[(programs,)](
            *(map_ if map_.numel() else None for map_ in found[:-1]),
            sums,
            grad,
            x,
            branch,
            proj_weight,
            proj_bias,
            branch_scale,
            *(weight.contiguous() for weight in (norm_weight, norm_bias, weight_1, bias_1, weight_2)),
            scale,
            tokens,
            tokens // x.shape[0],
            eps,
            C=C,
            HIDDEN=HIDDEN,
            WIDTH=C if branch is None else branch.shape[-1],
            BLOCK_T=tile.tokens,
            BLOCK_C=tile.channels,
            BLOCK_H=tile.hidden,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return found if sums is None else found._replace(sums=sums.sum(0))
