"""Telling layers that may be computed around their module from those that must be called."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as hooks


def is_plain(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Tell whether calling `module` does nothing but the maths of `kind` on its weights.

    Hooks, parametrizations, adapters and whatever else replaced the layer take effect only where it is called.
    """
    if type(module) is not kind:
        return False
    is_hooked = (
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
    return not is_hooked and "forward" not in module.__dict__ and not hooks._has_any_global_hook()


def is_plain_convolution(module: nn.Module | None, *, kernel_size: int, is_depthwise: bool) -> bool:
    """Tell whether `module` is a plain convolution of stride 1 that keeps the size of a zero-padded map.

    A depthwise one has a kernel of its own for each channel; the other kind has no groups.
    """
    if not isinstance(module, nn.Conv2d) or not is_plain(module, nn.Conv2d):
        return False
    side, border = (kernel_size, kernel_size), (kernel_size // 2, kernel_size // 2)
    return (
        module.kernel_size == side
        and module.padding == border
        and module.stride == module.dilation == (1, 1)
        and module.groups == (module.in_channels if is_depthwise else 1)
        and (module.out_channels == module.in_channels or not is_depthwise)
        and module.padding_mode == "zeros"
    )
