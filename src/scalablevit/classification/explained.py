"""A classifier and an image, as `scalablevit.explain` takes them."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from scalablevit.classification.predict import Classifier
from scalablevit.explain.subject import Frame, Subject, Target, class_index


def subject_of(predictor: Classifier, path: Path, image: Image.Image, threshold: float) -> Subject:
    """Prepare an image; its target is the likeliest class, or a class by name.

    Args:
        predictor: the classifier.
        path: of the image.
        image: upright, RGB.
        threshold: has no effect: an image always has a likeliest class.
    """
    preprocessing = predictor.preprocessing
    pixels = predictor.transform(image)[None].to(predictor.device)  # (1, C, h, w)
    frame = Frame(
        (image.height, image.width), preprocessing.image_size, preprocessing.shown_box(image.height, image.width)
    )

    def find_targets(class_name: str | None) -> list[Target]:
        with torch.inference_mode():
            probabilities = predictor.network(pixels).float().softmax(dim=-1)[0]
        if class_name is None:
            k = int(probabilities.argmax())
        else:
            k = class_index(class_name, predictor.class_names)
        value = float(probabilities[k])
        return [Target(predictor.class_names[k], value, f"{value:.1%}", lambda logits: logits[:, k])]

    return Subject(
        path,
        image,
        predictor.network,
        inputs=pixels,
        frame=frame,
        pixels=pixels,
        pixels_frame=frame,
        find_targets=find_targets,
        class_names=predictor.class_names,
        compute=_logits,
        mean=[0.0] * preprocessing.in_chans,
    )


def _logits(network: nn.Module, pixels: Tensor) -> Any:
    return network(pixels)
