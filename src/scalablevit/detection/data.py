"""COCO data as training and validation batches."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from scalablevit.abridged import abridged
from scalablevit.data.builtin import write_builtin
from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_upright
from scalablevit.data.orientation import UprightImage
from scalablevit.data.unreadable import read_or_substitute
from scalablevit.detection.coco import (
    AnnotationFrame,
    CocoAnnotations,
    applied_orientation,
    find_parts,
    orient_boxes,
    orient_mask,
    read_split,
)
from scalablevit.detection.transforms import Augmentation, Preprocessing, TrainTransform, as_input
from scalablevit.training.data_module import TaskData

_log = logging.getLogger(__name__)

_CHECK_DATA = "`scalablevit check-data` lists them all"
_FLIP_ONLY = Augmentation()
_STAND_IN_SIZE = (32, 32)


class DetectionSample(NamedTuple):
    """One image with its objects; fields as of `DetectionBatch`, in the singular."""

    image: Tensor
    target: dict[str, Tensor]
    image_id: int
    orientation: int
    readable: bool
    unreadable: tuple[str, ...]


class DetectionBatch(NamedTuple):
    """Images and what is in them.

    Fields:
        images: (3, h, w) each, upright, not normalised, of any sizes. In training float32 in 0..1; in validation
            uint8, which is a quarter to move: `transforms.as_input` makes the other of it, on the device.
        targets: for each image, in training: boxes (R, 4) float32, left, top, right, bottom in its pixels; labels
            (R,) int64 in 0..K-1; with masks, masks (R, h, w) uint8. In validation: empty.
        image_ids: COCO's ids.
        orientations: EXIF's, 1 to 8, by which the annotations' pixels were turned to the image's; 1: not.
        readable: where False, the image is gray and stands for a file that could not be used.
        unreadable: of files that could not be used while this batch was made: path, reason, remedy.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    image_ids: list[int]
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
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        indices: np.ndarray,
        *,
        transform: TrainTransform | None,
        max_substitutes: int,
        annotation_frame: AnnotationFrame = "auto",
    ) -> None:
        self.annotations = annotations
        self.indices = np.asarray(indices, np.int64)
        self.transform = transform
        self.max_substitutes = max_substitutes
        self.annotation_frame: AnnotationFrame = annotation_frame

    def __len__(self) -> int:
        return len(self.indices)

    def path(self, index: int) -> Path:
        """File of a sample."""
        return self.annotations.file(int(self.indices[index]))

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
        image_id = int(self.annotations.image_ids[self.indices[index]])
        return DetectionSample(image, self._no_objects(), image_id, 1, False, failed)

    def _read(self, index: int) -> tuple[Tensor, dict[str, Tensor], int, int, bool]:
        """The fields of a readable sample.

        Raises:
            ImageError: the file cannot be read.
            _SizeConflictError: it has another size than the annotations give.
        """
        annotations, position = self.annotations, int(self.indices[index])
        upright = read_upright(annotations.file(position))
        orientation = self._orientation(position, upright)
        if orientation is None:
            raise _SizeConflictError(
                annotations.size_conflict(
                    position, upright.stored_size, upright.orientation, frame=self.annotation_frame
                )
            )
        image_id = int(annotations.image_ids[position])
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
    ) -> tuple[np.ndarray, np.ndarray, list[Callable[[], np.ndarray]] | None]:
        """Boxes, labels and masks of the upright image; crowd regions are not trained on."""
        annotations = self.annotations
        rows = annotations.rows(position)
        width, height = (int(side) for side in annotations.sizes[position])
        boxes = orient_boxes(annotations.boxes_xyxy(rows), (width, height), orientation)
        masks: list[Callable[[], np.ndarray]] | None = None
        if annotations.has_masks:
            masks = [partial(_upright_mask, annotations, row, orientation) for row in rows.tolist()]
        return boxes, annotations.labels[rows], masks

    def _no_objects(self) -> dict[str, Tensor]:
        if self.transform is None:
            return {}
        target = {"boxes": torch.zeros((0, 4)), "labels": torch.zeros(0, dtype=torch.int64)}
        if self.annotations.has_masks:
            target["masks"] = torch.zeros((0, *_STAND_IN_SIZE), dtype=torch.uint8)
        return target


