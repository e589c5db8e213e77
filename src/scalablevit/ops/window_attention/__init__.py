"""Interactive window attention (IWSA): `reference.py` defines it, `fused.py` and `kernel.py` are its fast twins."""

from __future__ import annotations

import torch
from torch import Tensor

from scalablevit.ops.choice import Choice, Implementation, choose, warn_if_ignored
from scalablevit.ops.window_attention import fused, operators, reference
from scalablevit.ops.window_attention.tiles import cannot_serve
from scalablevit.ops.windows import check_window_size


def why(
    *,
    head_width: int,
    window_size: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Choice:
    """What `window_attention` runs for such tensors, and why.

    Args:
        head_width: channels of one head, D.
        window_size: rows and columns of a window, in tokens.
        device, dtype: of qkv.
        dropout: of attention weights.
        implementation: what is asked for.
    """
    return choose(
        implementation,
        device=device,
        dtype=dtype,
        dropout=dropout,
        cannot=lambda: cannot_serve(window_size=window_size, head_width=head_width, dtype=dtype),
    )


def window_attention(
    qkv: Tensor,
    lim_weight: Tensor | None,
    lim_bias: Tensor | None,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    fill: Tensor | None = None,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """Attention inside each window, plus the Local Interactive Module (LIM) over the whole value map.

    A map that is no whole number of windows is padded at the bottom and right. Padded tokens take part: they are keys,
    and LIM sees their values; beyond the padded map LIM sees zeros.

    Args:
        qkv: queries, keys and values side by side, (B, H, W, 3C), for any H and W.
        lim_weight: 3x3 depthwise kernel, (C, 1, 3, 3); None leaves LIM out.
        lim_bias: (C,), or None.
        num_heads: h; divides C.
        window_size: rows and columns of a window, in tokens; each at least 1.
        fill: queries, keys and values of a padded token, (3C,): the bias of the layer that made qkv; None for zeros.
        dropout: probability in [0, 1) with which an attention weight is dropped.
        implementation: "triton" (`kernel.py`), "torch" (`fused.py`), "reference", or "auto": the kernel in bfloat16 and
            float16 where it can serve, else "torch", unless the environment variable SCALABLEVIT_ATTENTION says
            otherwise. Where "triton" is asked for and cannot serve, "torch" runs, with a warning; `why` tells.
            Only "reference" has second and forward-mode derivatives.

    Returns:
        (B, H, W, C), before the output projection.

    Raises:
        ValueError: the channels are not three times a multiple of `num_heads`, `fill` is not one token, the window is
            empty, or `implementation` is unknown.

    Source: ScalableViT, arXiv:2203.10790, section 3.3.
    """
    C3 = qkv.shape[-1]
    if C3 % (3 * num_heads):
        raise ValueError(f"qkv has {C3} channels, which is not 3 x num_heads ({num_heads}) x a head width")
    if fill is not None and fill.shape != (C3,):
        raise ValueError(f"fill must be one token of qkv, ({C3},), got {tuple(fill.shape)}")
    check_window_size(window_size)
    choice = why(
        head_width=C3 // (3 * num_heads),
        window_size=window_size,
        device=qkv.device,
        dtype=qkv.dtype,
        dropout=dropout,
        implementation=implementation,
    )
    warn_if_ignored(implementation, choice, qkv.device)
    if choice.implementation == "triton":
        lim_bias = None if lim_weight is None else lim_bias
        return operators.window_attention(qkv, lim_weight, lim_bias, fill, num_heads, *window_size)
    twin = reference if choice.implementation == "reference" else fused
    return twin.window_attention(
        qkv, lim_weight, lim_bias, num_heads=num_heads, window_size=window_size, fill=fill, dropout=dropout
    )
