"""Cases in which `gpu.py` compares the kernels of layers other than attention with their definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalablevit.layers import Block, PositionalEncodingGenerator, ScalableSelfAttention
from scalablevit.ops import depthwise, feed_forward, norm_depthwise, norm_linear
from scalablevit.ops.choice import Choice, Implementation

Numbers = Callable[..., Tensor]
"""Makes normal numbers: (*shape, seed) -> fp64."""


@dataclass(frozen=True)
class FeedForwardCase:
    """Sizes of a block's feed-forward half; `width`: channels of the branch before its projection, 0 for none."""

    name: str
    shape: tuple[int, ...]
    hidden: int
    width: int = 0
    drop_path: bool = False

    def inputs(self, numbers: Numbers) -> dict[str, Tensor]:
        """Stream, branch and weights."""
        C = self.shape[-1]
        found = {
            "x": numbers(*self.shape, seed=0),
            "branch": numbers(*self.shape[:-1], self.width or C, seed=1),
            "norm_weight": numbers(C, seed=2),
            "norm_bias": numbers(C, seed=3),
            "weight_1": numbers(self.hidden, C, seed=4) * C**-0.5,
            "bias_1": numbers(self.hidden, seed=5),
            "weight_2": numbers(C, self.hidden, seed=6) * self.hidden**-0.5,
            "bias_2": numbers(C, seed=7),
        }
        if self.width:
            found["proj_weight"] = numbers(C, self.width, seed=8) * self.width**-0.5
            found["proj_bias"] = numbers(C, seed=9)
        return found

    def run(self, inputs: dict[str, Tensor], implementation: str) -> Tensor:
        """The public function."""
        x, branch, *weights = inputs.values()
        scale = torch.linspace(0, 1.5, len(x), dtype=x.dtype, device=x.device) if self.drop_path else None
        return feed_forward.feed_forward(
            x,
            branch,
            feed_forward.Weights(*weights),
            eps=1e-6,
            branch_scale=scale,
            scale=scale,
            implementation=implementation,  # type: ignore[arg-type]
        )

    def choice(self, *, device: torch.device, dtype: torch.dtype, implementation: Implementation) -> Choice:
        """What the kernel says of the case."""
        return feed_forward.select_implementation(
            dim=self.shape[-1], hidden_dim=self.hidden, device=device, dtype=dtype, implementation=implementation
        )


@dataclass(frozen=True)
class DepthwiseCase:
    """Sizes of a depthwise convolution: one that keeps the map's size, plus its map, or one that cuts patches."""

    name: str
    shape: tuple[int, int, int, int]
    side: int
    stride: int = 1

    @property
    def padding(self) -> int:
        """Zeros at each border."""
        return self.side // 2 if self.stride == 1 else 0

    def inputs(self, numbers: Numbers) -> dict[str, Tensor]:
        """Map, kernel and bias."""
        C = self.shape[-1]
        return {
            "x": numbers(*self.shape, seed=0),
            "weight": numbers(C, 1, self.side, self.side, seed=1) / self.side,
            "bias": numbers(C, seed=2),
        }

    def run(self, inputs: dict[str, Tensor], implementation: str) -> Tensor:
        """The public function."""
        return depthwise.depthwise_convolution(
            *inputs.values(),
            stride=self.stride,
            padding=self.padding,
            residual=self.stride == 1,
            implementation=implementation,  # type: ignore[arg-type]
        )

    def choice(self, *, device: torch.device, dtype: torch.dtype, implementation: Implementation) -> Choice:
        """What the kernel says of the case."""
        return depthwise.select_implementation(
            dim=self.shape[-1],
            side=self.side,
            stride=self.stride,
            padding=self.padding,
            device=device,
            dtype=dtype,
            implementation=implementation,
        )


@dataclass(frozen=True)
class NormLinearCase:
    """Sizes of a LayerNorm with a linear layer behind it."""

    name: str
    shape: tuple[int, ...]
    outputs: int

    def inputs(self, numbers: Numbers) -> dict[str, Tensor]:
        """Map and weights."""
        C = self.shape[-1]
        return {
            "x": numbers(*self.shape, seed=0),
            "norm_weight": numbers(C, seed=1),
            "norm_bias": numbers(C, seed=2),
            "weight": numbers(self.outputs, C, seed=3) * C**-0.5,
            "bias": numbers(self.outputs, seed=4),
        }

    def run(self, inputs: dict[str, Tensor], implementation: str) -> Tensor:
        """The public function."""
        return norm_linear.norm_linear(
            *inputs.values(),
            eps=1e-6,
            implementation=implementation,  # type: ignore[arg-type]
        )

    def choice(self, *, device: torch.device, dtype: torch.dtype, implementation: Implementation) -> Choice:
        """What the kernel says of the case."""
        return norm_linear.select_implementation(
            dim=self.shape[-1], outputs=self.outputs, device=device, dtype=dtype, implementation=implementation
        )


