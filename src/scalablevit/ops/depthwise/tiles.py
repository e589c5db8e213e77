"""Tiles of the depthwise kernels, and what fits them, by plain functions of the sizes; needs no Triton."""

from __future__ import annotations

from typing import NamedTuple

_MOST_SIDE = 8  # tokens
_MOST_CHANNELS = 64  # of a program
_NUMBERS = 4096  # of a program's tile of results: 32 a thread


class Tiles(NamedTuple):
    """How a program is laid out: rows, columns and channels of its results, all powers of two, and warps."""

    rows: int
    columns: int
    channels: int
    num_warps: int


def cannot_serve(*, side: int, stride: int, padding: int) -> str | None:
    """Tell why the kernels cannot serve such a convolution, or None."""
    keeps_size = stride == 1 and side % 2 == 1 and padding == side // 2
    cuts_patches = stride == side and padding == 0
    if not (keeps_size or cuts_patches):
        return (
            "the kernel serves depthwise convolutions that keep the map's size or cut it into patches, not side "
            f"{side}, stride {stride}, padding {padding}"
        )
    if side > _MOST_SIDE:
        return f"the kernel serves depthwise convolutions of up to {_MOST_SIDE} tokens a side, not {side}"
    return None


def tiles(C: int, stride: int) -> Tiles:
    """Lay out the programs for C channels; of patches they take fewer results, which read more each."""
    channels = min(_MOST_CHANNELS, max(16, 1 << (C - 1).bit_length()))
    tokens = _NUMBERS // channels // (4 if stride > 1 else 1)
    columns = 1 << (tokens.bit_length() // 2)
    return Tiles(tokens // columns, columns, channels, 4)


def summed_tokens(channels: int) -> int:
    """Tokens that a program of the backward multiplies and sums at once."""
    return max(16, 1024 // channels)
