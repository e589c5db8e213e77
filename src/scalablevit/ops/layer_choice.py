"""Choose whether our kernels compute the layers other than attention: depthwise convolutions and feed-forward parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scalablevit.ops import measured
from scalablevit.ops.choice import IS_INTERPRETED, Choice, Implementation, choose, implementation_in

ENVIRONMENT_VARIABLE = "SCALABLEVIT_LAYERS"
"""Sets the implementation of every such layer whose own is "auto"; read when scalablevit is imported."""

DEFAULT: Implementation = implementation_in(ENVIRONMENT_VARIABLE)


def choose_for_layer(
    wanted: Implementation,
    *,
    device: torch.device | None,
    dtype: torch.dtype | None,
    cannot: Callable[[], str | None],
    operator: str,
    sizes: str,
    x: Tensor | None = None,
) -> Choice:
    """Choose the implementation of a layer, by the rules that hold for the attentions (`choice.py`).

    Where nobody asks for one, and PyTorch was measured to be faster on this device (`measured.py`), it is PyTorch.

    Args:
        wanted: what the caller asked for; "auto" leaves it to the environment variable and the device.
        device: of the map; None while torch.fx records symbols that have none.
        dtype: in which PyTorch would multiply; None likewise.
        cannot: tells why the kernel does not support these sizes, or None.
        operator, sizes: of the layer, as in `measured.Case`.
        x: the map, (B, ..., C), whose size and dtype a measurement holds for; None: none is asked for.
    """
    found = choose(wanted, device=device, dtype=dtype, dropout=0.0, cannot=cannot, default=DEFAULT)
    is_free = wanted == "auto" and DEFAULT == "auto"
    if found.implementation != "triton" or not is_free or device is None or dtype is None or device.type != "cuda":
        return found
    if x is None or not measured.is_anything_known():
        return found
    task: measured.Task = "training" if torch.is_grad_enabled() else "inference"
    tokens = measured.most_tokens(x)
    slower = measured.slower_kernel(operator, sizes, tokens, x.dtype, dtype, task, device.index)
    return found if slower is None else Choice("torch", slower)


def may_run(device: torch.device) -> bool:
    """Tell whether kernels or operators of ours may compute on a device: the first question, as it costs nothing."""
    return device.type == "cuda" or IS_INTERPRETED


def dtype_of_products(x: Tensor) -> torch.dtype:
    """Return the dtype of a linear layer's or convolution's output for x: autocast's, where it is on."""
    device = x.device.type
    # Asked only where a kernel may run: the meta device does not support autocast, and torch raises.
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype
