"""What the Triton kernels of attention over reduced keys can serve; needs no Triton."""

from __future__ import annotations

MAX_WIDTH = 128
"""Largest width of a head: wider ones were not tried."""

_ONE_BLOCK_KEYS = 64
_ONE_BLOCK_WIDTH = 64  # the gradients of all keys stay in registers: wider heads spill


def cannot_serve(*, key_width: int, value_width: int) -> str | None:
    """Why the kernels cannot serve heads of these widths, or None."""
    widest = max(key_width, value_width)
    if widest > MAX_WIDTH:
        return f"the kernel serves head widths up to {MAX_WIDTH}, not {widest}"
    return None


def is_one_block(M: int, *, key_width: int, value_width: int) -> bool:
    """Whether M keys are served at once, without a loop over blocks of them."""
    return M <= _ONE_BLOCK_KEYS and max(key_width, value_width) <= _ONE_BLOCK_WIDTH
