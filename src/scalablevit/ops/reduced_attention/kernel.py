"""Attention over reduced keys in Triton: which kernel of `programs.py` runs, in which tiles, and its launch."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from scalablevit.ops.reduced_attention.limits import is_one_block
from scalablevit.ops.reduced_attention.programs import (
    _backward_keys,
    _backward_queries,
    _forward,
    _one_block_backward,
    _one_block_forward,
)

_LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Tiles:
    """How a kernel cuts its work.

    Attributes:
        queries, keys: rows of a tile of queries, and of keys.
        num_warps: warps of a program.
        num_stages: loads that a loop has in flight, and one.
    """

    queries: int
    keys: int
    num_warps: int
    num_stages: int


def parts(width: int) -> tuple[int, int]:
    """Columns of the tiles that hold a head's width: one power of two, or two of them where that pads less.

    >>> parts(32), parts(40), parts(60), parts(5)
    ((32, 0), (32, 16), (64, 0), (16, 0))
    """
    whole = max(16, triton.next_power_of_2(width))
    half = whole // 2
    rest = max(16, triton.next_power_of_2(width - half)) if width > half else whole
    return (half, rest) if rest < half else (whole, 0)


def constants(key_width: int, value_width: int, tiles: Tiles) -> dict[str, int]:
    """The kernels' compile-time arguments."""
    (D1, D2), (DV1, DV2) = parts(key_width), parts(value_width)
    return {
        "D": key_width, "D1": D1, "D2": D2,
        "DV": value_width, "DV1": DV1, "DV2": DV2,
        "BLOCK_N": tiles.queries, "BLOCK_M": tiles.keys,
    }  # fmt: skip


def choose_tiles(kernel: str, *, key_width: int, value_width: int, dtype: torch.dtype) -> Tiles:
    """Tiles that compile for sm_80 and sm_90 in less shared memory than 99 KiB, and at most a few spilled registers.

    None are spilled at the published widths in bf16 and fp16.

    Args:
        kernel: "one_block_forward", "one_block_backward", "forward", "backward_queries" or "backward_keys".
        key_width, value_width: of one head.
        dtype: of q, k and v. fp32 is multiplied outside the tensor cores, and wants smaller tiles.
    """
    columns = sum(parts(key_width) + parts(value_width))
    size = "narrow" if columns <= 80 else "medium" if columns <= 128 else "wide"  # 80: widths of 40 and 32
    return Tiles(*(_FP32_TILES if dtype == torch.float32 else _HALF_TILES)[kernel, size])


