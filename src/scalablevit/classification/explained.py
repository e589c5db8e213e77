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

    Of a network with any number of labels an image, the targets are all labels above the threshold, the likeliest
    first; where there is none, the likeliest class.

    Args:
        predictor: the classifier.
        path: of the image.
        image: upright, RGB.
        threshold: probability that labels must exceed; has no effect on networks with one class an image.
    """
    preprocessing = predictor.preprocessing
    pixels = predictor.transform(image)[None].to(predictor.device)  # (1, C, h, w)
    frame = Frame(
        (image.height, image.width), preprocessing.image_size, preprocessing.shown_box(image.height, image.width)
    )

    def find_targets(class_name: str | None) -> list[Target]:
        with torch.inference_mode():
            probabilities = predictor.probabilities(predictor.network(pixels))[0]
        if class_name is not None:
            chosen = [class_index(class_name, predictor.class_names)]
        elif predictor.multi_label:
            ranked = probabilities.argsort(descending=True).tolist()
            chosen = [k for k in ranked if probabilities[k] > threshold] or ranked[:1]
        else:
            chosen = [int(probabilities.argmax())]
        return [_target(predictor.class_names[k], float(probabilities[k]), k) for k in chosen]

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


def _target(name: str, value: float, k: int) -> Target:
    return Target(name, value, f"{value:.1%}", lambda logits: logits[:, k])


def _logits(network: nn.Module, pixels: Tensor) -> Any:
    return network(pixels)
