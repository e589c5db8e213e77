"""A detector and an image, as `scalablevit.explain` takes them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as F

from scalablevit.detection.models import find_objects
from scalablevit.detection.predict import Detector, decode_mask, detections_of
from scalablevit.detection.transforms import as_input
from scalablevit.explain.subject import Frame, Subject, Target, class_index

_SAME_OBJECT = 0.5
"""IoU from which on a box is that of the object that is explained, when the image is changed."""


def subject_of(predictor: Detector, path: Path, image: Image.Image, threshold: float) -> Subject:
    """Prepare an image; its targets are the scores of the objects found in it, the highest first.

    Args:
        predictor: the detector.
        path: of the image.
        image: upright, RGB.
        threshold: lowest score of an object that is explained.
    """
    network: Any = predictor.network
    size = (image.height, image.width)
    inputs = as_input(F.pil_to_tensor(image).to(predictor.device))[None]  # (1, 3, H, W) in 0..1
    whole = (0.0, 0.0, float(image.width), float(image.height))
    with torch.no_grad():
        batch, _ = network.transform([inputs[0]])

    def find_targets(class_name: str | None) -> list[Target]:
        wanted = None if class_name is None else class_index(class_name, predictor.class_names)
        with torch.inference_mode():
            (output,) = find_objects(network, [inputs[0]])
        found = detections_of(output, predictor.class_names, size=size, first_label=network.first_label)
        return [
            Target(
                one.name,
                one.score,
                f"{one.score:.1%}",
                _object_score(one.label + network.first_label, one.box_xyxy),
                box_xyxy=one.box_xyxy,
                region=None if one.mask is None else decode_mask(one.mask),
            )
            for one in found
            if one.score >= threshold and wanted in (None, one.label)
        ]

    return Subject(
        path,
        image,
        network,
        inputs=inputs,
        frame=Frame(size, size, whole),
        pixels=batch.tensors,
        pixels_frame=Frame(size, batch.image_sizes[0], whole),
        find_targets=find_targets,
        class_names=predictor.class_names,
        compute=_detections,
        mean=list(network.transform.mean),
    )


def _detections(network: nn.Module, inputs: Tensor) -> list[dict[str, Tensor]]:
    return find_objects(network, list(inputs))


def _object_score(
    label: int, box_xyxy: tuple[float, float, float, float]
) -> Callable[[Sequence[Mapping[str, Tensor]]], Tensor]:
    """The score of an object, found again by its label and box: from detections of B images to (B,); 0 where lost."""

    def score(outputs: Sequence[Mapping[str, Tensor]]) -> Tensor:
        scores = []
        for found in outputs:
            overlap = box_iou(found["boxes"].detach(), found["boxes"].new_tensor([box_xyxy]))[:, 0]
            same = (found["labels"] == label) & (overlap >= _SAME_OBJECT)
            kept = found["scores"][same]
            scores.append(kept[overlap[same].argmax()] if len(kept) else found["scores"].new_zeros(()))
        return torch.stack(scores)

    return score
