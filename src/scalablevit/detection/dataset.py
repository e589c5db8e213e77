"""Images of a COCO file with their objects as samples, and batches of them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_upright
from scalablevit.data.orientation import UprightImage
from scalablevit.data.pixel_values import ValueRange
from scalablevit.data.stored_path import StoredSamples, shards_of
from scalablevit.data.unreadable import read_or_substitute
from scalablevit.detection.coco import AnnotationFrame, CocoAnnotations, applied_orientation, orient_boxes, orient_mask
from scalablevit.detection.coco.json_file import Id
from scalablevit.detection.transforms import TrainTransform, as_input

_STAND_IN_SIZE = (32, 32)


class DetectionSample(NamedTuple):
    """One image with its objects; fields as of `DetectionBatch`, in the singular."""

    image: Tensor
    target: dict[str, Tensor]
    image_id: Id
    orientation: int
    readable: bool
    unreadable: tuple[str, ...]


class DetectionBatch(NamedTuple):
    """Images and what is in them.

    Fields:
        images: (3, h, w) each, upright, not normalised, of any sizes. In training float32 in 0..1; in validation
            uint8, which is a quarter to move: `transforms.as_input` makes the other of it, on the device.
        targets: for each image, in training: boxes (R, 4) float32, left, top, right, bottom in its pixels; labels
            (R,) int64 in 0..K-1; with masks, masks (R, h, w) uint8 and
            has_mask (R,) bool, False for objects that have a box only. In validation: empty.
        image_ids: ids, as the file has them.
        orientations: EXIF's, 1 to 8, by which the annotations' pixels were turned to the image's; 1: not.
        readable: where False, the image is gray and stands for a file that could not be used.
        unreadable: of files that could not be used while this batch was made: path, reason, remedy.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    image_ids: list[Id]
    orientations: list[int]
    readable: list[bool]
    unreadable: list[str]


def collate(samples: Sequence[DetectionSample]) -> DetectionBatch:
    """Gather samples to a batch."""
    return DetectionBatch(
        [sample.image for sample in samples],
        [sample.target for sample in samples],
        [sample.image_id for sample in samples],
        [sample.orientation for sample in samples],
        [sample.readable for sample in samples],
        [message for sample in samples for message in sample.unreadable],
    )


class _SizeConflictError(ValueError):
    """An image has another size than its annotations give."""


class CocoDataset(Dataset[DetectionSample]):
    """Images of a COCO file; what cannot be read does not change how many samples there are.

    Args:
        annotations: of the images.
        indices: (n,), which of its images.
        transform: for training; None: uint8 images at their own size, without targets.
        max_substitutes: how many of the next samples to try in the place of one that cannot be used. With 0, or
            when all of them fail, the sample is a gray image without objects and not `readable`. Nothing is
            raised here: in a loading process it would end in a stack trace. `UnreadableFiles` raises.
        annotation_frame: see `applied_orientation`.
        value_range: see `read_image`.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        indices: np.ndarray,
        *,
        transform: TrainTransform | None,
        max_substitutes: int,
        annotation_frame: AnnotationFrame = "auto",
        value_range: ValueRange | None = None,
    ) -> None:
        self.annotations = annotations
        self.indices = np.asarray(indices, np.int64)
        self.transform = transform
        self.max_substitutes = max_substitutes
        self.annotation_frame: AnnotationFrame = annotations.frame if annotation_frame == "auto" else annotation_frame
        self.value_range = value_range

    def __len__(self) -> int:
        return len(self.indices)

    def path(self, index: int) -> Path:
        """File of a sample."""
        return self.annotations.file(int(self.indices[index]))

    def shards(self) -> StoredSamples | None:
        """Which shard holds each sample; None: the images lie in a plain folder."""
        return shards_of(self.annotations.image_folder, self.annotations.file_names[self.indices])

    def __getitem__(self, index: int) -> DetectionSample:
        read, failed = read_or_substitute(
            self._read,
            index,
            count=len(self),
            max_substitutes=self.max_substitutes,
            errors=(ImageError, _SizeConflictError),
        )
        if read is not None:
            return DetectionSample(*read, failed)
        image = torch.full((3, *_STAND_IN_SIZE), 127, dtype=torch.uint8)
        if self.transform is not None:
            image = as_input(image)
        image_id = self.annotations.image_id(int(self.indices[index]))
        return DetectionSample(image, self._no_objects(), image_id, 1, False, failed)

    def _read(self, index: int) -> tuple[Tensor, dict[str, Tensor], Id, int, bool]:
        """The fields of a readable sample.

        Raises:
            ImageError: the file cannot be read.
            _SizeConflictError: it has another size than the annotations give.
        """
        annotations, position = self.annotations, int(self.indices[index])
        upright = read_upright(annotations.file(position), value_range=self.value_range)
        orientation = self._orientation(position, upright)
        if orientation is None:
            raise _SizeConflictError(
                annotations.size_conflict(
                    position, upright.stored_size, upright.orientation, frame=self.annotation_frame
                )
            )
        image_id = annotations.image_id(position)
        if self.transform is None:
            return F.pil_to_tensor(upright.image), {}, image_id, orientation, True
        image, target = self.transform(upright.image, *self._objects(position, orientation))
        return image, target, image_id, orientation, True

    def _orientation(self, position: int, upright: UprightImage) -> int | None:
        width, height = (int(side) for side in self.annotations.sizes[position])
        return applied_orientation(
            (width, height), upright.stored_size, upright.orientation, frame=self.annotation_frame
        )

    def _objects(
        self, position: int, orientation: int
    ) -> tuple[np.ndarray, np.ndarray, list[Callable[[], np.ndarray] | None] | None]:
        """Boxes, labels and masks of the upright image; crowd regions are not trained on."""
        annotations = self.annotations
        rows = annotations.rows(position)
        width, height = (int(side) for side in annotations.sizes[position])
        boxes = orient_boxes(annotations.boxes_xyxy(rows), (width, height), orientation)
        masks: list[Callable[[], np.ndarray] | None] | None = None
        if annotations.has_masks:
            masks = [
                partial(_upright_mask, annotations, row, orientation) if has_mask else None
                for row, has_mask in zip(rows.tolist(), annotations.has_mask(rows), strict=True)
            ]
        return boxes, annotations.labels[rows], masks

    def _no_objects(self) -> dict[str, Tensor]:
        if self.transform is None:
            return {}
        target = {"boxes": torch.zeros((0, 4)), "labels": torch.zeros(0, dtype=torch.int64)}
        if self.annotations.has_masks:
            target["masks"] = torch.zeros((0, *_STAND_IN_SIZE), dtype=torch.uint8)
            target["has_mask"] = torch.zeros(0, dtype=torch.bool)
        return target


def _upright_mask(annotations: CocoAnnotations, row: int, orientation: int) -> np.ndarray:
    return orient_mask(annotations.mask(row), orientation)
