"""The feature pyramid for dense tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from scalablevit.backbone.classifier import ScalableViT
from scalablevit.backbone.images import check_images
from scalablevit.backbone.layer_groups import layer_groups, peg_weights
from scalablevit.backbone.settings import BlockOptions, check_names
from scalablevit.backbone.stage import typed
from scalablevit.backbone.variants import VARIANTS
from scalablevit.ops.layout import channels_first

# torch.fx records the check as it is: it reads sizes, which it does not know.
torch.fx.wrap("check_images")


class PyramidBackbone(nn.Module):
    """The four stages as a feature pyramid, each map through a LayerNorm of its own.

    The normalised map is also what the next stage reads: the published dense checkpoints were trained so.

    Args:
        network: classifier whose stages are used; its final norm and head are not.

    Attributes:
        channels: C_i of the maps.
        strides: pixels per token of the maps: 4, 8, 16, 32.

    Source: ScalableViT, arXiv:2203.10790, section 4.2, and the authors' dense checkpoints.
    """

    def __init__(self, network: ScalableViT) -> None:
        super().__init__()
        self.in_chans = network.in_chans
        self.channels = [int(info["num_chs"]) for info in network.feature_info]
        self.strides = [int(info["reduction"]) for info in network.feature_info]
        self.stages = network.stages
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for dim in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> [(B, C_i, ceil(H / s_i), ceil(W / s_i))] at strides 4, 8, 16, 32."""
        check_images(images, self.in_chans)
        x, pyramid = images, []
        for stage, norm in zip(self.stages, self.norms):  # noqa: B905  torch.jit.script knows no `strict`
            x = channels_first(norm(stage(x)))  # (B, H_i, W_i, C_i) -> (B, C_i, H_i, W_i)
            pyramid.append(x)
        return pyramid

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for stage in typed(self.stages):
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed: those of PEG."""
        return peg_weights(self.stages)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort parameters into layers, for layer-wise learning rates."""
        return layer_groups(coarse)


def create_backbone(
    name: str,
    *,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    channel_ratios: Sequence[float] | None = None,
    reductions: Sequence[int] = (8, 4, 2, 1),
    grad_checkpointing: bool = False,
    **options: Unpack[BlockOptions],
) -> PyramidBackbone:
    """Build a feature pyramid for dense tasks.

    Args:
        name: a variant, such as "scalablevit_small" (see `VARIANTS`).
        in_chans, drop_path_rate, reductions: as for `ScalableViT`.
        channel_ratios: as for `ScalableViT`; None: the variant's.
        grad_checkpointing: recompute blocks in the backward pass, for less memory.
        options: how every block is built, as for `BlockSettings`: scale_value, window_size, lim, peg, mlp_ratio, ...

    Returns:
        module from images (B, in_chans, H, W) to a list of four maps (B, C_i, H_i, W_i), with `channels` and
        `strides`. Load weights with `scalablevit.load_weights`.

    Raises:
        ValueError: no such variant, or an argument out of range.
        TypeError: no such option.
    """
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r}; choose from {', '.join(VARIANTS)}")
    check_names("create_backbone", options)  # `ScalableViT` takes more, for heads
    numbers = dict(VARIANTS[name])
    if channel_ratios is not None:
        numbers["channel_ratios"] = channel_ratios
    network = ScalableViT(
        in_chans, num_classes=0, drop_path_rate=drop_path_rate, reductions=reductions, **numbers, **options
    )
    network.set_grad_checkpointing(grad_checkpointing)
    return PyramidBackbone(network)
