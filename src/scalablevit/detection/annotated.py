"""Validation images with their annotated objects, as `scalablevit explain --study` takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scalablevit.data.check import evenly_spread
from scalablevit.detection.coco import AnnotationSource
from scalablevit.detection.dataset import CocoDataset
from scalablevit.detection.split import read_split
from scalablevit.explain.annotated import AnnotatedImage, AnnotatedObject
from scalablevit.explain.regions import pixels_in


def annotated_images(
    root: Path, predictor: Any, *, count: int, on_unreadable: Callable[[str], None]
) -> Iterator[AnnotatedImage]:
    """Read validation images with their objects, evenly spread over the set; crowd regions are left out.

    Args:
        root: the data folder, in any layout of detection data.
        predictor: of the network that is studied; it may be of any task.
        count: of images, at most.
        on_unreadable: is told of each file that cannot be read.

    Raises:
        CocoError: the annotations cannot be used.
    """
    split = read_split(root, AnnotationSource(masks=True))
    chosen = split.val_indices[list(evenly_spread(len(split.val_indices), count))]
    keep: Any = _keep  # in the place of what makes training samples
    dataset = CocoDataset(
        split.val, chosen, transform=keep, max_substitutes=0, value_range=predictor.preprocessing.value_range
    )
    for i in range(len(dataset)):
        sample: Any = dataset[i]
        if not sample.readable:
            for message in sample.unreadable:
                on_unreadable(message)
            continue
        image, target = sample.image, sample.target
        objects = [
            AnnotatedObject(split.val.class_names[label], _region(image, box, mask))
            for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True)
        ]
        yield AnnotatedImage(dataset.path(i), image, objects)


def _keep(
    image: Image.Image,
    boxes: NDArray[Any],
    labels: NDArray[Any],
    masks: Sequence[Callable[[], NDArray[Any]] | None] | None,
) -> tuple[Image.Image, dict[str, Any]]:
    return image, {"boxes": boxes, "labels": labels.tolist(), "masks": masks or [None] * len(labels)}


def _region(image: Image.Image, box_xyxy: NDArray[Any], mask: Callable[[], NDArray[Any]] | None) -> NDArray[Any]:
    """(H, W) bool pixels of an object."""
    if mask is not None:
        return np.asarray(mask(), dtype=bool)
    left, top, right, bottom = box_xyxy.tolist()
    return pixels_in((left, top, right, bottom), (image.height, image.width))
