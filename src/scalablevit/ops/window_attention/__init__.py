"""Interactive window attention (IWSA): `reference.py` is the definition, `fused.py` its fast twin."""

from __future__ import annotations

from torch import Tensor

from scalablevit.ops.window_attention import fused
from scalablevit.ops.windows import check_window_size


def window_attention(
    qkv: Tensor,
    lim_weight: Tensor | None,
    lim_bias: Tensor | None,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    dropout: float = 0.0,
) -> Tensor:
    """Attention inside each window, plus the Local Interactive Module (LIM) over the whole value map.

    Args:
        qkv: queries, keys and values side by side, (B, H, W, 3C); H and W are multiples of the window's sides.
        lim_weight: 3x3 depthwise kernel, (C, 1, 3, 3); None leaves LIM out.
        lim_bias: (C,), or None.
        num_heads: h; divides C.
        window_size: rows and columns of a window, in tokens; each at least 1.
        dropout: probability in [0, 1) with which an attention weight is dropped.

    Returns:
        (B, H, W, C), before the output projection.

    Raises:
        ValueError: the channels are not three times a multiple of `num_heads`, or the map is not whole windows.

    Source: ScalableViT, arXiv:2203.10790, section 3.3.
    """
    C3 = qkv.shape[-1]
    if C3 % (3 * num_heads):
        raise ValueError(f"qkv has {C3} channels, which is not 3 x num_heads ({num_heads}) x a head width")
    check_window_size(window_size)
    return fused.window_attention(
        qkv, lim_weight, lim_bias, num_heads=num_heads, window_size=window_size, dropout=dropout
    )
