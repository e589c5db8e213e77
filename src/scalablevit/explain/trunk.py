"""The stages and blocks of a network of ours, one after the other, without hooks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalablevit.backbone import PyramidBackbone, ScalableViT, typed
from scalablevit.ops.layout import channels_first


@dataclass(frozen=True)
class BlockInput:
    """A block on its way through the network.

    Attributes:
        stage, index: of the block, from 0: `stages.STAGE.blocks.INDEX`.
        stride: pixels per token of the map.
        block: the block itself.
        x: (B, H, W, C) the map that it reads.
    """

    stage: int
    index: int
    stride: int
    block: Any
    x: Tensor

    @property
    def name(self) -> str:
        """Name of the block in the network."""
        return f"stages.{self.stage}.blocks.{self.index}"


def walk_blocks(core: ScalableViT | PyramidBackbone, images: Tensor) -> Iterator[BlockInput]:
    """Run the stages, and hand out each block with the map that it reads.

    Args:
        core: of `scalablevit.explain.explainable`, frozen.
        images: (B, C, H, W), normalised.
    """
    norms = core.norms if isinstance(core, PyramidBackbone) else None
    x, stride = images, 1
    for i, stage in enumerate(typed(core.stages)):
        patch_embed: Any = _uncompiled(stage.patch_embed)
        stride *= patch_embed.proj.stride[0]
        x = patch_embed(x if i == 0 else channels_first(x))  # (B, H', W', C)
        for j, block in enumerate(map(_uncompiled, stage.blocks)):
            yield BlockInput(i, j, stride, block, x)
            x = block(x)
            if j == 0:
                x = stage.peg(x)
        if norms is not None:
            x = norms[i](x)  # what the next stage of a pyramid reads


def _uncompiled(module: torch.nn.Module) -> Any:
    """The module itself where torch.compile wraps it."""
    return getattr(module, "_orig_mod", module)
