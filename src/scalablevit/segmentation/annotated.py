"""Validation images with the regions of their classes, as `scalablevit explain --study` takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit.data.bands import reads_bands
from scalablevit.data.check import evenly_spread
from scalablevit.data.image_file import ImageError
from scalablevit.explain.annotated import AnnotatedImage, AnnotatedObject
from scalablevit.segmentation.dataset import MaskDataset
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.mask_settings import MaskSettings
from scalablevit.segmentation.pairs import scan_pairs
from scalablevit.segmentation.predict import Segmenter
from scalablevit.segmentation.read_pair import PairError


def annotated_images(
    root: Path, predictor: Any, *, count: int, on_unreadable: Callable[[str], None]
) -> Iterator[AnnotatedImage]:
    """Read validation images with a region for each class in their masks, evenly spread over the set.

    Args:
        root: the data folder, in any layout of images and masks.
        predictor: the segmenter that is studied: it knows which label is which class.
        count: of images, at most.
        on_unreadable: is told of each pair that cannot be read.

    Raises:
        ValueError: the network is no segmenter, or the folder is not laid out as `scan_pairs` knows it.
    """
    if not isinstance(predictor, Segmenter):
        raise ValueError(
            f"{root} holds images with masks, whose labels only a segmenter can name: give data with boxes and class "
            "names (COCO, YOLO, VOC) for other networks"
        )
    scan = scan_pairs(root, MaskSettings())
    scan.raise_for_errors()
    chosen = [scan.val[i] for i in evenly_spread(len(scan.val), count)]
    names, in_chans = predictor.class_names, predictor.preprocessing.in_chans
    dataset = MaskDataset(
        scan.root,
        chosen,
        label_map=predictor.label_map or LabelMap(len(names)),
        mask_frame="auto",
        num_bands=in_chans if reads_bands(in_chans) else None,
        value_range=predictor.preprocessing.value_range,
        blank_shape=(1, 1, 1),
        max_substitutes=0,
        image_transform=predictor.transform,
    )
    for i in range(len(dataset)):
        try:
            pair = dataset.read(i)
        except (ImageError, PairError) as error:
            on_unreadable(str(error))
            continue
        present = [int(k) for k in np.unique(pair.labels) if k < len(names)]
        objects = [AnnotatedObject(names[k], pair.labels == k) for k in present]
        yield AnnotatedImage(dataset.path(i), pair.image, objects)
