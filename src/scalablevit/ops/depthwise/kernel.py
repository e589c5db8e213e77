"""Depthwise convolution of a (B, H, W, C) map in Triton: forward, gradient of the map, and gradients of the weights.

PyTorch's depthwise kernels for channels-last maps in half precision are slow, and inductor wraps every convolution that
it sees in copies between layouts. Here channels lie next to each other from end to end: a program computes a rectangle
of results for up to 64 channels, and each of its loads is a row of channels. Taps that several results read come from
the caches. Sums are in fp32, in a fixed order; PEG's residual costs no pass of its own.

What they move, of a map of M bytes whose result has m bytes:
    forward: M + m. Gradient of the map: M + m. Gradients of the weights: M + m, where the rows of a kernel that keeps
    the map's size come from the L2 cache for all but one of its programs.
"""

# A kernel's parameters have the types that a launch gives them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from scalablevit.ops.depthwise.tiles import summed_tokens, tiles
from scalablevit.ops.layout import convolved_size

# They change from image to image; strides and C are specialised: that is what makes loads wide.
_COUNTS = ["H", "W", "rows", "columns", "tiles_y", "tiles_x"]
_MOST_PROGRAMS = 2048  # of the sums: several times what a large GPU holds at once


@triton.jit(do_not_specialize=_COUNTS)
def _forward_kernel(
    out,  # (B, rows, columns, C), contiguous
    x,  # (B, H, W, C)
    taps,  # (SIDE * SIDE, C), contiguous
    bias,  # (C,)
    stride_b,
    stride_y,
    stride_x,  # of x, in numbers
    C,
    H,
    W,
    rows,
    columns,
    tiles_y,
    tiles_x,
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    FLIPPED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK_C)
    channel = program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = channel < C
    tile = program // blocks
    first_x = tile % tiles_x * TILE_X
    first_y = tile // tiles_x % tiles_y * TILE_Y
    image = (tile // tiles_x // tiles_y).to(tl.int64)

    token = tl.arange(0, TILE_Y * TILE_X)
    row = token // TILE_X
    column = token % TILE_X
    is_result = (first_y + row < rows) & (first_x + column < columns)
    y = (first_y + row) * STRIDE - PADDING
    x_ = (first_x + column) * STRIDE - PADDING
    x += image * stride_b + (first_y * STRIDE).to(tl.int64) * stride_y + (first_x * STRIDE).to(tl.int64) * stride_x
    inside = (row * STRIDE * stride_y + column * STRIDE * stride_x)[:, None] + channel[None, :]

    total = tl.zeros([TILE_Y * TILE_X, BLOCK_C], dtype=tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    for ty in tl.range(SIDE):
        is_row = is_result & (y + ty >= 0) & (y + ty < H)
        for tx in tl.static_range(SIDE):
            is_near = is_row & (x_ + tx >= 0) & (x_ + tx < W)
            near = tl.load(
                x + ((ty - PADDING) * stride_y + (tx - PADDING) * stride_x) + inside,
                mask=is_near[:, None] & is_channel[None, :],
                other=0.0,
            ).to(tl.float32)
            tap = ty * SIDE + tx
            if FLIPPED:
                tap = SIDE * SIDE - 1 - tap
            w = tl.load(taps + tap * C + channel, mask=is_channel, other=0.0).to(tl.float32)
            total += w[None, :] * near
    mask = is_result[:, None] & is_channel[None, :]
    if HAS_RESIDUAL:
        total += tl.load(x + inside, mask=mask, other=0.0).to(tl.float32)
    out += (image * rows + first_y) * columns * C + first_x * C
    tl.store(out + (row * columns + column)[:, None] * C + channel[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_COUNTS)
def _patches_backward_kernel(
    dx,  # (B, H, W, C), contiguous
    dout,  # (B, rows, columns, C), contiguous
    taps,  # (SIDE * SIDE, C), contiguous
    C,
    H,
    W,
    rows,
    columns,
    tiles_y,
    tiles_x,
    SIDE: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradient of a map that was cut into patches: each token gave to one result through one tap."""
    program = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK_C)
    channel = program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = program // blocks
    first_x = tile % tiles_x * TILE_X
    first_y = tile // tiles_x % tiles_y * TILE_Y
    image = (tile // tiles_x // tiles_y).to(tl.int64)

    token = tl.arange(0, TILE_Y * TILE_X)
    row = token // TILE_X
    column = token % TILE_X
    y = first_y + row
    x = first_x + column
    mask = ((y < H) & (x < W))[:, None] & (channel < C)[None, :]
    is_used = ((y // SIDE < rows) & (x // SIDE < columns))[:, None]
    tap = y % SIDE * SIDE + x % SIDE
    w = tl.load(taps + tap[:, None] * C + channel[None, :], mask=mask & is_used, other=0.0).to(tl.float32)
    result = (y // SIDE * columns + x // SIDE).to(tl.int64)
    dout += image * rows * columns * C
    d = tl.load(dout + result[:, None] * C + channel[None, :], mask=mask & is_used, other=0.0).to(tl.float32)
    dx += (image * H + first_y) * W * C + first_x * C
    tl.store(dx + (row * W + column)[:, None] * C + channel[None, :], (w * d).to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["H", "W", "rows", "columns", "results", "tiles", "tiles_each"])
def _sums_kernel(
    sums,  # (shares, SIDE, SIDE + 1, C), fp32, contiguous
    dout,  # (B, rows, columns, C), contiguous
    x,  # (B, H, W, C)
    stride_b,
    stride_y,
    stride_x,  # of x, in numbers
    C,
    H,
    W,
    rows,
    columns,
    results,  # of all images
    tiles,
    tiles_each,  # of a program
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    SUM_ROWS: tl.constexpr,  # SIDE + 1, rounded up to a power of two
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients of one row of taps, and of the bias, over a share of the results."""
    program = tl.program_id(0)
    ty = program % SIDE
    blocks = tl.cdiv(C, BLOCK_C)
    channel = program // SIDE % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = channel < C
    share = program // SIDE // blocks
    sum_row = tl.arange(0, SUM_ROWS)[:, None]
    total = tl.zeros([SUM_ROWS, BLOCK_C], dtype=tl.float32)
    for tile in range(share * tiles_each, tl.minimum((share + 1) * tiles_each, tiles)):
        token = tile * BLOCK_T + tl.arange(0, BLOCK_T)
        is_result = token < results
        d = tl.load(
            dout + token.to(tl.int64)[:, None] * C + channel[None, :],
            mask=is_result[:, None] & is_channel[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.where(sum_row == SIDE, tl.sum(d, axis=0)[None, :], 0.0)
        image = (token // columns // rows).to(tl.int64)
        y = token // columns % rows * STRIDE - PADDING + ty
        first_x = token % columns * STRIDE - PADDING
        is_row = is_result & (y >= 0) & (y < H)
        start = image * stride_b + y.to(tl.int64) * stride_y
        for tx in tl.static_range(SIDE):
            is_near = is_row & (first_x + tx >= 0) & (first_x + tx < W)
            near = tl.load(
                x + (start + (first_x + tx).to(tl.int64) * stride_x)[:, None] + channel[None, :],
                mask=is_near[:, None] & is_channel[None, :],
                other=0.0,
            ).to(tl.float32)
            total += tl.where(sum_row == tx, tl.sum(d * near, axis=0)[None, :], 0.0)
    sums += ((share * SIDE + ty) * (SIDE + 1)).to(tl.int64) * C
    tl.store(sums + sum_row * C + channel[None, :], total, mask=(sum_row <= SIDE) & is_channel[None, :])


def forward(
    x: Tensor, taps: Tensor, bias: Tensor | None, *, side: int, stride: int, padding: int, residual: bool
) -> Tensor:
    """Launch the forward.

    Args:
        x: (B, H, W, C); its result is not empty.
        taps: (side * side, C), contiguous.
        bias: (C,), or None.
        side, stride, padding: of the convolution, in tokens.
        residual: add x.

    Returns:
        (B, H', W', C), contiguous, in the dtype of x.
    """
    return _convolve(x, taps, bias, side=side, stride=stride, padding=padding, residual=residual, flipped=False)


def _convolve(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    *,
    side: int,
    stride: int,
    padding: int,
    residual: bool,
    flipped: bool,
) -> Tensor:
    x = _with_adjacent_channels(x)
    B, H, W, C = x.shape
    rows, columns = convolved_size(H, W, side=side, stride=stride, padding=padding)
    tile = tiles(C, stride)
    tiles_y, tiles_x = triton.cdiv(rows, tile.rows), triton.cdiv(columns, tile.columns)
    out = x.new_empty((B, rows, columns, C))
    with torch.cuda.device_of(x):
        _forward_kernel[(B * tiles_y * tiles_x * triton.cdiv(C, tile.channels),)](
            out,
            x,
            taps,
            taps if bias is None else bias.contiguous(),  # an absent one is never read
            *x.stride()[:3],
            C,
            H,
            W,
            rows,
            columns,
            tiles_y,
            tiles_x,
            SIDE=side,
            STRIDE=stride,
            PADDING=padding,
            FLIPPED=flipped,
            HAS_BIAS=bias is not None,
            HAS_RESIDUAL=residual,
            TILE_Y=tile.rows,
            TILE_X=tile.columns,
            BLOCK_C=tile.channels,
            num_warps=tile.num_warps,
        )
    return out


def backward(
    grad: Tensor,
    x: Tensor,
    taps: Tensor,
    *,
    side: int,
    stride: int,
    padding: int,
    residual: bool,
    with_sums: bool,
) -> tuple[Tensor, Tensor]:
    """Launch the backward.

    Args:
        grad: of the output, (B, H', W', C).
        x, taps, side, stride, padding, residual: of the forward.
        with_sums: the gradients of taps and bias are wanted.

    Returns:
        gradient of x, contiguous; and in fp32 (side * side + 1, C): the gradients of the taps and of the bias, or
        nothing, (0,), where they are not wanted.
    """
    grad, x = grad.contiguous(), _with_adjacent_channels(x)
    if stride == 1:
        dx = _convolve(grad, taps, None, side=side, stride=1, padding=padding, residual=residual, flipped=True)
    else:
        dx = _patches_backward(grad, x, taps, side)
    sums = _sums(grad, x, side, stride, padding) if with_sums else x.new_empty(0, dtype=torch.float32)
    return dx.to(x.dtype), sums


def _patches_backward(grad: Tensor, x: Tensor, taps: Tensor, side: int) -> Tensor:
    B, H, W, C = x.shape
    tile = tiles(C, 1)
    tiles_y, tiles_x = triton.cdiv(H, tile.rows), triton.cdiv(W, tile.columns)
    dx = x.new_empty(x.shape)
    with torch.cuda.device_of(x):
        _patches_backward_kernel[(B * tiles_y * tiles_x * triton.cdiv(C, tile.channels),)](
            dx,
            grad,
            taps,
            C,
            H,
            W,
            *grad.shape[1:3],
            tiles_y,
            tiles_x,
            SIDE=side,
            TILE_Y=tile.rows,
            TILE_X=tile.columns,
            BLOCK_C=tile.channels,
            num_warps=tile.num_warps,
        )
    return dx


def _sums(grad: Tensor, x: Tensor, side: int, stride: int, padding: int) -> Tensor:
    B, rows, columns, C = grad.shape
    _, H, W, _ = x.shape
    channels = tiles(C, stride).channels
    tokens = summed_tokens(channels)
    blocks, parts = triton.cdiv(C, channels), triton.cdiv(B * rows * columns, tokens)
    each = triton.cdiv(parts, max(1, _MOST_PROGRAMS // (side * blocks)))
    shares = triton.cdiv(parts, each)
    sums = x.new_empty((shares, side, side + 1, C), dtype=torch.float32)
    with torch.cuda.device_of(x):
        _sums_kernel[(shares * side * blocks,)](
            sums,
            grad,
            x,
            *x.stride()[:3],
            C,
            H,
            W,
            rows,
            columns,
            B * rows * columns,
            parts,
            each,
            SIDE=side,
            STRIDE=stride,
            PADDING=padding,
            SUM_ROWS=1 << side.bit_length(),
            BLOCK_T=tokens,
            BLOCK_C=channels,
            num_warps=4,
        )
        sums = sums.sum(0)  # (side, side + 1, C)
        return torch.cat([sums[:, :side].flatten(0, 1), sums[0, side:]])


def _with_adjacent_channels(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