class CocoData(TaskData):
    """Training and validation images with boxes and masks from COCO files.

    Known layouts: COCO's (`annotations/instances_train2017.json` with `train2017/*.jpg`),
    `annotations/{train,val}.json` with `{train,val}/*` or `images/{train,val}/*`, `_annotations.coco.json` beside
    the images in `train/` and `valid/`, and one file, from which a share is set aside for validation. The
    annotations are read at once, as a network needs to know the classes before it is made: in the order of the
    category ids, numbered from 0.

    Single annotations that cannot be used are left out, counted and logged; `check_coco` lists them.

    Args:
        root: the data folder, or one annotation file.
        train_annotations: file, in `root` or anywhere; None: look for it.
        val_annotations: likewise.
        train_images: folder that the file names start from, in `root` or anywhere; None: look for it.
        val_images: likewise.
        val_fraction: where there is no validation file, the share of the images that is set aside, chosen by a
            hash of the file names; in (0, 1).
        masks: read the masks, which Mask R-CNN needs; objects without one are left out then.
        min_size: length that the shorter side of images is resized to, in pixels.
        max_size: what the longer side may not exceed.
        mean: of red, green and blue, of pixels in 0..1; default ImageNet's.
        std: likewise.
        augmentation: how training images are varied; None: not at all. Its `sizes` replace `min_size` in training,
            and `min_size` must lie in their range.
        keep_empty: train on images without objects too; what the network finds in them is false.
        annotation_frame: of images with an EXIF orientation, whether boxes and masks count in the "stored" pixels
            or in those of the "upright" image; "auto" goes by the size that the annotations give.
        batch_size: images a device and batch.
        val_batch_size: the same in validation; None: `batch_size`.
        num_workers: processes that load images for each loader; "auto" leaves one core a device to the
            training, and takes 8 at most.
        max_unreadable: how many image files may be missing, and how many may fail in each training process.
        builtin: write this built-in data set into `root` first if `root` is missing or empty.
        seed: gives the order of the images and their augmentation.

    Attributes:
        train_annotations: what the training file holds.
        val_annotations: what the validation file holds; where validation images are set aside, the same.
        masks: whether the masks were read.

    Raises:
        ValueError: the annotation files or images cannot be found or used, the validation file has classes that
            the training file lacks, more than `max_unreadable` images are missing, or an argument is out of range.
            Names the file and the remedy.
    """

    train_dataset: CocoDataset
    val_dataset: CocoDataset

    def __init__(
        self,
        root: str | Path,
        *,
        train_annotations: str | Path | None = None,
        val_annotations: str | Path | None = None,
        train_images: str | Path | None = None,
        val_images: str | Path | None = None,
        val_fraction: float = 0.1,
        masks: bool = False,
        min_size: int = 800,
        max_size: int = 1333,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        augmentation: Augmentation | None = _FLIP_ONLY,
        keep_empty: bool = True,
        annotation_frame: AnnotationFrame = "auto",
        batch_size: int = 2,
        val_batch_size: int | None = None,
        num_workers: int | Literal["auto"] = "auto",
        max_unreadable: int = 100,
        builtin: Literal["digit_scenes"] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            num_workers=num_workers,
            max_unreadable=max_unreadable,
            seed=seed,
            collate_fn=collate,
        )
        if annotation_frame not in ("auto", "stored", "upright"):
            raise ValueError(f"annotation_frame must be 'auto', 'stored' or 'upright', got {annotation_frame!r}")
        self._preprocessing = Preprocessing(
            min_size=min_size,
            max_size=max_size,
            mean=tuple(mean or IMAGENET_DEFAULT_MEAN),
            std=tuple(std or IMAGENET_DEFAULT_STD),
        )
        _check_sizes(min_size, augmentation)
        self.masks = masks
        self.augmentation = augmentation

        root = Path(root).expanduser()
        if builtin is not None:
            write_builtin(builtin, root, form="coco")
        train, val = find_parts(
            root,
            train_annotations=train_annotations,
            val_annotations=val_annotations,
            train_images=train_images,
            val_images=val_images,
        )
        self._split = read_split(
            train, val, root=root, val_fraction=val_fraction, masks=masks, annotation_frame=annotation_frame
        )
        self.train_annotations, self.val_annotations = self._split.train, self._split.val
        for annotations in dict.fromkeys([self.train_annotations, self.val_annotations]):
            for line in annotations.log.describe():
                _log.warning("%s; %s", line, _CHECK_DATA)
            _refuse_missing(annotations, max_unreadable)

        train_indices = self._split.train_indices
        num_objects = self.train_annotations.count_objects(train_indices)
        if not num_objects.any():
            raise ValueError(
                f"{self.train_annotations.path}: not one of its {len(train_indices):,} training images has an "
                "object to learn from, apart from crowd regions; take annotations with boxes"
            )
        if not keep_empty:
            train_indices = train_indices[num_objects > 0]
        self.train_dataset = CocoDataset(
            self.train_annotations,
            train_indices,
            transform=TrainTransform(self._preprocessing, augmentation),
            max_substitutes=max_unreadable,
            annotation_frame=annotation_frame,
        )
        # A substitute would be measured twice.
        self.val_dataset = CocoDataset(
            self.val_annotations,
            self._split.val_indices,
            transform=None,
            max_substitutes=0,
            annotation_frame=annotation_frame,
        )

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class index."""
        return list(self.train_annotations.class_names)

    @property
    def is_split(self) -> bool:
        """Whether the validation images are a share of the training file's, set aside by a hash."""
        return self._split.is_split

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input in evaluation."""
        return self._preprocessing

    def batch_groups(self) -> Sequence[int]:
        """1 for each landscape or square, 0 for each portrait: mixed, they would be padded to great squares."""
        width, height = self.train_annotations.sizes[self.train_dataset.indices].T
        groups: list[int] = (width >= height).astype(int).tolist()
        return groups

    def summary(self) -> str:
        """What was found, in a few lines for people."""
        annotations, indices = self.train_annotations, self.train_dataset.indices
        objects = annotations.count_objects(indices)
        counts = annotations.class_counts(indices)
        rarest, commonest = int(counts.argmin()), int(counts.argmax())
        spread = f"{counts[rarest]:,}"
        if counts[rarest] != counts[commonest]:
            spread += f" (of {self.class_names[rarest]}) to {counts[commonest]:,} (of {self.class_names[commonest]})"
        origin = "set aside from training" if self.is_split else self.val_annotations.path.name
        val_objects = self.val_annotations.count_objects(self.val_dataset.indices)
        preprocessing = self._preprocessing
        return "\n".join(
            [
                f"data        {self._split.root}",
                f"training    {len(indices):,} images with {objects.sum():,} objects ({annotations.path.name})",
                f"empty       {(objects == 0).sum():,} training images have no object",
                f"validation  {len(self.val_dataset):,} images with {val_objects.sum():,} objects ({origin})",
                f"classes     {self.num_classes:,}: {abridged(self.class_names, 8)}",
                f"per class   {spread} training objects",
                f"masks       {'read' if self.masks else 'not read'}",
                f"input       shorter side {preprocessing.min_size}, longer at most {preprocessing.max_size} pixels",
            ]
        )


def _upright_mask(annotations: CocoAnnotations, row: int, orientation: int) -> np.ndarray:
    return orient_mask(annotations.mask(row), orientation)


def _check_sizes(min_size: int, augmentation: Augmentation | None) -> None:
    """Raise where training would see no image of the size that evaluation takes."""
    sizes = augmentation.sizes if augmentation is not None else None
    if sizes is None or min(sizes) <= min_size <= max(sizes):
        return
    around = [round(min_size * factor) for factor in (0.85, 1.0, 1.15)]
    raise ValueError(
        f"data.min_size {min_size} lies outside data.augmentation.sizes {list(sizes)}, which replace it in training: "
        f"the network would be measured at a size that it never saw. Set both, as in --data.min_size {min_size} "
        f"--data.augmentation.sizes '{around}', or --data.augmentation.sizes null to train at min_size alone"
    )


def _refuse_missing(annotations: CocoAnnotations, max_unreadable: int) -> None:
    missing = annotations.problem_counts["missing-file"]
    if missing > max_unreadable:
        first = next(problem.path for problem in annotations.problems if problem.kind == "missing-file")
        raise ValueError(
            f"{annotations.path}: {missing:,} of its {len(annotations):,} image files are missing, more than "
            f"max_unreadable={max_unreadable} allows, such as {first}; fetch them, name the right folder with "
            "data.train_images or data.val_images, or raise data.max_unreadable"
        )
