"""Semantic FPN and UperNet on a ScalableViT pyramid."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torchvision.ops import FeaturePyramidNetwork

from scalablevit.backbone import (
    SCALED_VALUE_VARIANTS,
    PyramidBackbone,
    WindowSize,
    create_backbone,
    groups_below,
)
from scalablevit.complexity import count, stage_sizes
from scalablevit.ops.pooling import adaptive_average_pool

SegmenterKind = Literal["semantic_fpn", "upernet"]


class SegmentationModel(nn.Module):
    """A pyramid, and a decoder that labels its pixels; for images of any height and width.

    Args:
        backbone: from images to four maps at strides 4, 8, 16, 32.
        decoder: from the maps to logits (B, K, ceil(H / 4), ceil(W / 4)).
        num_classes: K, for the record.
        auxiliary: from the maps to logits (B, K, h, w), for a second loss in training; None: there is none.

    Attributes:
        backbone, decoder, auxiliary, num_classes: as given.
        in_chans: channels of the images.
        class_layers: prefixes of the names of parameters that hang on the classes.
    """

    class_layers = ("decoder.classifier.", "auxiliary.classifier.")

    def __init__(
        self, backbone: PyramidBackbone, decoder: nn.Module, *, num_classes: int, auxiliary: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.auxiliary = auxiliary
        self.num_classes = num_classes
        self.in_chans = backbone.in_chans

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to logits (B, K, H, W), in training and in evaluation."""
        return resize(self.decoder(self.backbone(images)), images)

    def forward_with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same, and the auxiliary head's logits (B, K, H, W), or None where there is no such head."""
        maps = self.backbone(images)
        logits = resize(self.decoder(maps), images)
        return logits, None if self.auxiliary is None else resize(self.auxiliary(maps), images)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass instead of keeping their activations."""
        self.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed: those of PEG."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort parameters into layers: the backbone's, then all of the heads as the last."""
        return groups_below("backbone.", self.backbone.group_matcher(coarse))


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
    """Feature pyramid, whose levels are convolved and upsampled by turns to stride 4 and summed.

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


def semantic_fpn(
    name: str,
    num_classes: int = 150,
    *,
    in_chans: int = 3,
    scale_value: bool | None = None,
    drop_path_rate: float = 0.0,
    window_size: WindowSize | Sequence[WindowSize] = 7,
    network_options: dict[str, Any] | None = None,
    fpn_channels: int = 256,
    channels: int = 128,
    dropout: float = 0.1,
    grad_checkpointing: bool = False,
) -> SegmentationModel:
    """Semantic FPN: at 512 x 2048 and 150 classes, S has 30.4 M parameters and 174 G multiply-adds.

    Args:
        name: variant of the backbone, such as "scalablevit_small".
        num_classes: K; at least 1.
        in_chans, drop_path_rate, window_size, grad_checkpointing: of the backbone, as for `create_backbone`.
        scale_value: scale SSA's values in width; None: as in the published figures, for scalablevit_small only.
        network_options: further arguments of `create_backbone` by name.
        fpn_channels: of the feature pyramid.
        channels: of the levels at stride 4.
        dropout: probability of dropping a channel before the classifier, in [0, 1).

    Returns:
        model without an auxiliary head, freshly initialised; fill its backbone with `scalablevit.load_weights`.

    Raises:
        ValueError: no such variant, or an argument out of range.

    Source: ScalableViT, arXiv:2203.10790, section 4.3; arXiv:1901.02446.
    """
    _check(num_classes=num_classes, fpn_channels=fpn_channels, channels=channels)
    _check_dropout(dropout)
    backbone = _backbone(
        name, in_chans, scale_value, drop_path_rate, window_size, network_options or {}, grad_checkpointing
    )
    decoder = SemanticFPNDecoder(
        backbone.channels, num_classes, fpn_channels=fpn_channels, hidden_channels=channels, dropout=dropout
    )
    return SegmentationModel(backbone, decoder, num_classes=num_classes)


def upernet(
    name: str,
    num_classes: int = 150,
    *,
    in_chans: int = 3,
    scale_value: bool | None = None,
    drop_path_rate: float = 0.0,
    window_size: WindowSize | Sequence[WindowSize] = 7,
    network_options: dict[str, Any] | None = None,
    channels: int = 512,
    auxiliary_channels: int = 256,
    pool_sizes: Sequence[int] = (1, 2, 3, 6),
    dropout: float = 0.1,
    grad_checkpointing: bool = False,
) -> SegmentationModel:
    """UperNet: at 512 x 2048 and 150 classes, S has 56.5 M parameters and, without auxiliary, 931 G multiply-adds.

    Args:
        name: variant of the backbone, such as "scalablevit_small".
        num_classes: K; at least 1.
        in_chans, drop_path_rate, window_size, grad_checkpointing: of the backbone, as for `create_backbone`.
        scale_value: scale SSA's values in width; None: as in the published figures, for scalablevit_small only.
        network_options: further arguments of `create_backbone` by name.
        channels: of the decoder.
        auxiliary_channels: of the auxiliary head on the map of stride 16; 0: no such head.
        pool_sizes: rows and columns that the coarsest map is averaged to.
        dropout: probability of dropping a channel before either classifier, in [0, 1).

    Returns:
        model, freshly initialised; fill its backbone with `scalablevit.load_weights`.

    Raises:
        ValueError: no such variant, or an argument out of range.

    Source: ScalableViT, arXiv:2203.10790, section 4.3; arXiv:1807.10221.
    """
    _check(num_classes=num_classes, channels=channels)
    _check_dropout(dropout)
    if auxiliary_channels < 0:
        raise ValueError(f"auxiliary_channels must be at least 0 (0: no auxiliary head), got {auxiliary_channels}")
    if not pool_sizes or min(pool_sizes) < 1:
        raise ValueError(f"pool_sizes must be numbers of at least 1, such as (1, 2, 3, 6), got {list(pool_sizes)}")
    backbone = _backbone(
        name, in_chans, scale_value, drop_path_rate, window_size, network_options or {}, grad_checkpointing
    )
    decoder = UperNetDecoder(
        backbone.channels, num_classes, hidden_channels=channels, pool_sizes=pool_sizes, dropout=dropout
    )
    auxiliary = (
        FCNHead(backbone.channels[2], num_classes, hidden_channels=auxiliary_channels, dropout=dropout)
        if auxiliary_channels
        else None
    )
    return SegmentationModel(backbone, decoder, num_classes=num_classes, auxiliary=auxiliary)


_BUILDERS: dict[str, Callable[..., SegmentationModel]] = {"semantic_fpn": semantic_fpn, "upernet": upernet}


def build_segmenter(kind: SegmenterKind, variant: str, num_classes: int, /, **model_args: Any) -> SegmentationModel:
    """Either model by name, as recipes and saved weights give it.

    Args:
        kind: "semantic_fpn" or "upernet".
        variant: of the backbone.
        num_classes: K; at least 1.
        model_args: keyword arguments of `semantic_fpn` or `upernet`.

    Raises:
        ValueError: no such model, variant or argument, or an argument out of range.
    """
    if kind not in _BUILDERS:
        raise ValueError(f"segmenter must be one of {', '.join(get_args(SegmenterKind))}, got {kind!r}")
    known = list(inspect.signature(_BUILDERS[kind]).parameters)[2:]
    if unknown := sorted(set(model_args) - set(known)):
        raise ValueError(f"{kind} has no option {', '.join(unknown)}; its options are {', '.join(known)}")
    return _BUILDERS[kind](variant, num_classes, **model_args)


def describe(
    kind: SegmenterKind, variant: str, height: int, width: int, *, num_classes: int = 150, **model_args: Any
) -> dict[str, Any]:
    """What a segmentation model costs, for images of `height` by `width` pixels.

    Args:
        kind, variant, num_classes, model_args: as for `build_segmenter`.
        height, width: in pixels; at least 1. Published figures are for 512 x 2048.

    Returns:
        parameters (the auxiliary head's included), multiply_adds and flops (without it, as in prediction), and for
        each stage its map's channels, height, width, stride, and blocks.

    Raises:
        ValueError: as `build_segmenter`.
    """
    with torch.device("meta"):
        model = build_segmenter(kind, variant, num_classes, **model_args)
        cost = count(model, torch.empty(1, model.in_chans, height, width))
    return {
        "image": [height, width],
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "flops": cost.flops,
        "stages": stage_sizes(model.backbone, height, width),
    }


def resize(x: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W) bilinearly, H and W being those of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _backbone(
    name: str,
    in_chans: int,
    scale_value: bool | None,
    drop_path_rate: float,
    window_size: WindowSize | Sequence[WindowSize],
    network_options: dict[str, Any],
    grad_checkpointing: bool,
) -> PyramidBackbone:
    signature = inspect.signature(create_backbone).parameters
    own = {"name", "in_chans", "scale_value", "drop_path_rate", "window_size", "grad_checkpointing"}
    if unknown := sorted(set(network_options) - (set(signature) - own)):
        further = ", ".join(key for key in signature if key not in own)
        raise ValueError(f"network_options cannot have {', '.join(unknown)}; it takes {further}")
    return create_backbone(
        name,
        in_chans=in_chans,
        scale_value=name in SCALED_VALUE_VARIANTS if scale_value is None else scale_value,
        drop_path_rate=drop_path_rate,
        window_size=window_size,
        grad_checkpointing=grad_checkpointing,
        **network_options,
    )


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


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
