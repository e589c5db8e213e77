"""Take a classifier apart for counting its cost."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scalablevit.complexity import Complexity, Parts, count
from scalablevit.device import choose_device
from scalablevit.layers import attention_paths
from scalablevit.networks import build_classifier, for_counting, has_fixed_size, is_ours, own_settings


def classifier_parts(network: nn.Module, height: int, width: int, *, in_chans: int = 3) -> Parts:
    """Take a classifier apart for one image of `height` by `width` pixels.

    The notes tell how its attentions compute on this machine: in bfloat16 on a GPU, else in float32.
    """
    device = choose_device(None)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    attention = [
        {"attention": path.attention, "blocks": path.blocks, **vars(path.choice)}
        for path in attention_paths(network, device=device, dtype=dtype)
    ]
    image = torch.empty(1, in_chans, height, width, device="meta")
    return Parts(network, network, [(network, image)], {"attention": attention})


def parts(
    model: str,
    variant: str,
    height: int = 224,
    width: int = 224,
    *,
    num_classes: int = 1000,
    scale_value: bool | None = None,
    in_chans: int = 3,
    **model_args: Any,
) -> Parts:
    """Build a classifier, taken apart for `scalablevit.complexity.describe`.

    Args:
        model: "classifier".
        variant: name of the network.
        height, width: of the image, in pixels; at least 1.
        num_classes: of the head.
        scale_value: the scaled-value form of SSA; None: the released form; has no effect on other networks.
        in_chans: channels of the images.
        model_args: further arguments of the network. One of timm's for images of one size is built for this size.

    Raises:
        ValueError: no such model or argument, or a network that takes no such images.
    """
    if model != "classifier":
        raise ValueError(f"model must be classifier, got {model!r}")
    own = {"scale_value": bool(scale_value)} if is_ours(variant) else {}
    size = {"img_size": [height, width]} if has_fixed_size(variant) else {}
    with for_counting(variant):
        network = build_classifier(variant, num_classes=num_classes, in_chans=in_chans, **{**own, **model_args, **size})
    return classifier_parts(network, height, width, in_chans=in_chans)


def run_cost(predictor: Any, data: Mapping[str, Any]) -> tuple[Complexity, tuple[int, int]]:
    """Count the cost of a trained classifier for one image of its own size.

    Args:
        predictor: a `Classifier`.
        data: keys of the run's data; not needed.

    Returns:
        cost, and (height, width) of the image.
    """
    height, width = predictor.preprocessing.image_size
    return count(predictor.network, torch.empty(1, predictor.preprocessing.in_chans, height, width)), (height, width)


def untrained(model: Mapping[str, Any]) -> nn.Module:
    """Build the classifier that a recipe means, for two classes and RGB images.

    Args:
        model: keys of the recipe's model.

    Raises:
        ValueError: no such network or option, or a value out of range.
    """
    own = {key: model[key] for key in ("window_size", "scale_value") if key in model}
    head = {} if model.get("head", "auto") == "auto" else {"head": model["head"]}
    variant = model["variant"]
    return build_classifier(
        variant, num_classes=2, **own_settings(variant, **own, **head), **(model.get("network_options") or {})
    )
