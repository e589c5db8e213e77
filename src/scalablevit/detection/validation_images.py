"""List the validation images of a recipe's data, without the training engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalablevit.detection.coco import AnnotationSource
from scalablevit.detection.split import read_split
from scalablevit.tasks import accepted_by


def validation_images(root: Path, settings: Mapping[str, Any]) -> list[Path]:
    """List the validation images, in the order of their annotations.

    Args:
        root: the data folder, or one annotation file.
        settings: keys of `CocoData`, as a recipe has them; those that say nothing of files are ignored.

    Raises:
        CocoError: as `read_split`.
    """
    source = AnnotationSource(**{**accepted_by(AnnotationSource, settings), "masks": False})
    split = read_split(root, source)
    return [split.val.file(int(index)) for index in split.val_indices]
