"""Linear layers whose weights are packed for oneDNN, the library that PyTorch computes convolutions with on a CPU.

PyTorch's own linear layer in float32 is MKL's, which takes another path on processors that are not Intel's. oneDNN
chooses by what the processor can do, and packs a weight once instead of at each call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.layers import Mlp
from scalablevit.layers.plain import is_plain, is_plain_convolution
from scalablevit.ops.layout import channels_first, channels_last


def can_pack(dtype: torch.dtype) -> bool:
    """Tell whether this machine computes linear layers of a dtype by oneDNN."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def pack(network: nn.Module) -> nn.Module:
    """Replace the plain linear layers of a network on a CPU, in place; outputs differ by rounding only.

    Layers with hooks, adapters or parametrizations stay, as do those of a dtype that oneDNN does not take here.

    Args:
        network: in evaluation mode; must not change device or dtype afterwards.

    Returns:
        the network, or what stands in its place if it is such a layer itself.
    """
    with torch.no_grad():
        packed = _packed(network)
        if packed is not None:
            return packed
        for name, child in list(network.named_children()):
            setattr(network, name, pack(child))
    return network


def _packed(module: nn.Module) -> nn.Module | None:
    """What stands in the place of a layer; None: the layer stays."""
    if isinstance(module, nn.Linear) and is_plain(module, nn.Linear) and _fits(module.weight):
        return PackedLinear(module.weight, module.bias)
    if isinstance(module, nn.Conv2d) and is_plain_convolution(module, kernel_size=1, is_depthwise=False):
        return PackedPointwise(module.weight.flatten(1), module.bias) if _fits(module.weight) else None
    if isinstance(module, Mlp) and is_plain(module, Mlp):
        first, second = module.fc1, module.fc2
        is_whole = is_plain(first, nn.Linear) and is_plain(second, nn.Linear) and is_plain(module.drop, nn.Dropout)
        if is_whole and _fits(first.weight) and _fits(second.weight):
            return PackedMlp(PackedLinear(first.weight, first.bias), PackedLinear(second.weight, second.bias))
    return None


def _fits(weight: Tensor) -> bool:
    return weight.is_cpu and can_pack(weight.dtype)


class PackedLinear(nn.Module):
    """A linear layer on a packed weight, which is no parameter any more.

    Args:
        weight: (out, in), on a CPU.
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        # Not a buffer: a packed tensor can neither be copied nor saved.
        self._weight = _reordered(weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return result

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_weight": self._weight.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._weight = _reordered(self._weight)

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        probe = fn(torch.empty(1, dtype=self.dtype))
        if probe.dtype != self.dtype or not probe.is_cpu:
            raise ValueError(
                f"this network was prepared for {self.dtype} on the CPU: move or convert the model that it was made "
                "from, and call optimize() again"
            )
        super()._apply(fn, recurse)
        return self

    def extra_repr(self) -> str:
        """Sizes, as of nn.Linear."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class PackedPointwise(PackedLinear):
    """The same as a 1x1 convolution."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W), in channels-last memory."""
        return channels_first(super().forward(channels_last(x)))


class PackedMlp(nn.Module):
    """The feed-forward part of a block, with GELU in place."""

    def __init__(self, fc1: PackedLinear, fc2: PackedLinear) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.fc2(torch.ops.aten.gelu_(self.fc1(x)))


def _reordered(weight: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return result
