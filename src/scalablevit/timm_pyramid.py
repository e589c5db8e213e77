"""A feature pyramid from a network of timm, for dense tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.backbone import PyramidBackbone, check_images, groups_below
from scalablevit.networks import (
    check_network_name,
    checked_options,
    from_registry,
    has_fixed_size,
    ran_once,
    recompute_blocks,
    size_freeing_options,
)
from scalablevit.ops.layout import channels_first, channels_last

STRIDES = (4, 8, 16, 32)
"""Pixels per token of the maps that detectors and segmenters read."""

# Height and width, multiples of the coarsest stride as dense tasks pad to, of which timm's networks know nothing.
_PROBE = (128, 160)
_PREFIX = "trunk."


class TimmPyramid(nn.Module):
    """The maps of a network of timm at strides 4, 8, 16 and 32, as timm's `features_only` reads them.

    Args:
        trunk: classifier of timm with `forward_intermediates`; layers behind the last map are taken out of it.
        in_chans: channels of the images.

    Attributes:
        channels: C_i of the maps.
        strides: pixels per token of the maps: 4, 8, 16, 32.
        taps: a layer for each map that hands it on as (B, H_i, W_i, C_i), for whoever watches maps.

    Raises:
        ValueError: the network has no such maps.
    """

    def __init__(self, trunk: nn.Module, *, in_chans: int) -> None:
        super().__init__()
        name = str(getattr(trunk, "pretrained_cfg", {}).get("architecture", type(trunk).__name__))
        network: Any = trunk
        if not hasattr(trunk, "forward_intermediates") or not hasattr(trunk, "prune_intermediate_layers"):
            raise ValueError(f"{name} has no feature maps to read (timm's features_only): choose another network")
        infos = [dict(info) for info in network.feature_info]
        at_stride = {int(info["reduction"]): i for i, info in enumerate(infos)}
        if missing := [stride for stride in STRIDES if stride not in at_stride]:
            raise ValueError(
                f"{name} has maps at strides {', '.join(map(str, at_stride))}, none at {', '.join(map(str, missing))}; "
                f"detectors and segmenters read {', '.join(map(str, STRIDES))}: choose a network of four stages, such "
                "as a ResNet, ConvNeXt, Swin or one of ours"
            )
        indices = [at_stride[stride] for stride in STRIDES]
        self.in_chans = in_chans
        self.channels = [int(infos[i]["num_chs"]) for i in indices]
        self.strides = list(STRIDES)
        self.indices = list(network.prune_intermediate_layers(indices, prune_norm=True))
        self.trunk = trunk
        self.taps = nn.ModuleList(nn.Identity() for _ in STRIDES)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> [(B, C_i, H_i, W_i)] at strides 4, 8, 16, 32."""
        check_images(images, self.in_chans)
        network: Any = self.trunk
        maps = network.forward_intermediates(images, indices=self.indices, output_fmt="NCHW", intermediates_only=True)
        return [channels_first(tap(channels_last(x))) for tap, x in zip(self.taps, maps, strict=True)]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the network's blocks in the backward pass, where it can."""
        network: Any = self.trunk
        network.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed, by timm's list."""
        names: set[str] = getattr(self.trunk, "no_weight_decay", set)()
        return {_PREFIX + name for name in names}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort parameters into layers: timm's, or by the network's parts where it has none."""
        matcher = getattr(self.trunk, "group_matcher", None)
        rules = None if matcher is None else matcher(coarse)
        return groups_below(_PREFIX, rules if isinstance(rules, dict) else self._groups_by_part())

    def _groups_by_part(self) -> dict[str, Any]:
        """A layer for each part of the network, or for each part of a sequence."""
        rules = {}
        for name, child in self.trunk.named_children():
            part = r"(\d+)" if isinstance(child, nn.Sequential | nn.ModuleList) else ""
            rules[name] = rf"^{re.escape(name)}\.{part}"
        return rules


Pyramid = PyramidBackbone | TimmPyramid
"""What dense tasks are built on."""


def build_timm_pyramid(
    name: str,
    *,
    in_chans: int,
    drop_path_rate: float,
    options: Mapping[str, Any],
    grad_checkpointing: bool,
) -> TimmPyramid:
    """Build the pyramid of a network of timm, initialised at random; never reads a file or a hub.

    A network that timm builds for one size of images is built for any size where it can be, unless the options say.

    Args:
        name: of timm's registry.
        in_chans: channels of the images.
        drop_path_rate: drop-path probability of the last block, in [0, 1); a network without drop path is warned of.
        options: further arguments of the network.
        grad_checkpointing: recompute blocks in the backward pass, for less memory.

    Raises:
        ValueError: no such network or option, no maps at the strides, or images of one size only.
    """
    check_network_name(name)
    arguments = {"num_classes": 0, "in_chans": in_chans, **checked_options(name, options)}
    candidates = size_freeing_options(options) if has_fixed_size(name) else [{}]
    state = torch.get_rng_state()
    for i, freeing in enumerate(candidates):
        torch.set_rng_state(state)  # the same weights, whatever was tried before
        try:
            pyramid = TimmPyramid(
                from_registry(name, {**arguments, **freeing}, drop_path_rate=drop_path_rate), in_chans=in_chans
            )
            _check_maps(pyramid, name)
        except ValueError:
            if i + 1 < len(candidates):
                continue
            raise
        break
    if grad_checkpointing:
        recompute_blocks(pyramid, name)
    return pyramid


def _check_maps(pyramid: TimmPyramid, name: str) -> None:
    """Run a pyramid once on images that are not square, so that what it cannot do is said before a run begins."""
    height, width = _PROBE
    maps: Sequence[Tensor] = ran_once(pyramid, name, (1, pyramid.in_chans, height, width), varies=True)
    for x, channels, stride in zip(maps, pyramid.channels, pyramid.strides, strict=True):
        # convolutions without padding lose a row and a column
        off = max(abs(x.shape[2] - height // stride), abs(x.shape[3] - width // stride))
        if x.shape[1] != channels or off > 1:
            raise ValueError(
                f"{name} gives maps {tuple(x.shape[1:])} of images of {height} x {width} pixels, and says {channels} "
                f"channels at stride {stride}: choose another network"
            )
