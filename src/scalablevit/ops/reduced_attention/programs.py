"""Attention over reduced keys in Triton: scores never leave the chip.

Two families, both reading q (B, N, C'), k (B, M, C') and v (B, M, Cv) where they lie, head after head in a row, so
that k and v may be slices of one matrix:

- **one block of keys** (up to 64; the published network has 49 at 224 px): a program holds all keys
  of a head in registers, so the softmax is a plain one and nothing but the output is stored. The backward recomputes
  it and needs neither the output nor its logarithms.
- **any number of keys**: the softmax is gathered block by block (online), and the base-2 logarithm of each row's sum
  goes along to the backward, which has a kernel for dq and one for dk and dv.

Numbers: products add up in fp32 (fp32 inputs are multiplied as such, not as TF32), softmax and all sums are fp32.
No atomics: dk and dv of each share of the queries go to a buffer of their own, which torch adds up, so the same inputs
give the same bits.

A head width is not rounded up to one power of two but cut in two: 40 = 32 + 8 costs tiles of 32 + 16 columns, not 64.
Programs of one stretch of tokens differ in the head first, for heads share the cache lines of a row.

What it costs is counted in `cost.py`: at one block of keys, bf16 and widths 40 and 32, a token and head moves 144 bytes
forward (q in, output out) and 224 backward (q and the gradient in, dq out).

Source: the online softmax and its backward follow FlashAttention-2, arXiv:2307.08691.
"""

# Triton's functions are typed by its compiler.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

# They change from image to image, and kernels of their own for counts of 1 and for multiples of 16 would be dozens.
# Strides are specialised: that is what makes loads wide.
_COUNTS = ["N", "M", "num_images", "num_heads", "num_blocks", "num_shares", "blocks_in_share"]


