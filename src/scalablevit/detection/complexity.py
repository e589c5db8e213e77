"""Parameters and FLOPs of a detector, in both conventions."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from scalablevit.complexity import Complexity, count
from scalablevit.detection.models import ScalableMaskRCNN, ScalableRetinaNet, build_detector

# What papers count with; how many boxes an image really has depends on the image.
BOX_ROIS, MASK_ROIS = 1000, 100


class _Dense(nn.Module):
    """The part that looks at the whole image: backbone, feature pyramid and the head on every level."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Any:
        return self.head(list(self.backbone(images).values()))


def count_detector(
    model: ScalableRetinaNet | ScalableMaskRCNN,
    height: int,
    width: int,
    *,
    box_rois: int = BOX_ROIS,
    mask_rois: int = MASK_ROIS,
) -> Complexity:
    """Count a detector on one image of `height` by `width` pixels, as papers do.

    Selecting and suppressing boxes is not counted.

    Args:
        model: the detector; it is left as it is.
        height, width: of the image that the backbone sees; at least 1.
        box_rois: proposals that Mask R-CNN's box head looks at.
        mask_rois: detections that its mask head looks at.

    Raises:
        ValueError: a size or number out of range.
    """
    if min(height, width) < 1:
        raise ValueError(f"the image must be at least 1 pixel high and wide, got {height} x {width}")
    if min(box_rois, mask_rois) < 0:
        raise ValueError(f"box_rois and mask_rois must be at least 0, got {box_rois} and {mask_rois}")
    image = torch.empty(1, model.backbone.body.in_chans, height, width, device="meta")
    if isinstance(model, ScalableRetinaNet):
        parts = [count(_Dense(model.backbone, model.head), image)]
    else:
        heads = model.roi_heads
        boxes = torch.empty(box_rois, model.backbone.out_channels, *heads.box_roi_pool.output_size, device="meta")
        masks = torch.empty(mask_rois, model.backbone.out_channels, *heads.mask_roi_pool.output_size, device="meta")
        parts = [
            count(_Dense(model.backbone, model.rpn.head), image),
            count(nn.Sequential(heads.box_head, heads.box_predictor), boxes),
            count(nn.Sequential(heads.mask_head, heads.mask_predictor), masks),
        ]
    return Complexity(
        sum(p.numel() for p in model.parameters()),
        sum(part.multiply_adds for part in parts),
        sum(part.flops for part in parts),
    )


def describe(
    kind: Literal["retinanet", "mask_rcnn"],
    variant: str,
    height: int = 800,
    width: int = 1280,
    *,
    num_classes: int = 80,
    scale_value: bool | None = None,
) -> dict[str, Any]:
    """What `scalablevit info` prints of a detector with its published options.

    Args:
        kind, variant, num_classes, scale_value: as for `build_detector`.
        height, width: of the image, in pixels.

    Returns:
        image (height, width), parameters, multiply_adds, flops; for Mask R-CNN also the box_rois and mask_rois that
        were counted with.

    Raises:
        ValueError: no such kind or variant, or a size out of range.
    """
    with torch.device("meta"):
        model = build_detector(kind, variant, num_classes, scale_value=scale_value)
    cost = count_detector(model, height, width)
    rois = dict(box_rois=BOX_ROIS, mask_rois=MASK_ROIS) if kind == "mask_rcnn" else {}
    return {
        "image": [height, width],
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "flops": cost.flops,
        **rois,
    }
