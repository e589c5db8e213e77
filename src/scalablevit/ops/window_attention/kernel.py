"""Interactive window attention as one Triton kernel forward and one backward.

One program attends inside one window of one head. It finds its tokens in the packed (B, H, W, 3C) map by index
arithmetic: nothing is partitioned, padded or copied before or after. Tokens beyond the map's lower and right edge, up
to whole windows, have `fill` for q, k and v; they are keys and LIM sees them, but nothing is written for them.

LIM reads the value map again through nine shifted loads: they, and the border that belongs to other windows, come
from the L1 and L2 caches. They are a loop over rows of three taps in the forward, and over single taps in the
backward: unrolled altogether, all loads are in flight at once, and the forward takes 180 registers where 116 do.
Attention and LIM are summed in fp32 and rounded once, where the definition rounds each.

The backward recomputes the softmax from q and k. It runs over several windows in one program, adds up the gradients
of LIM's weight and bias and of `fill` in a tile of 16 rows (nine taps, bias, keys of `fill`, values of `fill`), and
writes that tile to a row of its own: one torch sum over the rows follows, so results do not depend on timing.

What they move and compute, of a token, with C channels, windows of L tokens and s bytes a number (`cost.py`):
    forward: reads 3C, writes C: 4Cs bytes; 2LC + 9C multiply-adds.
    backward: reads 3C and C, writes 3C: 7Cs bytes, and 48C / (windows of a program x L) bytes of sums;
        5LC + 18C multiply-adds.

Programs of the heads of one window are neighbours in the grid, because the heads lie side by side in memory: a head of
32 channels in bf16 is half a cache line. More than one head in a program was counted, not tried: a second head doubles
the registers of scores and tiles, of which the backward already takes 176 to 249 of the 255 that a thread may have,
and saves no byte that neighbouring programs do not share in the caches.
"""

# A kernel's parameters have the types that a launch gives them.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from scalablevit.ops.window_attention.tiles import SUM_ROWS, Tiles, tiles, windows_per_program

# They change from image to image, and kernels of their own for counts of 1 and for multiples of 16 would be dozens.
# Strides are specialised: that is what makes loads wide.
_COUNTS = ["H", "W", "windows_y", "windows_x", "heads", "windows", "windows_each"]


