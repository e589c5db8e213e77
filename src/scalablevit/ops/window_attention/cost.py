"""What window attention must move and multiply: the floor under the time of its kernels."""

from __future__ import annotations


def traffic(B: int, H: int, W: int, *, dim: int, itemsize: int, backward: bool = False) -> int:
    """Bytes that the kernels read and write at least, were every cache perfect.

    Weights, and the sums of their gradients (`kernel.py`), are left out: they are hundredths of it.

    Args:
        B, H, W: images, rows and columns of the map, in tokens.
        dim: channels of all heads, C.
        itemsize: bytes of a number.
        backward: of the backward instead of the forward.
    """
    maps = 3 + 1 + 3 if backward else 3 + 1  # in: qkv, gradient; out: gradient of qkv - in: qkv; out: output
    return B * H * W * maps * dim * itemsize


def products(
    B: int, H: int, W: int, *, dim: int, window_size: tuple[int, int], lim: bool = True, backward: bool = False
) -> int:
    """Multiply-adds of the matrix products and of LIM, without the padding of tiles; arguments as in `traffic`.

    Args:
        B, H, W, dim, backward: as in `traffic`.
        window_size: rows and columns of a window, in tokens; windows at the border count whole.
        lim: with LIM.
    """
    rows, columns = window_size
    tokens = B * -(-H // rows) * rows * -(-W // columns) * columns
    of_attention = (5 if backward else 2) * rows * columns  # scores, output; scores and gradients of p, q, k, v
    of_lim = (18 if backward else 9) if lim else 0  # gradients of values and of the weight
    return tokens * dim * (of_attention + of_lim)
