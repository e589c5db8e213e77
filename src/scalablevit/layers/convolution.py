"""Calling a layer's convolution so that maps stay (B, H, W, C) in memory, whoever computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalablevit.layers.plain import is_plain
from scalablevit.ops import depthwise
from scalablevit.ops.choice import Implementation
from scalablevit.ops.convolution import convolution
from scalablevit.ops.layer_choice import dtype_of_products, may_run
from scalablevit.ops.layout import channels_first, channels_last
from scalablevit.ops.recording import is_exporting, is_symbolic


def convolve(conv: nn.Module, x: Tensor, *, implementation: Implementation = "auto") -> Tensor:
    """Compute `conv(x)` of a map: (B, C, H, W) -> (B, H', W', C').

    A depthwise convolution runs as our kernel where `scalablevit.ops.depthwise` chooses it. What torch.compile records
    for a CUDA device is one operator for the whole convolution. Everything else is a call of the module.

    Args:
        conv: an nn.Conv2d, or what stands in its place.
        x: the map; of one that is (B, H, W, C) in memory, a view.
        implementation: of a depthwise convolution.
    """
    if not is_symbolic(x) and may_run(x.device) and is_square(conv):
        found = _by_kernel(conv, channels_last(x), residual=False, implementation=implementation)
        if found is not None:
            return found
        if _is_compiled_for_cuda(x):
            return _as_operator(conv, channels_last(x))
    return channels_last(conv(x))


def convolve_and_add(conv: nn.Module, x: Tensor, *, implementation: Implementation = "auto") -> Tensor:
    """Compute `x + conv(x)` of a map whose size it keeps: (B, H, W, C) -> (B, H, W, C); otherwise as `convolve`."""
    if not is_symbolic(x) and may_run(x.device) and is_square(conv):
        found = _by_kernel(conv, x, residual=True, implementation=implementation)
        if found is not None:
            return found
    return x + convolve(conv, channels_first(x), implementation=implementation)


def is_square(conv: nn.Module) -> bool:
    """Tell whether it is a plain convolution of one side, one stride and one number of padding zeros."""
    if not isinstance(conv, nn.Conv2d) or not is_plain(conv, nn.Conv2d) or isinstance(conv.padding, str):
        return False
    pairs = (conv.kernel_size, conv.stride, conv.padding)
    is_even = all(pair[0] == pair[1] for pair in pairs)
    return is_even and conv.dilation == (1, 1) and conv.padding_mode == "zeros"


def _by_kernel(conv: nn.Module, x: Tensor, *, residual: bool, implementation: Implementation) -> Tensor | None:
    """The result of our kernel, (B, H', W', C); None where it does not run."""
    assert isinstance(conv, nn.Conv2d)
    assert not isinstance(conv.padding, str)
    if not x.shape[-1] == conv.groups == conv.in_channels == conv.out_channels:
        return None
    stride, padding = conv.stride[0], conv.padding[0]
    dtype = dtype_of_products(x)
    choice = depthwise.select_implementation(
        dim=conv.in_channels,
        side=conv.kernel_size[0],
        stride=stride,
        padding=padding,
        device=x.device,
        dtype=dtype,
        x=x,
        implementation=implementation,
    )
    if choice.implementation != "triton":
        return None
    out = depthwise.convolve_by_kernel(x, conv.weight, conv.bias, stride=stride, padding=padding, residual=residual)
    # Under autocast the sum with a map in fp32 is in fp32, as PyTorch's.
    return out if residual else out.to(dtype)


def _is_compiled_for_cuda(x: Tensor) -> bool:
    return torch.compiler.is_compiling() and x.device.type == "cuda" and not is_exporting()


def _as_operator(conv: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(conv, nn.Conv2d)
    assert not isinstance(conv.padding, str)
    dtype = dtype_of_products(x)
    weight, bias = conv.weight.to(dtype), None if conv.bias is None else conv.bias.to(dtype)
    # Images are copied here, where inductor can do it in one pass with a cast; maps need no copy.
    x = x.to(dtype).contiguous()
    out: Tensor = convolution(x, weight, bias, conv.stride[0], conv.padding[0], conv.groups)
    return out
