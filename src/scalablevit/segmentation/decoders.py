"""Decoders of a ScalableViT pyramid: Semantic FPN's, UperNet's and its auxiliary head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torchvision.ops import FeaturePyramidNetwork

from scalablevit.ops.pooling import adaptive_average_pool


class ConvNormReLU(nn.Module):
    """Convolution without bias, BatchNorm, ReLU.

    In training, BatchNorm cannot make statistics of a single value (one image, a map of one pixel, as in pooling to
    1 x 1 at batch 1); for such an input the running statistics stand in, as in evaluation, and stay as they are.
    Statistics synchronised over processes are made of all processes' values, and need no stand-in.

    Args:
        in_channels, out_channels, kernel_size: of the convolution, which keeps the map's size.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        x = self.conv(x)
        if self.norm.training and x.shape[0] * x.shape[2] * x.shape[3] == 1 and not _is_synchronised(self.norm):
            norm = self.norm
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            x = self.norm(x)
        return F.relu(x)


class SemanticFPNDecoder(nn.Module):
    """Feature pyramid, whose levels are alternately convolved and upsampled to stride 4, then summed.

    Args:
        channels: C_i of the maps, the finest first; a level's map has half the size of the one before.
        num_classes: K.
        fpn_channels: of the pyramid's levels.
        hidden_channels: of the levels at stride 4.
        dropout: probability of dropping a channel before the classifier, in [0, 1).

    Source: Panoptic Feature Pyramid Networks, arXiv:1901.02446, figure 3; BatchNorm in place of its GroupNorm, as in
        the implementations by which ADE20K figures are published.
    """

    def __init__(
        self, channels: Sequence[int], num_classes: int, *, fpn_channels: int, hidden_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.fpn = FeaturePyramidNetwork(list(channels), fpn_channels)
        # One convolution for each doubling on the way to stride 4; the finest level, which needs none, has one too.
        self.levels = nn.ModuleList(
            nn.ModuleList(
                ConvNormReLU(fpn_channels if j == 0 else hidden_channels, hidden_channels, 3) for j in range(max(i, 1))
            )
            for i in range(len(channels))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(hidden_channels, num_classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C_i, H_i, W_i)] -> logits (B, K, H_0, W_0)."""
        pyramid = list(self.fpn({str(i): x for i, x in enumerate(maps)}).values())
        total: Tensor | None = None
        for i, (x, convs) in enumerate(zip(pyramid, self.levels, strict=True)):
            for j, conv in enumerate(cast(nn.ModuleList, convs)):
                x = conv(x)
                if i > 0:
                    # To the next finer map's size and not by 2: where sizes are odd, levels would not meet.
                    x = resize(x, pyramid[i - 1 - j])
            total = x if total is None else total + x  # (B, hidden, H_0, W_0)
        return self.classifier(self.dropout(total))


class UperNetDecoder(nn.Module):
    """Pyramid pooling on the coarsest map, a top-down path, and all levels fused at stride 4.

    Args:
        channels: C_i of the maps, the finest first.
        num_classes: K.
        hidden_channels: of everything inside.
        pool_sizes: the coarsest map is averaged to each of these numbers of rows and columns.
        dropout: probability of dropping a channel before the classifier, in [0, 1).

    Source: Unified Perceptual Parsing for Scene Understanding, arXiv:1807.10221.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        hidden_channels: int,
        pool_sizes: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.pool_sizes = tuple(pool_sizes)
        self.pools = nn.ModuleList(ConvNormReLU(coarsest, hidden_channels, 1) for _ in pool_sizes)
        self.bottleneck = ConvNormReLU(coarsest + len(pool_sizes) * hidden_channels, hidden_channels, 3)
        self.laterals = nn.ModuleList(ConvNormReLU(dim, hidden_channels, 1) for dim in finer)
        self.smoothers = nn.ModuleList(ConvNormReLU(hidden_channels, hidden_channels, 3) for _ in finer)
        self.fusion = ConvNormReLU(len(channels) * hidden_channels, hidden_channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(hidden_channels, num_classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C_i, H_i, W_i)] -> logits (B, K, H_0, W_0)."""
        *finer, coarsest = maps
        pooled = [
            resize(conv(adaptive_average_pool(coarsest, size)), coarsest)
            for size, conv in zip(self.pool_sizes, self.pools, strict=True)
        ]
        top_down = self.bottleneck(torch.cat([coarsest, *pooled], dim=1))  # (B, hidden, H_3, W_3)
        levels = [top_down]
        for feature, lateral, smoother in zip(
            reversed(finer), reversed(self.laterals), reversed(self.smoothers), strict=True
        ):
            side = lateral(feature)
            top_down = side + resize(top_down, side)
            levels.insert(0, smoother(top_down))
        fused = torch.cat([levels[0], *(resize(level, levels[0]) for level in levels[1:])], dim=1)
        return self.classifier(self.dropout(self.fusion(fused)))


class FCNHead(nn.Module):
    """One 3x3 convolution and a classifier on one of the maps: UperNet's auxiliary head.

    Args:
        in_channels: of that map.
        num_classes: K.
        hidden_channels: between the two.
        dropout: probability of dropping a channel before the classifier, in [0, 1).
        level: which of the maps is read.

    Source: Fully Convolutional Networks, arXiv:1411.4038.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, hidden_channels: int, dropout: float, level: int = 2
    ) -> None:
        super().__init__()
        self.level = level
        self.conv = ConvNormReLU(in_channels, hidden_channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(hidden_channels, num_classes)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C_i, H_i, W_i)] -> logits (B, K, H_level, W_level)."""
        return self.classifier(self.dropout(self.conv(maps[self.level])))


def resize(x: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W) bilinearly, H and W being those of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _classifier(in_channels: int, num_classes: int) -> nn.Conv2d:
    """1x1 convolution to logits, which start near zero."""
    classifier = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.normal_(classifier.weight, std=0.01)
    assert classifier.bias is not None
    nn.init.zeros_(classifier.bias)
    return classifier


def _is_synchronised(norm: nn.Module) -> bool:
    """Whether statistics are gathered from more than this process."""
    return (
        isinstance(norm, nn.SyncBatchNorm)
        and distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size(norm.process_group) > 1
    )