@triton.jit(do_not_specialize=_COUNTS)
def _forward_kernel(
    out,  # (B, H, W, C), contiguous
    qkv,  # (B, H, W, 3C)
    fill,  # (3C,)
    weight,  # (9, C), contiguous
    bias,  # (C,)
    stride_b,
    stride_y,
    stride_x,  # of qkv, in numbers
    H,
    W,
    windows_y,
    windows_x,
    heads,
    scale_log2,  # of scores, times log2(e)
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_FILL: tl.constexpr,
    HAS_LIM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    program = tl.program_id(0)
    head = program % heads
    window = program // heads
    first_y = (window // windows_x) % windows_y * ROWS
    first_x = window % windows_x * COLUMNS
    image = (window // windows_x // windows_y).to(tl.int64)
    C = heads * D

    token = tl.arange(0, BLOCK_L)
    d = tl.arange(0, BLOCK_D)
    row = token // COLUMNS
    column = token % COLUMNS
    y = first_y + row
    x = first_x + column
    is_token = token < ROWS * COLUMNS
    is_inside = is_token & (y < H) & (x < W)
    is_channel = d < D
    mask = is_inside[:, None] & is_channel[None, :]

    qkv += image * stride_b + first_y.to(tl.int64) * stride_y + first_x.to(tl.int64) * stride_x + head * D
    tile = (row * stride_y + column * stride_x)[:, None] + d[None, :]  # small: inside one window
    q = tl.load(qkv + tile, mask=mask, other=0.0)
    k = tl.load(qkv + C + tile, mask=mask, other=0.0)
    v = tl.load(qkv + 2 * C + tile, mask=mask, other=0.0)
    if HAS_FILL:
        k_fill = tl.load(fill + C + head * D + d, mask=is_channel, other=0.0).to(k.dtype)
        v_fill = tl.load(fill + 2 * C + head * D + d, mask=is_channel, other=0.0).to(v.dtype)
        is_outside = is_token & (is_inside == 0)
        k = tl.where(is_outside[:, None], k_fill[None, :], k)
        v = tl.where(is_outside[:, None], v_fill[None, :], v)

    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    scores = tl.where(is_token[None, :], scores, float("-inf"))
    p = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    total = tl.sum(p, axis=1)
    result = tl.dot(p.to(v.dtype), v, input_precision="ieee") / total[:, None]

    if HAS_LIM:
        channel = head * D + d
        lim = tl.zeros([BLOCK_L, BLOCK_D], dtype=tl.float32)
        if HAS_BIAS:
            lim += tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
        for ty in tl.range(3):
            near_y = y + (ty - 1)
            for tx in tl.static_range(3):
                near_x = x + (tx - 1)
                is_near = is_token & (near_y >= 0) & (near_y < H) & (near_x >= 0) & (near_x < W)
                near = tl.load(
                    qkv + 2 * C + ((ty - 1) * stride_y + (tx - 1) * stride_x) + tile,
                    mask=is_near[:, None] & is_channel[None, :],
                    other=0.0,
                ).to(tl.float32)
                if HAS_FILL:
                    is_padded = (near_y >= 0) & (near_y < windows_y * ROWS)
                    is_padded &= (near_x >= 0) & (near_x < windows_x * COLUMNS) & (is_near == 0)
                    near = tl.where(is_padded[:, None], v_fill.to(tl.float32)[None, :], near)
                w = tl.load(weight + (ty * 3 + tx) * C + channel, mask=is_channel, other=0.0).to(tl.float32)
                lim += w[None, :] * near
        result += lim

    out += (image * H + first_y) * W * C + (first_x * C + head * D)
    tl.store(out + (row * W + column)[:, None] * C + d[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_COUNTS)
def _backward_kernel(
    dqkv,  # (B, H, W, 3C), contiguous
    sums,  # (programs of a head, SUM_ROWS, C), fp32, contiguous
    dout,  # (B, H, W, C), contiguous
    qkv,  # (B, H, W, 3C)
    fill,  # (3C,)
    weight,  # (9, C), contiguous
    stride_b,
    stride_y,
    stride_x,  # of qkv, in numbers
    H,
    W,
    windows_y,
    windows_x,
    heads,
    windows,  # of all images
    windows_each,  # of a program
    scale,  # of scores
    scale_log2,  # the same, times log2(e)
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_FILL: tl.constexpr,
    HAS_LIM: tl.constexpr,
    HAS_SUMS: tl.constexpr,
    ROWS_OF_SUMS: tl.constexpr,
):
    program = tl.program_id(0)
    head = program % heads
    part = program // heads
    C = heads * D

    token = tl.arange(0, BLOCK_L)
    d = tl.arange(0, BLOCK_D)
    row = token // COLUMNS
    column = token % COLUMNS
    is_token = token < ROWS * COLUMNS
    is_channel = d < D
    channel = head * D + d
    sum_row = tl.arange(0, 16)[:, None]
    total = tl.zeros([16, BLOCK_D], dtype=tl.float32)

    for window in range(part * windows_each, tl.minimum((part + 1) * windows_each, windows)):
        first_y = (window // windows_x) % windows_y * ROWS
        first_x = window % windows_x * COLUMNS
        image = (window // windows_x // windows_y).to(tl.int64)
        y = first_y + row
        x = first_x + column
        is_inside = is_token & (y < H) & (x < W)
        mask = is_inside[:, None] & is_channel[None, :]
        start = qkv + image * stride_b + first_y.to(tl.int64) * stride_y + first_x.to(tl.int64) * stride_x + head * D
        tile = (row * stride_y + column * stride_x)[:, None] + d[None, :]
        position = (image * H + first_y) * W + first_x
        dout_start = dout + position * C + head * D
        dout_tile = (row * W + column)[:, None] * C + d[None, :]
        v = tl.load(start + 2 * C + tile, mask=mask, other=0.0)
        do = tl.load(dout_start + dout_tile, mask=mask, other=0.0)
        if HAS_FILL:
            is_outside = is_token & (is_inside == 0)
            v_fill = tl.load(fill + 2 * C + channel, mask=is_channel, other=0.0).to(v.dtype)
            v = tl.where(is_outside[:, None], v_fill[None, :], v)

        dv = tl.zeros([BLOCK_L, BLOCK_D], dtype=tl.float32)
        if HAS_LIM:
            # LIM first, while q, k and the scores do not yet take registers. Its transpose at the tokens of this
            # window: whatever they gave to, they get back from.
            for tap in tl.range(9):
                dy = tap // 3 - 1
                dx = tap % 3 - 1
                near_y = y - dy
                near_x = x - dx
                is_near = is_token & (near_y >= 0) & (near_y < H) & (near_x >= 0) & (near_x < W)
                near = tl.load(
                    dout_start - (dy * W + dx) * C + dout_tile,
                    mask=is_near[:, None] & is_channel[None, :],
                    other=0.0,
                ).to(tl.float32)
                w = tl.load(weight + tap * C + channel, mask=is_channel, other=0.0).to(tl.float32)
                dv += w[None, :] * near
                if HAS_SUMS:
                    # Beyond the map nothing was weighed, but 0 times an infinite value is NaN.
                    dw = tl.sum(tl.where(is_near[:, None], v.to(tl.float32) * near, 0.0), axis=0)
                    total += tl.where(sum_row == tap, dw[None, :], 0.0)
            if HAS_SUMS:
                total += tl.where(sum_row == 9, tl.sum(do.to(tl.float32), axis=0)[None, :], 0.0)

        q = tl.load(start + tile, mask=mask, other=0.0)
        k = tl.load(start + C + tile, mask=mask, other=0.0)
        if HAS_FILL:
            k_fill = tl.load(fill + C + channel, mask=is_channel, other=0.0).to(k.dtype)
            k = tl.where(is_outside[:, None], k_fill[None, :], k)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        # Padded tokens have a gradient of zero, but 0 times the NaN that an infinite key would make of them is NaN.
        is_needed = is_inside[:, None] & is_token[None, :]
        scores = tl.where(is_needed, scores, float("-inf"))
        p = tl.exp2(scores - tl.where(is_inside, tl.max(scores, axis=1), 0.0)[:, None])
        p = p / tl.where(is_inside, tl.sum(p, axis=1), 1.0)[:, None]
        dv += tl.dot(tl.trans(p.to(do.dtype)), do, input_precision="ieee")
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        ds = (p * (dp - tl.sum(p * dp, axis=1)[:, None]) * scale).to(q.dtype)
        dqkv_start = dqkv + position * 3 * C + head * D
        dqkv_tile = (row * W + column)[:, None] * 3 * C + d[None, :]
        dq = tl.dot(ds, k, input_precision="ieee")
        tl.store(dqkv_start + dqkv_tile, dq.to(dqkv.dtype.element_ty), mask=mask)
        dk = tl.dot(tl.trans(ds), q, input_precision="ieee")
        tl.store(dqkv_start + C + dqkv_tile, dk.to(dqkv.dtype.element_ty), mask=mask)
        tl.store(dqkv_start + 2 * C + dqkv_tile, dv.to(dqkv.dtype.element_ty), mask=mask)
        if HAS_FILL and HAS_SUMS:
            total += tl.where(sum_row == 10, tl.sum(tl.where(is_outside[:, None], dk, 0.0), axis=0)[None, :], 0.0)
            total += tl.where(sum_row == 11, tl.sum(tl.where(is_outside[:, None], dv, 0.0), axis=0)[None, :], 0.0)

    if HAS_SUMS:
        sums += part.to(tl.int64) * ROWS_OF_SUMS * C + channel
        tl.store(sums + sum_row * C, total, mask=(sum_row < ROWS_OF_SUMS) & is_channel[None, :])


def forward(
    qkv: Tensor,
    lim_weight: Tensor | None,
    lim_bias: Tensor | None,
    fill: Tensor | None,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    override: Tiles | None = None,
) -> Tensor:
    """Launch the forward.

    Args:
        qkv: (B, H, W, 3C); not empty.
        lim_weight: (C, 1, 3, 3), or None for no LIM.
        lim_bias: (C,), or None.
        fill: (3C,), q, k and v of padded tokens, or None for zeros.
        num_heads: h; divides C.
        window_size: rows and columns of a window, in tokens.
        override: other tiles than `tiles` gives, for tuning.

    Returns:
        (B, H, W, C), contiguous.
    """
    qkv = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    B, H, W, C3 = qkv.shape
    (rows, columns), D = window_size, C3 // 3 // num_heads
    windows_y, windows_x = -(-H // rows), -(-W // columns)
    tile = override or tiles(rows * columns, D, qkv.dtype, backward=False)
    out = qkv.new_empty((B, H, W, C3 // 3))
    with torch.cuda.device_of(qkv):
        _forward_kernel[(B * windows_y * windows_x * num_heads,)](
            out,
            qkv,
            # An absent tensor is never read; the launch wants an address all the same.
            qkv if fill is None else fill.contiguous(),
            qkv if lim_weight is None else _taps(lim_weight),
            qkv if lim_bias is None else lim_bias.contiguous(),
            *qkv.stride()[:3],
            H,
            W,
            windows_y,
            windows_x,
            num_heads,
            D**-0.5 * math.log2(math.e),
            D=D,
            ROWS=rows,
            COLUMNS=columns,
            BLOCK_L=tile.tokens,
            BLOCK_D=tile.channels,
            HAS_FILL=_has_fill(fill, H, W, window_size),
            HAS_LIM=lim_weight is not None,
            HAS_BIAS=lim_bias is not None,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return out


def backward(
    grad: Tensor,
    qkv: Tensor,
    lim_weight: Tensor | None,
    fill: Tensor | None,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    with_sums: bool,
    override: Tiles | None = None,
) -> tuple[Tensor, Tensor]:
    """Launch the backward.

    Args:
        grad: of the output, (B, H, W, C).
        qkv, lim_weight, fill, num_heads, window_size, override: as in `forward`.
        with_sums: the gradients of LIM and of `fill` are wanted.

    Returns:
        gradient of qkv, (B, H, W, 3C), contiguous; and in fp32 (SUM_ROWS, C): the gradients of LIM's nine taps, of its
        bias, and of the keys and the values of `fill`, or nothing, (0,), where they are not wanted.
    """
    qkv, grad = qkv if qkv.stride(-1) == 1 else qkv.contiguous(), grad.contiguous()
    B, H, W, C3 = qkv.shape
    (rows, columns), C = window_size, C3 // 3
    D = C // num_heads
    windows_y, windows_x = -(-H // rows), -(-W // columns)
    windows = B * windows_y * windows_x
    each = windows_per_program(windows, num_heads)
    programs = -(-windows // each)  # of a head
    tile = override or tiles(rows * columns, D, qkv.dtype, backward=True)
    dqkv = qkv.new_empty((B, H, W, C3))
    sums = qkv.new_empty((programs, SUM_ROWS, C) if with_sums else 0, dtype=torch.float32)
    with torch.cuda.device_of(qkv):
        _backward_kernel[(programs * num_heads,)](
            dqkv,
            sums,
            grad,
            qkv,
            qkv if fill is None else fill.contiguous(),
            qkv if lim_weight is None else _taps(lim_weight),
            *qkv.stride()[:3],
            H,
            W,
            windows_y,
            windows_x,
            num_heads,
            windows,
            each,
            D**-0.5,
            D**-0.5 * math.log2(math.e),
            D=D,
            ROWS=rows,
            COLUMNS=columns,
            BLOCK_L=tile.tokens,
            BLOCK_D=tile.channels,
            HAS_FILL=_has_fill(fill, H, W, window_size),
            HAS_LIM=lim_weight is not None,
            HAS_SUMS=with_sums,
            ROWS_OF_SUMS=SUM_ROWS,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        return dqkv, sums.sum(0) if with_sums else sums


def _taps(lim_weight: Tensor) -> Tensor:
    """LIM's weight (C, 1, 3, 3) as nine rows of C: a thread's channels are then neighbours, and loads are wide.

    A weight that lies so in memory (strides 1, any, 3C, C) is not copied.
    """
    return lim_weight.flatten(1).t().contiguous()  # (9, C)


def _has_fill(fill: Tensor | None, H: int, W: int, window_size: tuple[int, int]) -> bool:
    """Whether there are padded tokens that are not zeros."""
    return fill is not None and (H % window_size[0] != 0 or W % window_size[1] != 0)
