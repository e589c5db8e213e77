"""Settings of RetinaNet and Mask R-CNN: the keyword arguments of `retinanet` and `mask_rcnn`, with their checks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from scalablevit.backbone import WindowSize
from scalablevit.dense_backbone import create_dense_backbone
from scalablevit.timm_pyramid import Pyramid

_log = logging.getLogger(__name__)

DEFAULT_DETECTIONS = 100
DEFAULT_ANCHOR_SIZES = (32, 64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Settings that both detectors have; the defaults are those of the published models.

    Args:
        in_chans: channels of the images; `mean` and `std` need as many values.
        scale_value: form of SSA; None: the published form, which is True for scalablevit_small only.
        drop_path_rate, window_size, grad_checkpointing: as for `create_backbone`.
        network_options: other arguments of `create_backbone`, or of timm's network, by name.
        min_size, max_size: shorter side of an image in evaluation, and bound of the longer side, in pixels.
        mean, std: of each channel, for values in 0..1.
        anchor_sizes: one length in pixels for each of the five levels; None: 32, 64, ..., 512. Choose smaller ones for
            small objects.
        fpn_channels: channels of the feature pyramid; at least 8.
        head_norm: normalise feature pyramid and heads, for training from scratch; the published models do not.
        score_thresh: lowest score of a detection.
        nms_thresh: highest IoU of two detections of one class.
        detections_per_image: detections of an image after suppression.

    Raises:
        ValueError: a value is out of range or of the wrong type.
    """

    name: ClassVar[str]
    strides: ClassVar[tuple[int, ...]]
    counts: ClassVar[tuple[str, ...]] = ("in_chans", "min_size", "max_size", "detections_per_image")
    channels: ClassVar[tuple[str, ...]] = ("fpn_channels",)
    shares: ClassVar[tuple[str, ...]] = ("score_thresh", "nms_thresh")

    in_chans: int = 3
    scale_value: bool | None = None
    drop_path_rate: float = 0.0
    window_size: WindowSize | Sequence[WindowSize] = 7
    network_options: Mapping[str, Any] | None = None
    grad_checkpointing: bool = False
    min_size: int = 800
    max_size: int = 1333
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN
    std: Sequence[float] = IMAGENET_DEFAULT_STD
    anchor_sizes: Sequence[int] | None = None
    fpn_channels: int = 256
    head_norm: bool = False
    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    detections_per_image: int = DEFAULT_DETECTIONS

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Read keyword arguments.

        Raises:
            ValueError: an unknown name, or a value out of range or of the wrong type.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"{cls.name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
        return cls(**options)

    def __post_init__(self) -> None:
        for name in self.counts:
            check_whole(name, getattr(self, name), least=1)
        for name in self.channels:
            check_whole(name, getattr(self, name), least=8)
        for name in self.shares:
            _check_share(name, getattr(self, name))
        if self.max_size < self.min_size:
            raise ValueError(f"max_size must be at least min_size ({self.min_size}), got {self.max_size}")
        self._check_channels()
        sizes, strides = self.anchor_sides(), self.strides
        if not _are_numbers(sizes) or len(sizes) != len(strides) or min(sizes) < 1:
            raise ValueError(
                f"anchor_sizes must be {len(strides)} sides of at least 1 px, for the levels of strides "
                f"{', '.join(map(str, strides))}; got {sizes!r}"
            )
        if self.network_options is not None and not isinstance(self.network_options, Mapping):
            raise ValueError(f"network_options must be names with values, got {self.network_options!r}")

    def build_body(self, variant: str) -> Pyramid:
        """Build the backbone.

        Raises:
            ValueError: no such variant, or an unknown name in `network_options`.
        """
        return create_dense_backbone(
            variant,
            in_chans=self.in_chans,
            scale_value=self.scale_value,
            drop_path_rate=self.drop_path_rate,
            window_size=self.window_size,
            network_options=self.network_options,
            grad_checkpointing=self.grad_checkpointing,
        )

    def anchor_sides(self) -> Sequence[int]:
        """Length of the anchors of each level, in pixels."""
        return DEFAULT_ANCHOR_SIZES if self.anchor_sizes is None else self.anchor_sizes

    def _warn_of_limit(self, name: str, boxes: int) -> None:
        """Warn where more detections are asked for than there are boxes before the last suppression."""
        if self.detections_per_image > max(boxes, DEFAULT_DETECTIONS):
            _log.warning(
                "detections_per_image %d is limited to about %d by %s %d: raise both",
                self.detections_per_image,
                boxes,
                name,
                getattr(self, name),
            )

    def _check_channels(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not _are_numbers(values) or len(values) != self.in_chans:
                raise ValueError(f"{name} must have one value for each of the {self.in_chans} channels, got {values!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {list(self.std)}")


@dataclass(frozen=True, kw_only=True)
class RetinaNetSettings(DetectorSettings):
    """Settings of RetinaNet.

    Its `anchor_sizes` are the sides of the smallest anchors of the levels with strides 8 to 128. Each level has three
    scales (1, 2^(1/3), 2^(2/3)) and three ratios.

    Args:
        num_convs: convolutions before each of the two outputs of the head.
        fg_iou_thresh: an anchor with at least this IoU learns its object.
        bg_iou_thresh: an anchor with a lower IoU learns the background.
        topk_candidates: boxes of a level before suppression.

    Raises:
        ValueError: a value is out of range or of the wrong type.
    """

    name: ClassVar[str] = "retinanet"
    strides: ClassVar[tuple[int, ...]] = (8, 16, 32, 64, 128)
    counts: ClassVar[tuple[str, ...]] = (*DetectorSettings.counts, "topk_candidates")
    shares: ClassVar[tuple[str, ...]] = (*DetectorSettings.shares, "fg_iou_thresh")

    num_convs: int = 4
    fg_iou_thresh: float = 0.5
    bg_iou_thresh: float = 0.4
    topk_candidates: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("num_convs", self.num_convs, least=0)
        _check_background(self.bg_iou_thresh, self.fg_iou_thresh, "")
        self._warn_of_limit("topk_candidates", len(self.strides) * self.topk_candidates)


@dataclass(frozen=True, kw_only=True)
class MaskRCNNSettings(DetectorSettings):
    """Settings of Mask R-CNN.

    Its `anchor_sizes` are the sides of the anchors of the levels with strides 4 to 64. Each level has three ratios.

    Args:
        rpn_convs: convolutions before the outputs of the proposal network; at least 1.
        rpn_pre_nms_top_n_train, rpn_pre_nms_top_n_test: proposals of a level before suppression.
        rpn_post_nms_top_n_train, rpn_post_nms_top_n_test: proposals of an image after suppression.
        rpn_nms_thresh: highest IoU of two proposals of a level.
        rpn_fg_iou_thresh: an anchor with at least this IoU learns its object.
        rpn_bg_iou_thresh: an anchor with a lower IoU learns the background.
        rpn_batch_size_per_image: anchors of an image that the proposal network learns from in a step.
        box_head_channels: of the two linear layers before the outputs of the boxes.
        box_batch_size_per_image: proposals of an image that boxes and masks learn from in a step.
        box_positive_fraction: largest share of objects among them.
        box_fg_iou_thresh: a proposal with at least this IoU learns its object, otherwise the background.
        mask_convs: convolutions before a mask; at least 1.
        mask_channels: channels of them; at least 8.

    Raises:
        ValueError: a value is out of range or of the wrong type.
    """

    name: ClassVar[str] = "mask_rcnn"
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32, 64)
    counts: ClassVar[tuple[str, ...]] = (
        *DetectorSettings.counts,
        "rpn_convs",
        "rpn_pre_nms_top_n_train",
        "rpn_pre_nms_top_n_test",
        "rpn_post_nms_top_n_train",
        "rpn_post_nms_top_n_test",
        "rpn_batch_size_per_image",
        "box_head_channels",
        "box_batch_size_per_image",
        "mask_convs",
    )
    channels: ClassVar[tuple[str, ...]] = (*DetectorSettings.channels, "mask_channels")
    shares: ClassVar[tuple[str, ...]] = (
        *DetectorSettings.shares,
        "rpn_nms_thresh",
        "rpn_fg_iou_thresh",
        "box_positive_fraction",
        "box_fg_iou_thresh",
    )

    rpn_convs: int = 1
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_fg_iou_thresh: float = 0.7
    rpn_bg_iou_thresh: float = 0.3
    rpn_batch_size_per_image: int = 256
    box_head_channels: int = 1024
    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    box_fg_iou_thresh: float = 0.5
    mask_convs: int = 4
    mask_channels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_background(self.rpn_bg_iou_thresh, self.rpn_fg_iou_thresh, "rpn_")
        self._warn_of_limit("rpn_post_nms_top_n_test", self.rpn_post_nms_top_n_test)


def check_whole(name: str, value: Any, *, least: int) -> None:
    """Raise a ValueError unless a setting is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(map(_is_number, values))


def _check_share(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")


def _check_background(background: Any, foreground: float, prefix: str) -> None:
    if not _is_number(background) or not 0 <= background <= foreground:
        raise ValueError(
            f"{prefix}bg_iou_thresh must lie between 0 and {prefix}fg_iou_thresh ({foreground}), got {background!r}"
        )
