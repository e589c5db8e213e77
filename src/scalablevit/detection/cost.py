"""Take a detector apart for counting its cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.complexity import Complexity, Parts
from scalablevit.detection.models import ScalableMaskRCNN, ScalableRetinaNet, build_detector
from scalablevit.networks import for_counting

# What papers count with; the true number depends on the image.
BOX_ROIS, MASK_ROIS = 1000, 100


class _Dense(nn.Module):
    """The part that runs on the whole image: backbone, feature pyramid and the head on every level."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Any:
        return self.head(list(self.backbone(images).values()))


def detector_parts(
    model: ScalableRetinaNet | ScalableMaskRCNN,
    height: int,
    width: int,
    *,
    box_rois: int = BOX_ROIS,
    mask_rois: int = MASK_ROIS,
) -> Parts:
    """Take a detector apart for one image of `height` by `width` pixels, as papers count it.

    Selecting and suppressing boxes is not counted.

    Args:
        model: the detector; it stays unchanged.
        height, width: of the image that the backbone sees; at least 1.
        box_rois: number of proposals for the box head of Mask R-CNN.
        mask_rois: number of detections for its mask head.

    Raises:
        ValueError: a size or number out of range.
    """
    if min(height, width) < 1:
        raise ValueError(f"the image must be at least 1 pixel high and wide, got {height} x {width}")
    if min(box_rois, mask_rois) < 0:
        raise ValueError(f"box_rois and mask_rois must be at least 0, got {box_rois} and {mask_rois}")
    backbone = model.backbone.body
    image = torch.empty(1, backbone.in_chans, height, width, device="meta")
    if isinstance(model, ScalableRetinaNet):
        return Parts(model, backbone, [(_Dense(model.backbone, model.head), image)])
    heads = model.roi_heads
    boxes = torch.empty(box_rois, model.backbone.out_channels, *heads.box_roi_pool.output_size, device="meta")
    masks = torch.empty(mask_rois, model.backbone.out_channels, *heads.mask_roi_pool.output_size, device="meta")
    passes = [
        (_Dense(model.backbone, model.rpn.head), image),
        (nn.Sequential(heads.box_head, heads.box_predictor), boxes),
        (nn.Sequential(heads.mask_head, heads.mask_predictor), masks),
    ]
    return Parts(model, backbone, passes, {"box_rois": box_rois, "mask_rois": mask_rois})


def parts(
    model: str,
    variant: str,
    height: int = 800,
    width: int = 1280,
    *,
    num_classes: int = 80,
    scale_value: bool | None = None,
    **options: Any,
) -> Parts:
    """Build a detector with its published options, taken apart for `scalablevit.complexity.describe`.

    Args:
        model: "retinanet" or "mask_rcnn".
        variant, num_classes, scale_value, options: as for `build_detector`.
        height, width: of the image, in pixels.

    Raises:
        ValueError: no such model or variant, or a size out of range.
    """
    with for_counting(variant):
        detector = build_detector(model, variant, num_classes, scale_value=scale_value, **options)  # type: ignore[arg-type]
    return detector_parts(detector, height, width)


def run_cost(predictor: Any, data: Mapping[str, Any]) -> tuple[Complexity, tuple[int, int]]:
    """Count the cost of a trained detector for one square image of its shorter side, as `detector_parts` does.

    Args:
        predictor: a `Detector`.
        data: keys of the run's data; not needed.

    Returns:
        cost, and (height, width) of the image.
    """
    side = predictor.preprocessing.min_size
    return detector_parts(predictor.network, side, side).cost(), (side, side)


def untrained(model: Mapping[str, Any]) -> nn.Module:
    """Build the detector that a recipe means, for two classes.

    Args:
        model: keys of the recipe's model.

    Raises:
        ValueError: no such network or option, or a value out of range.
    """
    own = {key: model[key] for key in ("window_size", "scale_value", "network_options") if key in model}
    return build_detector(model["detector"], model["variant"], 2, **own, **(model.get("detector_options") or {}))
