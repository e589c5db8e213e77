"""What attention over reduced keys must move and multiply: the floor under the time of its kernels."""

from __future__ import annotations

from scalablevit.ops.reduced_attention.limits import is_one_block

_FP32 = 4  # bytes


def traffic(
    B: int,
    N: int,
    M: int,
    *,
    num_heads: int,
    key_width: int,
    value_width: int,
    itemsize: int,
    backward: bool = False,
) -> int:
    """Bytes that the kernels read and write at least, were every cache perfect.

    Sums of shared gradients (`kernel.py`) are left out: they depend on the device.

    Args:
        B, N, M: images, queries and keys of an image.
        num_heads: h.
        key_width, value_width: of one head.
        itemsize: bytes of an element.
        backward: of the backward instead of the forward.
    """
    queries, values = B * N * num_heads * key_width * itemsize, B * N * num_heads * value_width * itemsize
    keys = B * M * num_heads * (key_width + value_width) * itemsize
    rows = B * N * num_heads * _FP32
    one_block = is_one_block(M, key_width=key_width, value_width=value_width)
    if not backward:
        return queries + keys + values + (0 if one_block else rows)  # in: q, k, v; out: output, sums
    if one_block:
        return 2 * queries + values + 2 * keys  # in: q, gradient, k, v; out: dq, dk, dv
    # q, gradient, k and v twice; output, dq, dk, dv once; sums in, out and in again as pairs
    return 3 * queries + 3 * values + 3 * keys + 5 * rows


def products(
    B: int, N: int, M: int, *, num_heads: int, key_width: int, value_width: int, backward: bool = False
) -> int:
    """Multiply-adds of the matrix products, without the padding of tiles; arguments as in `traffic`."""
    pairs = B * N * M * num_heads
    if not backward:
        return pairs * (key_width + value_width)
    if is_one_block(M, key_width=key_width, value_width=value_width):
        return pairs * (3 * key_width + 2 * value_width)  # scores, dq, dk; gradient of the weights, dv
    return pairs * (4 * key_width + 3 * value_width)  # scores and gradient of the weights twice
