"""A stage of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scalablevit.backbone.settings import BlockSettings, WindowSize
from scalablevit.layers import (
    Block,
    InteractiveWindowSelfAttention,
    Mlp,
    PatchEmbed,
    PositionalEncodingGenerator,
    ScalableSelfAttention,
)


class Stage(nn.Module):
    """Patch embedding, then blocks of IWSA and SSA in alternation, with one PEG after the first block.

    Args:
        in_chans: channels of the input.
        dim: channels C of the stage.
        settings: how the blocks are built.
        kernel_size, stride: of the patch embedding.
        num_heads: attention heads.
        drop_paths: one drop-path probability per block; their number is the stage's depth.
        reduction, channel_ratio: of SSA.
        window_size: of IWSA in this stage.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        settings: BlockSettings,
        *,
        kernel_size: int,
        stride: int,
        num_heads: int,
        drop_paths: Sequence[float],
        reduction: int,
        channel_ratio: float,
        window_size: WindowSize,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_chans, dim, kernel_size=kernel_size, stride=stride)
        self.blocks = nn.ModuleList()
        for i, drop_path in enumerate(drop_paths):
            attn: nn.Module
            if settings.pattern[i % len(settings.pattern)] == "iwsa":
                attn = InteractiveWindowSelfAttention(
                    dim,
                    num_heads,
                    window_size=window_size,
                    qkv_bias=settings.qkv_bias,
                    lim=settings.lim,
                    attn_drop=settings.attn_drop_rate,
                    proj_drop=settings.proj_drop_rate,
                )
            else:
                attn = ScalableSelfAttention(
                    dim,
                    num_heads,
                    reduction=reduction,
                    channel_ratio=channel_ratio,
                    scale_value=settings.scale_value,
                    qkv_bias=settings.qkv_bias,
                    attn_drop=settings.attn_drop_rate,
                    proj_drop=settings.proj_drop_rate,
                )
            mlp = Mlp(dim, int(dim * settings.mlp_ratio), drop=settings.proj_drop_rate)
            self.blocks.append(Block(dim, attn=attn, mlp=mlp, drop_path=drop_path))
        self.peg = PositionalEncodingGenerator(dim) if settings.peg else nn.Identity()
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, ceil(H / stride), ceil(W / stride), C)."""
        return self.run_blocks(self.patch_embed(x))  # (B, C_in, H, W) -> (B, H', W', C)

    def run_blocks(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C): the stage from behind its patch embedding on."""
        for i, block in enumerate(self.blocks):
            if self.grad_checkpointing and self.training and not torch.jit.is_scripting():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i == 0:  # CPVT (arXiv:2102.10882): position is best generated after one block
                x = self.peg(x)
        return x


def typed(stages: nn.ModuleList) -> list[Stage]:
    """The stages, for the type checker: torch's ModuleList does not say what it holds."""
    return [cast(Stage, stage) for stage in stages]
