"""Interactive window attention (IWSA): `reference.py` defines it, `fused.py` and `kernel.py` are its fast twins."""

from __future__ import annotations

import torch
from torch import Tensor

from scalablevit.ops.choice import Choice, Implementation, choose, warn_if_ignored
from scalablevit.ops.window_attention import fused, operators, reference
from scalablevit.ops.window_attention.tiles import cannot_serve
from scalablevit.ops.windows import check_window_size


def select_implementation(
    *,
    head_width: int,
    window_size: tuple[int, int],
    device: torch.device | None,
    dtype: torch.dtype | None,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Choice:
    """Choose the implementation that computes window attention.

    Args:
        head_width: channels of one head, D.
        window_size: rows and columns of a window, in tokens.
        device, dtype: of qkv; None while torch.fx records symbols that have neither.
        dropout: of attention weights.
        implementation: the one that the caller asked for.
    """

    def cannot() -> str | None:
        assert dtype is not None  # `choose` asks about sizes only where there are tensors
        return cannot_serve(window_size=window_size, head_width=head_width, dtype=dtype)

    return choose(implementation, device=device, dtype=dtype, dropout=dropout, cannot=cannot)


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
            otherwise. Where "triton" is asked for and cannot serve, "torch" runs, with a warning;
            `select_implementation` tells why. Only "reference" has second and forward-mode derivatives.

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
    choice = select_implementation(
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


def whole_windows(
    qkv: Tensor, *, num_heads: int, window_size: tuple[int, int], dropout: float, implementation: str
) -> Tensor:
    """Compute attention inside the windows of a map that is a whole number of them, without LIM.

    Args:
        qkv: queries, keys and values side by side, (B, H, W, 3C); H and W are multiples of the window's sides.
        num_heads, window_size, dropout: as in `window_attention`.
        implementation: what `select_implementation` chose (a str to torch.jit.script, which knows
            no literals). TorchScript holds PyTorch's fused attention only.

    Returns:
        (B, H, W, C).
    """
    if torch.jit.is_scripting() or implementation == "torch":
        out = fused.whole_windows(qkv, None, None, num_heads=num_heads, window_size=window_size, dropout=dropout)
    elif implementation == "triton":
        out = operators.window_attention(qkv, None, None, None, num_heads, *window_size)
    else:
        out = reference.window_attention(qkv, None, None, num_heads=num_heads, window_size=window_size, dropout=dropout)
    return out
