"""Take a segmentation model apart for counting its cost."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scalablevit.complexity import Complexity, Parts, count
from scalablevit.networks import for_counting
from scalablevit.segmentation.models import build_segmenter


def parts(
    model: str, variant: str, height: int = 512, width: int = 2048, *, num_classes: int = 150, **model_args: Any
) -> Parts:
    """Build a segmentation model, taken apart for `scalablevit.complexity.describe`.

    The auxiliary head of UperNet counts among the parameters, not among the operations: inference leaves it out.

    Args:
        model: "semantic_fpn" or "upernet".
        variant, num_classes, model_args: as for `build_segmenter`.
        height, width: of the image, in pixels; at least 1.

    Raises:
        ValueError: as `build_segmenter`.
    """
    with for_counting(variant):
        segmenter = build_segmenter(model, variant, num_classes, **model_args)  # type: ignore[arg-type]
    image = torch.empty(1, segmenter.in_chans, height, width, device="meta")
    return Parts(segmenter, segmenter.backbone, [(segmenter, image)])


def run_cost(predictor: Any, data: Mapping[str, Any]) -> tuple[Complexity, tuple[int, int]]:
    """Count the cost of a trained segmentation model for one image of the size of its training crops.

    Args:
        predictor: a `Segmenter`.
        data: keys of the run's data: crop_size.

    Returns:
        cost, and (height, width) of the image.
    """
    crop = data["crop_size"]
    height, width = (crop, crop) if isinstance(crop, int) else crop
    return count(predictor.network, torch.empty(1, predictor.preprocessing.in_chans, height, width)), (height, width)


def untrained(model: Mapping[str, Any]) -> nn.Module:
    """Build the segmentation model that a recipe means, for two classes and RGB images.

    Args:
        model: keys of the recipe's model.

    Raises:
        ValueError: no such network or option, or a value out of range.
    """
    own = {key: model[key] for key in ("window_size", "scale_value", "network_options") if key in model}
    options = model.get("segmenter_options") or {}
    try:
        return build_segmenter(model["segmenter"], model["variant"], 2, **own, **options)
    except TypeError as error:
        raise ValueError(f"model.segmenter_options: {error}; see {model['segmenter']} for its arguments") from error
