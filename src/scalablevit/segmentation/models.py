"""Semantic FPN and UperNet on a pyramid: of ScalableViT, or of a network of timm."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from scalablevit.backbone import WindowSize, groups_below
from scalablevit.dense_backbone import create_dense_backbone
from scalablevit.moved import forward_moved_names
from scalablevit.segmentation.decoders import FCNHead, SemanticFPNDecoder, UperNetDecoder, resize
from scalablevit.timm_pyramid import Pyramid

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
        class_layers: prefixes of the names of parameters that depend on the classes.
    """

    class_layers = ("decoder.classifier.", "auxiliary.classifier.")

    def __init__(
        self, backbone: Pyramid, decoder: nn.Module, *, num_classes: int, auxiliary: nn.Module | None = None
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
        name: variant of the backbone, such as "scalablevit_small", or a network of timm's registry.
        num_classes: K; at least 1.
        in_chans, drop_path_rate, window_size, grad_checkpointing: of the backbone, as for `create_backbone`.
        scale_value: scale SSA's values in width; None: as in the published figures, for scalablevit_small only.
        network_options: further arguments of `create_backbone`, or of timm's network, by name.
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
    backbone = create_dense_backbone(
        name,
        in_chans=in_chans,
        scale_value=scale_value,
        drop_path_rate=drop_path_rate,
        window_size=window_size,
        network_options=network_options,
        grad_checkpointing=grad_checkpointing,
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
        name: variant of the backbone, such as "scalablevit_small", or a network of timm's registry.
        num_classes: K; at least 1.
        in_chans, drop_path_rate, window_size, grad_checkpointing: of the backbone, as for `create_backbone`.
        scale_value: scale SSA's values in width; None: as in the published figures, for scalablevit_small only.
        network_options: further arguments of `create_backbone`, or of timm's network, by name.
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
    backbone = create_dense_backbone(
        name,
        in_chans=in_chans,
        scale_value=scale_value,
        drop_path_rate=drop_path_rate,
        window_size=window_size,
        network_options=network_options,
        grad_checkpointing=grad_checkpointing,
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


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")


forward_moved_names(__name__)
