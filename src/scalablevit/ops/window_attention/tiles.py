"""Tiles and grids of the kernels of window attention, and what fits them, by plain functions of the sizes.

Needs no Triton. The limits come from compiling every case for compute capability 8.0 and 9.0 and reading registers,
spilled bytes and shared memory (`benchmarks/kernel_resources.py`); `tests/ops/test_window_attention_compiles.py`
asserts what has to follow from them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

SUM_ROWS = 12
"""Rows of summed gradients: nine taps of LIM, its bias, keys and values of padded tokens."""

_LEAST = 16  # of a side of a matrix product in the tensor cores
_MOST_WINDOW = 128  # tokens
_MOST_WIDTH = 128  # channels of a head
_MOST_TILE = 8192  # tokens times channels, of 2 bytes; all three limits are half as large for 4


class Tiles(NamedTuple):
    """How a program is laid out: tokens and channels of a tile, both powers of two, warps, and stages of loads."""

    tokens: int
    channels: int
    num_warps: int
    num_stages: int


def _power_of_two(n: int) -> int:
    return max(_LEAST, 1 << (n - 1).bit_length())


def cannot_serve(*, window_size: tuple[int, int], head_width: int, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot serve such windows and heads, or None."""
    L = window_size[0] * window_size[1]
    if L > _MOST_WINDOW:
        return f"the kernel serves windows of up to {_MOST_WINDOW} tokens, not {L}"
    if head_width > _MOST_WIDTH:
        return f"the kernel serves heads of up to {_MOST_WIDTH} channels, not {head_width}"
    tokens, channels, scale = _power_of_two(L), _power_of_two(head_width), max(1, dtype.itemsize // 2)
    if scale * tokens * channels > _MOST_TILE or scale * tokens > _MOST_WINDOW or scale * channels > _MOST_WIDTH:
        name = str(dtype).removeprefix("torch.")
        return f"windows of {L} tokens with heads of {head_width} channels take too many registers in {name}"
    return None


def tiles(L: int, D: int, dtype: torch.dtype, *, backward: bool) -> Tiles:
    """The tiles of windows of L tokens and heads of D channels.

    Wide numbers multiply outside the tensor cores, and their operands lie in registers: twice the warps.
    """
    tokens, channels = _power_of_two(L), _power_of_two(D)
    if dtype.itemsize == 2:
        num_warps = 8 if tokens > 64 or channels > (32 if backward else 64) else 4 if tokens > 32 else 2
    else:
        num_warps = 16 if tokens * channels > 2048 else 8 if tokens > 16 else 4
    return Tiles(tokens, channels, num_warps, 1)


def windows_per_program(windows: int, heads: int) -> int:
    """How many windows a program of the backward takes: up to 8, and 1 where there are few.

    8 make the sums that it writes a hundredth of what it moves; 4,096 programs fill a large GPU several times over.
    """
    return max(1, min(8, windows * heads // 4096))