@triton.jit
def _dot(a, b, total=None):
    """Matrix product of two tiles, added to `total` in fp32."""
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _load(start, rows, row_stride, is_row, first: tl.constexpr, width: tl.constexpr, block: tl.constexpr):
    """A tile of `block` columns from `first` on: zero beyond the width, and where `is_row` is false."""
    columns = first + tl.arange(0, block)
    mask = is_row[:, None]
    if first + block > width:
        mask = mask & (columns < width)[None, :]
    return tl.load(start + rows[:, None] * row_stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store(start, rows, row_stride, is_row, tile, first: tl.constexpr, width: tl.constexpr, block: tl.constexpr):
    """The counterpart of `_load`."""
    columns = first + tl.arange(0, block)
    mask = is_row[:, None]
    if first + block > width:
        mask = mask & (columns < width)[None, :]
    tl.store(start + rows[:, None] * row_stride + columns[None, :], tile.to(start.dtype.element_ty), mask=mask)


@triton.jit
def _load_pairs(start, rows, is_row):
    """Two numbers of each row, which lie side by side: zeros where `is_row` is false."""
    places = start + rows[:, None] * 2 + tl.arange(0, 2)[None, :]
    return tl.split(tl.load(places, mask=is_row[:, None], other=0.0))


@triton.jit
def _store_pairs(start, rows, is_row, first, second):
    """The counterpart of `_load_pairs`."""
    places = start + rows[:, None] * 2 + tl.arange(0, 2)[None, :]
    tl.store(places, tl.join(first, second), mask=is_row[:, None])


@triton.jit
def _inner(a1, a2, b1, b2, TWO: tl.constexpr):
    """Products of the rows of a with those of b, whose columns come in one or two parts."""
    product = _dot(a1, tl.trans(b1))
    if TWO:
        product = _dot(a2, tl.trans(b2), product)
    return product


@triton.jit
def _place(program, num_blocks, num_heads):
    """Image (int64), block and head of a program: heads first, then blocks, then images."""
    head = program % num_heads
    block = program // num_heads % num_blocks
    image = (program // num_heads // num_blocks).to(tl.int64)
    return image, block, head


@triton.jit(do_not_specialize=_COUNTS)
def _one_block_forward(
    q, k, v, out,
    q_image, q_row, k_image, k_row, v_image, v_row,
    N, M, num_heads, num_blocks, scale,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    DV: tl.constexpr, DV1: tl.constexpr, DV2: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    image, block, head = _place(tl.program_id(0), num_blocks, num_heads)
    first = tl.cast(block * BLOCK_N, tl.int64)
    rows = tl.arange(0, BLOCK_N)
    is_row = rows < N - block * BLOCK_N
    keys = tl.arange(0, BLOCK_M)
    is_key = keys < M
    q += image * q_image + first * q_row + head * D
    k += image * k_image + head * D
    v += image * v_image + head * DV
    out += (image * N + first) * (num_heads * DV) + head * DV

    q1 = _load(q, rows, q_row, is_row, 0, D, D1)
    k1 = _load(k, keys, k_row, is_key, 0, D, D1)
    q2, k2 = q1, k1
    if D2:
        q2 = _load(q, rows, q_row, is_row, D1, D, D2)
        k2 = _load(k, keys, k_row, is_key, D1, D, D2)
    scores = _inner(q1, q2, k1, k2, D2 > 0) * scale  # (BLOCK_N, BLOCK_M), to the base 2
    scores = tl.where(is_key[None, :], scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    normalise = 1.0 / tl.sum(weights, 1)[:, None]

    v1 = _load(v, keys, v_row, is_key, 0, DV, DV1)
    o1 = _dot(weights.to(v1.dtype), v1)
    _store(out, rows, num_heads * DV, is_row, o1 * normalise, 0, DV, DV1)
    if DV2:
        v2 = _load(v, keys, v_row, is_key, DV1, DV, DV2)
        o2 = _dot(weights.to(v2.dtype), v2)
        _store(out, rows, num_heads * DV, is_row, o2 * normalise, DV1, DV, DV2)


@triton.jit(do_not_specialize=_COUNTS)
def _one_block_backward(
    q, k, v, grad, dq, dk, dv,
    q_image, q_row, k_image, k_row, v_image, v_row, grad_image, grad_row,
    N, M, num_images, num_heads, num_shares, blocks_in_share, scale, scale_base_2,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    DV: tl.constexpr, DV1: tl.constexpr, DV2: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradients of a share of the queries of one head; dk and dv are (shares, B, M, C' or Cv)."""
    image, share, head = _place(tl.program_id(0), num_shares, num_heads)
    rows = tl.arange(0, BLOCK_N)
    keys = tl.arange(0, BLOCK_M)
    is_key = keys < M
    q += image * q_image + head * D
    k += image * k_image + head * D
    v += image * v_image + head * DV
    grad += image * grad_image + head * DV
    dq += image * N * (num_heads * D) + head * D

    k1 = _load(k, keys, k_row, is_key, 0, D, D1)
    v1 = _load(v, keys, v_row, is_key, 0, DV, DV1)
    dk1 = tl.zeros((BLOCK_M, D1), tl.float32)
    dv1 = tl.zeros((BLOCK_M, DV1), tl.float32)
    k2, v2 = k1, v1
    if D2:
        k2 = _load(k, keys, k_row, is_key, D1, D, D2)
        dk2 = tl.zeros((BLOCK_M, D2), tl.float32)
    if DV2:
        v2 = _load(v, keys, v_row, is_key, DV1, DV, DV2)
        dv2 = tl.zeros((BLOCK_M, DV2), tl.float32)

    for block in range(share * blocks_in_share, (share + 1) * blocks_in_share):
        first = tl.cast(block * BLOCK_N, tl.int64)
        is_row = rows < N - block * BLOCK_N
        q1 = _load(q + first * q_row, rows, q_row, is_row, 0, D, D1)
        g1 = _load(grad + first * grad_row, rows, grad_row, is_row, 0, DV, DV1)
        q2, g2 = q1, g1
        if D2:
            q2 = _load(q + first * q_row, rows, q_row, is_row, D1, D, D2)
        if DV2:
            g2 = _load(grad + first * grad_row, rows, grad_row, is_row, DV1, DV, DV2)
        scores = _inner(q1, q2, k1, k2, D2 > 0) * scale_base_2
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
        weights *= 1.0 / tl.sum(weights, 1)[:, None]
        dweights = _inner(g1, g2, v1, v2, DV2 > 0)
        dscores = weights * (dweights - tl.sum(weights * dweights, 1)[:, None])

        # Rows beyond N have a gradient of zero, but 0 times an infinite key or value is NaN.
        weights = tl.where(is_row[:, None], weights, 0.0)
        dscores = tl.where(is_row[:, None], dscores, 0.0)
        weights = tl.trans(weights.to(g1.dtype))
        dv1 = _dot(weights, g1, dv1)
        if DV2:
            dv2 = _dot(weights, g2, dv2)
        dscores = dscores.to(q1.dtype)
        dq1 = _dot(dscores, k1) * scale
        _store(dq + first * (num_heads * D), rows, num_heads * D, is_row, dq1, 0, D, D1)
        if D2:
            dq2 = _dot(dscores, k2) * scale
            _store(dq + first * (num_heads * D), rows, num_heads * D, is_row, dq2, D1, D, D2)
        dscores = tl.trans(dscores)
        dk1 = _dot(dscores, q1, dk1)
        if D2:
            dk2 = _dot(dscores, q2, dk2)

    dk += (share * num_images + image) * M * (num_heads * D) + head * D
    dv += (share * num_images + image) * M * (num_heads * DV) + head * DV
    _store(dk, keys, num_heads * D, is_key, dk1 * scale, 0, D, D1)
    _store(dv, keys, num_heads * DV, is_key, dv1, 0, DV, DV1)
    if D2:
        _store(dk, keys, num_heads * D, is_key, dk2 * scale, D1, D, D2)
    if DV2:
        _store(dv, keys, num_heads * DV, is_key, dv2, DV1, DV, DV2)


@triton.jit(do_not_specialize=_COUNTS)
def _forward(
    q, k, v, out, log_sums,
    q_image, q_row, k_image, k_row, v_image, v_row,
    N, M, num_heads, num_blocks, scale,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    DV: tl.constexpr, DV1: tl.constexpr, DV2: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    image, block, head = _place(tl.program_id(0), num_blocks, num_heads)
    first = tl.cast(block * BLOCK_N, tl.int64)
    rows = tl.arange(0, BLOCK_N)
    is_row = rows < N - block * BLOCK_N
    q += image * q_image + first * q_row + head * D
    k += image * k_image + head * D
    v += image * v_image + head * DV
    out += (image * N + first) * (num_heads * DV) + head * DV
    log_sums += (image * num_heads + head) * N + first

    q1 = _load(q, rows, q_row, is_row, 0, D, D1)
    q2 = q1
    if D2:
        q2 = _load(q, rows, q_row, is_row, D1, D, D2)
    o1 = tl.zeros((BLOCK_N, DV1), tl.float32)
    if DV2:
        o2 = tl.zeros((BLOCK_N, DV2), tl.float32)
    largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)

    for first_key in range(0, M, BLOCK_M):
        keys = tl.arange(0, BLOCK_M)
        is_key = keys < M - first_key
        k_start = k + tl.cast(first_key, tl.int64) * k_row
        v_start = v + tl.cast(first_key, tl.int64) * v_row
        k1 = _load(k_start, keys, k_row, is_key, 0, D, D1)
        k2 = k1
        if D2:
            k2 = _load(k_start, keys, k_row, is_key, D1, D, D2)
        scores = _inner(q1, q2, k1, k2, D2 > 0) * scale
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        # While all scores so far are -inf, anything finite will do: nothing was summed. -inf - -inf would be NaN.
        finite = tl.where(larger == float("-inf"), 0.0, larger)
        weights = tl.exp2(scores - finite[:, None])
        shrink = tl.exp2(largest - finite)
        total = total * shrink + tl.sum(weights, 1)
        largest = larger
        v1 = _load(v_start, keys, v_row, is_key, 0, DV, DV1)
        o1 = _dot(weights.to(v1.dtype), v1, o1 * shrink[:, None])
        if DV2:
            v2 = _load(v_start, keys, v_row, is_key, DV1, DV, DV2)
            o2 = _dot(weights.to(v2.dtype), v2, o2 * shrink[:, None])

    _store(out, rows, num_heads * DV, is_row, o1 / total[:, None], 0, DV, DV1)
    if DV2:
        _store(out, rows, num_heads * DV, is_row, o2 / total[:, None], DV1, DV, DV2)
    tl.store(log_sums + rows, largest + tl.log2(total), mask=is_row)


@triton.jit(do_not_specialize=_COUNTS)
def _backward_queries(
    q, k, v, out, grad, log_sums, sums, dq,
    q_image, q_row, k_image, k_row, v_image, v_row, grad_image, grad_row,
    N, M, num_heads, num_blocks, scale, scale_base_2,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    DV: tl.constexpr, DV1: tl.constexpr, DV2: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """dq of a block of queries, and `sums` for `_backward_keys`, (B, h, N, 2).

    They are pairs of a logarithm of `log_sums` and a delta: the row of out times that of its gradient.
    """
    image, block, head = _place(tl.program_id(0), num_blocks, num_heads)
    first = tl.cast(block * BLOCK_N, tl.int64)
    rows = tl.arange(0, BLOCK_N)
    is_row = rows < N - block * BLOCK_N
    q += image * q_image + first * q_row + head * D
    k += image * k_image + head * D
    v += image * v_image + head * DV
    grad += image * grad_image + first * grad_row + head * DV
    out += (image * N + first) * (num_heads * DV) + head * DV
    dq += (image * N + first) * (num_heads * D) + head * D
    log_sums += (image * num_heads + head) * N + first
    sums += ((image * num_heads + head) * N + first) * 2

    q1 = _load(q, rows, q_row, is_row, 0, D, D1)
    g1 = _load(grad, rows, grad_row, is_row, 0, DV, DV1)
    o1 = _load(out, rows, num_heads * DV, is_row, 0, DV, DV1)
    delta = tl.sum(g1.to(tl.float32) * o1.to(tl.float32), 1)
    dq1 = tl.zeros((BLOCK_N, D1), tl.float32)
    q2, g2 = q1, g1
    if D2:
        q2 = _load(q, rows, q_row, is_row, D1, D, D2)
        dq2 = tl.zeros((BLOCK_N, D2), tl.float32)
    if DV2:
        g2 = _load(grad, rows, grad_row, is_row, DV1, DV, DV2)
        o2 = _load(out, rows, num_heads * DV, is_row, DV1, DV, DV2)
        delta += tl.sum(g2.to(tl.float32) * o2.to(tl.float32), 1)
    log_sum = tl.load(log_sums + rows, mask=is_row, other=0.0)
    _store_pairs(sums, rows, is_row, log_sum, delta)

    for first_key in range(0, M, BLOCK_M):
        keys = tl.arange(0, BLOCK_M)
        is_key = keys < M - first_key
        k_start = k + tl.cast(first_key, tl.int64) * k_row
        v_start = v + tl.cast(first_key, tl.int64) * v_row
        k1 = _load(k_start, keys, k_row, is_key, 0, D, D1)
        v1 = _load(v_start, keys, v_row, is_key, 0, DV, DV1)
        k2, v2 = k1, v1
        if D2:
            k2 = _load(k_start, keys, k_row, is_key, D1, D, D2)
        if DV2:
            v2 = _load(v_start, keys, v_row, is_key, DV1, DV, DV2)
        scores = _inner(q1, q2, k1, k2, D2 > 0) * scale_base_2
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        weights = tl.exp2(scores - log_sum[:, None])
        dscores = (weights * (_inner(g1, g2, v1, v2, DV2 > 0) - delta[:, None])).to(k1.dtype)
        dq1 = _dot(dscores, k1, dq1)
        if D2:
            dq2 = _dot(dscores, k2, dq2)

    _store(dq, rows, num_heads * D, is_row, dq1 * scale, 0, D, D1)
    if D2:
        _store(dq, rows, num_heads * D, is_row, dq2 * scale, D1, D, D2)


@triton.jit(do_not_specialize=_COUNTS)
def _backward_keys(
    q, k, v, grad, sums, dk, dv,
    q_image, q_row, k_image, k_row, v_image, v_row, grad_image, grad_row,
    N, M, num_images, num_heads, num_blocks, num_shares, blocks_in_share, scale, scale_base_2,
    D: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr,
    DV: tl.constexpr, DV1: tl.constexpr, DV2: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """dk and dv of a block of keys, from a share of the queries; they are (shares, B, M, C' or Cv)."""
    image, place, head = _place(tl.program_id(0), num_blocks * num_shares, num_heads)
    block = place % num_blocks
    share = place // num_blocks
    first = tl.cast(block * BLOCK_M, tl.int64)
    keys = tl.arange(0, BLOCK_M)
    is_key = keys < M - block * BLOCK_M
    rows = tl.arange(0, BLOCK_N)
    q += image * q_image + head * D
    k += image * k_image + first * k_row + head * D
    v += image * v_image + first * v_row + head * DV
    grad += image * grad_image + head * DV
    sums += (image * num_heads + head) * N * 2

    k1 = _load(k, keys, k_row, is_key, 0, D, D1)
    v1 = _load(v, keys, v_row, is_key, 0, DV, DV1)
    dk1 = tl.zeros((BLOCK_M, D1), tl.float32)
    dv1 = tl.zeros((BLOCK_M, DV1), tl.float32)
    k2, v2 = k1, v1
    if D2:
        k2 = _load(k, keys, k_row, is_key, D1, D, D2)
        dk2 = tl.zeros((BLOCK_M, D2), tl.float32)
    if DV2:
        v2 = _load(v, keys, v_row, is_key, DV1, DV, DV2)
        dv2 = tl.zeros((BLOCK_M, DV2), tl.float32)

    for query_block in range(share * blocks_in_share, (share + 1) * blocks_in_share):
        start = tl.cast(query_block * BLOCK_N, tl.int64)
        is_row = rows < N - query_block * BLOCK_N
        q1 = _load(q + start * q_row, rows, q_row, is_row, 0, D, D1)
        g1 = _load(grad + start * grad_row, rows, grad_row, is_row, 0, DV, DV1)
        q2, g2 = q1, g1
        if D2:
            q2 = _load(q + start * q_row, rows, q_row, is_row, D1, D, D2)
        if DV2:
            g2 = _load(grad + start * grad_row, rows, grad_row, is_row, DV1, DV, DV2)
        log_sum, delta = _load_pairs(sums + start * 2, rows, is_row)
        # Keys stand in rows here, so that both factors of dk and dv are as the tensor cores want them.
        scores = _inner(k1, k2, q1, q2, D2 > 0) * scale_base_2  # (BLOCK_M, BLOCK_N)
        # Keys beyond M get nonsense, which stays in rows that nobody stores. Rows beyond N have a gradient of zero, but
        # 0 times an infinite key or value is NaN.
        weights = tl.where(is_row[None, :], tl.exp2(scores - log_sum[None, :]), 0.0)
        dweights = _inner(v1, v2, g1, g2, DV2 > 0)
        dscores = tl.where(is_row[None, :], weights * (dweights - delta[None, :]), 0.0).to(q1.dtype)
        weights = weights.to(g1.dtype)
        dv1 = _dot(weights, g1, dv1)
        dk1 = _dot(dscores, q1, dk1)
        if DV2:
            dv2 = _dot(weights, g2, dv2)
        if D2:
            dk2 = _dot(dscores, q2, dk2)

    dk += ((share * num_images + image) * M + first) * (num_heads * D) + head * D
    dv += ((share * num_images + image) * M + first) * (num_heads * DV) + head * DV
    _store(dk, keys, num_heads * D, is_key, dk1 * scale, 0, D, D1)
    _store(dv, keys, num_heads * DV, is_key, dv1, 0, DV, DV1)
    if D2:
        _store(dk, keys, num_heads * D, is_key, dk2 * scale, D1, D, D2)
    if DV2:
        _store(dv, keys, num_heads * DV, is_key, dv2, DV1, DV, DV2)
