"""RetinaNet and Mask R-CNN on a ScalableViT pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from scalablevit.detection.models.mask_rcnn import ScalableMaskRCNN, mask_rcnn
from scalablevit.detection.models.paste import paste_mask, paste_masks
from scalablevit.detection.models.retinanet import ScalableRetinaNet, retinanet
from scalablevit.detection.models.settings import DetectorSettings, MaskRCNNSettings, RetinaNetSettings
from scalablevit.moved import forward_moved_names

__all__ = [
    "DETECTORS",
    "DetectorSettings",
    "MaskRCNNSettings",
    "RetinaNetSettings",
    "ScalableMaskRCNN",
    "ScalableRetinaNet",
    "build_detector",
    "find_objects",
    "mask_rcnn",
    "paste_mask",
    "paste_masks",
    "retinanet",
]

DETECTORS = ("retinanet", "mask_rcnn")


def build_detector(
    kind: Literal["retinanet", "mask_rcnn"], variant: str, num_classes: int, **options: Any
) -> ScalableRetinaNet | ScalableMaskRCNN:
    """Build `retinanet` or `mask_rcnn` by its name, with their keyword arguments.

    Raises:
        ValueError: no such kind, variant or option, or an argument out of range.
    """
    if kind not in DETECTORS:
        raise ValueError(f"there is no detector {kind!r}; choose from {', '.join(DETECTORS)}")
    build: Callable[..., Any] = retinanet if kind == "retinanet" else mask_rcnn
    return build(variant, num_classes, **options)


def find_objects(network: nn.Module, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Detect objects with a network in evaluation; masks stay as small as the network gives them, for memory's sake.

    Args:
        network: RetinaNet or Mask R-CNN of this package, or any network that returns the same.
        images: (C, H_i, W_i) each, float in 0..1.

    Returns:
        for each image what the network returns, of Mask R-CNN with `mask_probs` in the place of `masks`.
    """
    if not images:
        return []
    if isinstance(network, ScalableMaskRCNN):
        found: list[dict[str, Tensor]] = network(images, paste_masks=False)
        return found
    found = network(images)
    return found


forward_moved_names(__name__)