# Found by compiling; queries, keys, num_warps, num_stages.
_HALF_TILES = {
    ("one_block_forward", "narrow"): (128, 64, 4, 1),
    ("one_block_forward", "medium"): (128, 64, 4, 1),
    ("one_block_backward", "narrow"): (64, 64, 4, 2),
    ("one_block_backward", "medium"): (32, 64, 4, 2),
    ("forward", "narrow"): (128, 64, 4, 3),
    ("forward", "medium"): (128, 64, 8, 2),
    ("forward", "wide"): (128, 64, 8, 2),
    ("backward_queries", "narrow"): (64, 64, 4, 2),
    ("backward_queries", "medium"): (64, 32, 4, 2),
    ("backward_queries", "wide"): (64, 32, 8, 2),
    ("backward_keys", "narrow"): (64, 64, 4, 2),
    ("backward_keys", "medium"): (32, 64, 4, 2),
    ("backward_keys", "wide"): (32, 64, 8, 2),
}
_FP32_TILES = {
    ("one_block_forward", "narrow"): (32, 64, 8, 1),
    ("one_block_forward", "medium"): (32, 64, 8, 1),
    ("one_block_backward", "narrow"): (16, 64, 8, 1),
    ("one_block_backward", "medium"): (16, 64, 8, 1),
    ("forward", "narrow"): (32, 32, 4, 1),
    ("forward", "medium"): (32, 32, 4, 1),
    ("forward", "wide"): (16, 16, 4, 1),
    ("backward_queries", "narrow"): (32, 32, 4, 1),
    ("backward_queries", "medium"): (32, 32, 8, 1),
    ("backward_queries", "wide"): (16, 16, 8, 1),
    ("backward_keys", "narrow"): (32, 32, 4, 1),
    ("backward_keys", "medium"): (32, 32, 4, 1),
    ("backward_keys", "wide"): (16, 32, 8, 1),
}


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sums: Tensor,
    *,
    num_heads: int,
    scale: float,
    tiles: Tiles | None = None,
) -> None:
    """Write the attention of q to k and v.

    Args:
        q, k, v: (B, N, C'), (B, M, C') and (B, M, Cv), none empty; a last dimension that is not contiguous is copied.
        out: (B, N, Cv), contiguous; written.
        log_sums: (B, h, N) in fp32, contiguous: base-2 logarithms of the sums under the softmax; written. Empty for
            one block of keys.
        num_heads: h.
        scale: factor on the scores.
        tiles: instead of `choose_tiles`.
    """
    q, k, v = (_with_adjacent_columns(x) for x in (q, k, v))
    B, N, M = q.shape[0], q.shape[1], k.shape[1]
    widths = {"key_width": q.shape[-1] // num_heads, "value_width": v.shape[-1] // num_heads}
    one_block = is_one_block(M, **widths)
    tiles = tiles or choose_tiles("one_block_forward" if one_block else "forward", dtype=q.dtype, **widths)
    tiles = _no_more_than(tiles, N)
    num_blocks = triton.cdiv(N, tiles.queries)
    sizes = (N, M, num_heads, num_blocks, scale * _LOG2_E)
    options = _options(tiles, **widths)
    grid = (B * num_blocks * num_heads,)
    with torch.cuda.device_of(q):
        if one_block:
            _one_block_forward[grid](q, k, v, out, *_strides(q, k, v), *sizes, **options)
        else:
            _forward[grid](q, k, v, out, log_sums, *_strides(q, k, v), *sizes, **options)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    log_sums: Tensor,
    *,
    num_heads: int,
    scale: float,
    tiles: tuple[Tiles, ...] = (),
    num_shares: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv, contiguous, in the dtype of the inputs.

    Args:
        grad: gradient of the output, (B, N, Cv).
        q, k, v, log_sums, num_heads, scale: of the forward.
        out: its output; for one block of keys None will do.
        tiles: instead of `choose_tiles`: of one kernel, or of the two (dq, then dk and dv).
        num_shares: into how many shares to cut the queries, each of which makes a dk and dv of its own; by default
            as many as it takes to occupy the device.
    """
    grad, q, k, v = (_with_adjacent_columns(x) for x in (grad, q, k, v))
    B, N, M = q.shape[0], q.shape[1], k.shape[1]
    widths = {"key_width": q.shape[-1] // num_heads, "value_width": v.shape[-1] // num_heads}
    one_block = is_one_block(M, **widths)
    names = ("one_block_backward",) if one_block else ("backward_queries", "backward_keys")
    tiles = tiles or tuple(choose_tiles(name, dtype=q.dtype, **widths) for name in names)
    tiles = tuple(_no_more_than(x, N) for x in tiles)
    strides = _strides(q, k, v, grad)
    scales = (scale, scale * _LOG2_E)

    of_keys = tiles[-1]
    key_blocks = 1 if one_block else triton.cdiv(M, of_keys.keys)
    query_blocks = triton.cdiv(N, of_keys.queries)
    num_shares = num_shares or triton.cdiv(_programs_to_occupy(q.device), B * num_heads * key_blocks)
    blocks_in_share = triton.cdiv(query_blocks, min(num_shares, query_blocks))
    num_shares = triton.cdiv(query_blocks, blocks_in_share)  # none of them without a block

    dq = q.new_empty(q.shape)
    # One share writes the gradients themselves; more need a sum, and that in fp32.
    dtype = k.dtype if num_shares == 1 else torch.float32
    dk, dv = (x.new_empty((num_shares, *x.shape), dtype=dtype) for x in (k, v))
    with torch.cuda.device_of(q):
        if one_block:
            _one_block_backward[(B * num_shares * num_heads,)](
                q, k, v, grad, dq, dk, dv,
                *strides, N, M, B, num_heads, num_shares, blocks_in_share, *scales, **_options(of_keys, **widths),
            )  # fmt: skip
        else:
            sums = log_sums.new_empty((*log_sums.shape, 2))
            num_blocks = triton.cdiv(N, tiles[0].queries)
            _backward_queries[(B * num_blocks * num_heads,)](
                q, k, v, out, grad, log_sums, sums, dq,
                *strides, N, M, num_heads, num_blocks, *scales, **_options(tiles[0], **widths),
            )  # fmt: skip
            _backward_keys[(B * key_blocks * num_shares * num_heads,)](
                q, k, v, grad, sums, dk, dv,
                *strides, N, M, B, num_heads, key_blocks, num_shares, blocks_in_share, *scales,
                **_options(of_keys, **widths),
            )  # fmt: skip
    if num_shares == 1:
        return dq, dk[0], dv[0]
    return dq, dk.sum(0).to(k.dtype), dv.sum(0).to(v.dtype)


def _with_adjacent_columns(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:2]]


def _options(tiles: Tiles, *, key_width: int, value_width: int) -> dict[str, int]:
    return {
        **constants(key_width, value_width, tiles),
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }


def _no_more_than(tiles: Tiles, N: int) -> Tiles:
    """Tiles of no more queries than N takes, and of 16 at least."""
    return replace(tiles, queries=min(tiles.queries, max(16, triton.next_power_of_2(N))))


@functools.cache
def _programs_to_occupy(device: torch.device) -> int:
    if device.type != "cuda":
        return 4  # the interpreter: enough to make shares
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count
