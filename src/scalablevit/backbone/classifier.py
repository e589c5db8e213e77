"""The classifier `ScalableViT`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Unpack

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from scalablevit.backbone.images import check_images
from scalablevit.backbone.layer_groups import layer_groups, peg_weights
from scalablevit.backbone.settings import (
    BlockOptions,
    BlockSettings,
    WindowSize,
    check_lengths,
    check_names,
    check_rates,
    per_stage,
)
from scalablevit.backbone.stage import Stage, typed
from scalablevit.layers import ClassifierHead, InteractiveWindowSelfAttention
from scalablevit.layers.head import PUBLISHED_HIDDEN_DIM
from scalablevit.ops.layout import channels_first
from scalablevit.ops.windows import as_window

# torch.fx records the check as it is: it reads sizes, which it does not know.
torch.fx.wrap("check_images")


class ScalableViT(nn.Module):
    """Classifier of four stages, for images of any height and width of at least one pixel.

    Args:
        in_chans: channels of the images.
        num_classes: K; 0 leaves the head out, and `forward` returns pooled, normalised features.
        global_pool: "avg", "max", or "" to keep the map.
        head: "published" (Linear to 4096, LayerNorm, GELU, Linear, as the released classifiers) or "plain" (Linear).
        embed_dims: channels of the stages.
        num_heads: attention heads of the stages.
        depths: blocks of the stages.
        channel_ratios: r_c of SSA in each stage, scaling queries and keys in width.
        reductions: R of SSA in each stage; the spatial scaling factor r_n is 1 / R^2.
        drop_rate: dropout probability before the head, in [0, 1).
        drop_path_rate: drop-path probability of the last block, in [0, 1); it rises linearly from 0.
        options: how every block is built, as for `BlockSettings`: window_size, pattern, lim, peg, mlp_ratio, ...

    Raises:
        ValueError: an argument is out of its range, or the stages' lists differ in length.

    Source: ScalableViT, arXiv:2203.10790, table 1.
    """

    __jit_unused_properties__ = ("grad_checkpointing",)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        head: Literal["published", "plain"] = "published",
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        depths: Sequence[int] = (2, 2, 20, 2),
        channel_ratios: Sequence[float] = (1.25, 1.25, 1.25, 1.0),
        reductions: Sequence[int] = (8, 4, 2, 1),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **options: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        num_stages, blocks = len(embed_dims), sum(depths)
        check_lengths(
            num_stages, num_heads=num_heads, depths=depths, channel_ratios=channel_ratios, reductions=reductions
        )
        if in_chans < 1:
            raise ValueError(f"in_chans must be at least 1, got {in_chans}")
        if head not in ("published", "plain"):
            raise ValueError(f"head must be 'published' or 'plain', got {head!r}")
        check_rates(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        check_names("ScalableViT.__init__", options)
        settings = BlockSettings(**options)
        windows = per_stage(settings.window_size, num_stages)

        self.in_chans = in_chans
        self.num_classes = num_classes
        self.head_type = head
        self.drop_rate = drop_rate
        self.output_fmt = "NHWC"
        self.stages = nn.ModuleList()
        feature_info: list[dict[str, Any]] = []
        reduction, first = 1, 0
        for i in range(num_stages):
            stride = 4 if i == 0 else 2
            reduction *= stride
            drop_paths = [drop_path_rate * j / max(blocks - 1, 1) for j in range(first, first + depths[i])]
            first += depths[i]
            self.stages.append(
                Stage(
                    in_chans if i == 0 else embed_dims[i - 1],
                    embed_dims[i],
                    settings,
                    kernel_size=7 if i == 0 else 3,
                    stride=stride,
                    num_heads=num_heads[i],
                    drop_paths=drop_paths,
                    reduction=reductions[i],
                    channel_ratio=channel_ratios[i],
                    window_size=windows[i],
                )
            )
            feature_info.append(dict(num_chs=embed_dims[i], reduction=reduction, module=f"stages.{i}"))
        self.feature_info = feature_info
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.norm: nn.Module = nn.LayerNorm(self.num_features, eps=1e-6)
        self.head: nn.Module
        self.global_pool: str
        self._make_head(num_classes, global_pool)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, K); pooled features (B, C) where `num_classes` is 0."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> normalised last map, (B, ceil(H/32), ceil(W/32), C)."""
        check_images(x, self.in_chans)
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else channels_first(x))  # (B, H', W', C_i)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) -> logits (B, K); with `pre_logits`, the pooled features (B, C)."""
        if self.global_pool == "avg":
            x = x.mean(dim=(1, 2))  # (B, C)
        elif self.global_pool == "max":
            x = x.amax(dim=(1, 2))  # (B, C)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of the stages, in timm's calling convention.

        Args:
            x: images, (B, in_chans, H, W).
            indices: stages to return; a number n means the last n, None all.
            norm: normalise the last stage's map by the network's own final LayerNorm.
            stop_early: do not run stages that nobody asked for.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the list only, not the final normalised map before it.

        Returns:
            list of maps, or (final map (B, H, W, C), list of maps).

        Raises:
            ValueError: an unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}")
        check_images(x, self.in_chans)
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        for i, stage in enumerate(self.stages if not stop_early else self.stages[: last + 1]):
            x = stage(x if i == 0 else channels_first(x))  # (B, H', W', C_i)
            if i in take:
                feature = self.norm(x) if norm and i == len(self.stages) - 1 else x
                intermediates.append(channels_first(feature) if output_fmt == "NCHW" else feature)
        if intermediates_only:
            return intermediates
        if not stop_early or last == len(self.stages) - 1:
            x = self.norm(x)
        return x, intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages behind the last one in `indices`, and the final norm with the last stage; timm's hook.

        Args:
            indices: stages that are needed, as for `forward_intermediates`.
            prune_norm: drop the final norm in any case.
            prune_head: drop the head; else it is made anew where its input has another width.

        Returns:
            the stages that `indices` means.
        """
        take, last = feature_take_indices(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        width = self.feature_info[last]["num_chs"]
        if prune_norm or width != self.num_features:
            self.norm = nn.Identity()  # the final norm belongs to the last stage
        is_narrower = width != self.num_features
        self.num_features = self.head_hidden_size = width
        if prune_head:
            self.reset_classifier(0, "")
        elif is_narrower:
            self.reset_classifier(self.num_classes)
        return take

    def get_classifier(self) -> nn.Module:
        """The last layer of the head: Linear to K logits, or Identity."""
        return self.head.fc if isinstance(self.head, ClassifierHead) else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one of the same type; 0 classes leave it out."""
        weight = next(self.parameters())
        self._make_head(num_classes, self.global_pool if global_pool is None else global_pool)
        self.head.apply(_init_weights)
        self.head.to(device=weight.device, dtype=weight.dtype)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions by which timm sorts parameters into layers, for layer-wise learning rates."""
        return layer_groups(coarse)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed: those of PEG."""
        return peg_weights(self.stages)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for stage in typed(self.stages):
            stage.grad_checkpointing = enable

    @property
    def grad_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return any(stage.grad_checkpointing for stage in typed(self.stages))

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        window_size: WindowSize | Sequence[WindowSize] | None = None,
    ) -> None:
        """Change IWSA's windows; timm's hook. No weight depends on the size of images, so any `img_size` is fine.

        Raises:
            ValueError: an empty image, or a `patch_size` other than 4, which the first convolution fixes.
        """
        if img_size is not None and min((img_size,) if isinstance(img_size, int) else img_size) < 1:
            raise ValueError(f"img_size must be at least 1 pixel, got {img_size}")
        if patch_size not in (None, 4, (4, 4)):
            raise ValueError(f"patch_size is fixed at 4 by the first convolution, got {patch_size}")
        if window_size is not None:
            sizes = [as_window(size) for size in per_stage(window_size, len(self.stages))]
            for stage, size in zip(typed(self.stages), sizes, strict=True):
                for block in stage.blocks:
                    if isinstance(block.attn, InteractiveWindowSelfAttention):
                        block.attn.set_window_size(size)

    def _make_head(self, num_classes: int, global_pool: str) -> None:
        if num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, got {num_classes}")
        if global_pool not in ("avg", "max", ""):
            raise ValueError(f"global_pool must be 'avg', 'max' or '', got {global_pool!r}")
        self.num_classes, self.global_pool = num_classes, global_pool
        self.head = (
            ClassifierHead(
                self.num_features,
                num_classes,
                hidden_dim=PUBLISHED_HIDDEN_DIM if self.head_type == "published" else None,
                drop=self.drop_rate,
            )
            if num_classes > 0
            else nn.Identity()
        )


def _init_weights(module: nn.Module) -> None:
    """Linear: truncated normal of std 0.02. Convolution: normal of std sqrt(2 / fan_out). Biases: 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