@dataclass(frozen=True)
class NormDepthwiseCase:
    """Sizes of a LayerNorm with patches of `side` tokens a side behind it."""

    name: str
    shape: tuple[int, ...]
    side: int

    def inputs(self, numbers: Numbers) -> dict[str, Tensor]:
        """Map and weights."""
        C = self.shape[-1]
        return {
            "x": numbers(*self.shape, seed=0),
            "norm_weight": numbers(C, seed=1),
            "norm_bias": numbers(C, seed=2),
            "weight": numbers(C, 1, self.side, self.side, seed=3) / self.side,
            "bias": numbers(C, seed=4),
        }

    def run(self, inputs: dict[str, Tensor], implementation: str) -> Tensor:
        """The public function."""
        return norm_depthwise.norm_depthwise(
            *inputs.values(),
            eps=1e-6,
            implementation=implementation,  # type: ignore[arg-type]
        )

    def choice(self, *, device: torch.device, dtype: torch.dtype, implementation: Implementation) -> Choice:
        """What the kernel says of the case."""
        C = self.shape[-1]
        return norm_depthwise.select_implementation(
            dim=C, outputs=C, side=self.side, device=device, dtype=dtype, implementation=implementation
        )


LayerCase = FeedForwardCase | DepthwiseCase | NormLinearCase | NormDepthwiseCase
OPERATORS: dict[type, str] = {
    FeedForwardCase: "feed_forward",
    DepthwiseCase: "depthwise",
    NormLinearCase: "norm_linear",
    NormDepthwiseCase: "norm_depthwise",
}
"""Kind of case -> the operator that is under test."""


def layer_cases(*, is_smoke: bool) -> list[LayerCase]:
    """The widths of S, with and without projection and drop path, odd widths; PEG and the patches of SSA."""
    odd: list[LayerCase] = [
        FeedForwardCase("width 24, hidden 90", (2, 3, 5, 24), 90, width=37, drop_path=True),
        DepthwiseCase("17 x 11 in patches of 8", (1, 17, 11, 16), 8, 8),
        NormLinearCase("width 24, 90 outputs", (2, 3, 5, 24), 90),
        NormDepthwiseCase("width 20, 9 x 6 in patches of 4", (2, 9, 6, 20), 4),
    ]
    if is_smoke:
        return odd
    return [
        FeedForwardCase("stage 1", (4, 56, 56, 64), 256, width=64),
        FeedForwardCase("stage 2, drop path", (4, 28, 28, 128), 512, width=128, drop_path=True),
        FeedForwardCase("stage 3, drop path", (4, 14, 14, 256), 1024, width=256, drop_path=True),
        FeedForwardCase("stage 3, projected before", (4, 14, 14, 256), 1024),
        FeedForwardCase("width 192", (2, 9, 11, 192), 768, width=240),
        *odd,
        DepthwiseCase("PEG", (4, 56, 56, 64), 3),
        DepthwiseCase("PEG, stage 3", (3, 13, 15, 256), 3),
        DepthwiseCase("patches of 8", (4, 56, 56, 64), 8, 8),
        DepthwiseCase("patches of 2", (4, 14, 14, 256), 2, 2),
        NormLinearCase("qkv of stage 1", (4, 56, 56, 64), 192),
        NormLinearCase("qkv of stage 3", (4, 14, 14, 256), 768),
        NormDepthwiseCase("normalised patches of 8", (4, 56, 56, 64), 8),
        NormDepthwiseCase("normalised patches of 2", (4, 14, 14, 256), 2),
    ]


def set_layers(model: nn.Module, implementation: Implementation) -> None:
    """Set the implementation of every layer other than attention that has one."""
    for module in model.modules():
        if isinstance(module, Block | PositionalEncodingGenerator):
            module.implementation = implementation
        elif isinstance(module, ScalableSelfAttention):
            module.reduce_implementation = implementation
