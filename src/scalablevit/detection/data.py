"""COCO data as training and validation batches."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from scalablevit.abridged import abridged
from scalablevit.data.builtin import data_root
from scalablevit.data.image_size import sizes_in_headers
from scalablevit.detection.coco import CocoAnnotations
from scalablevit.detection.coco.plausibility import strange_sizes
from scalablevit.detection.data_settings import OTHER_KEYS, CocoSettings
from scalablevit.detection.dataset import CocoDataset, collate
from scalablevit.detection.split import read_split
from scalablevit.detection.transforms import Preprocessing, TrainTransform
from scalablevit.moved import forward_moved_names
from scalablevit.printable import printable
from scalablevit.training.data_module import TaskData

_log = logging.getLogger(__name__)

_PROBED_IMAGES = 16
_CHECK_DATA = "`scalablevit check-data` lists them all"


class CocoData(TaskData):
    """Training and validation images with boxes and masks from COCO files.

    Known layouts: COCO's (`annotations/instances_train2017.json` with `train2017/*.jpg`),
    `annotations/{train,val}.json` with `{train,val}/*` or `images/{train,val}/*`, `_annotations.coco.json` beside
    the images in `train/` and `valid/`, and one file, from which a share is set aside for validation. The
    annotations are read at once, as a network needs to know the classes before it is made: in the order of the
    category ids, numbered from 0.

    Single annotations that cannot be used are left out, counted and logged; `check_coco` lists them.

    Args:
        root: the data folder, one annotation file, or a folder or address of shards.
        batch_size: images a device and batch.
        val_batch_size: the same in validation; None: `batch_size`.
        num_workers: processes that load images for each loader; "auto" leaves one core a device to the
            training, and takes 8 at most.
        max_unreadable: how many image files may be missing, and how many may fail in each training process.
        builtin: write this built-in data set into `root` first if `root` is missing or empty.
        seed: gives the order of the images and their augmentation.
        settings: fields of `CocoSettings`.

    Attributes:
        train_annotations: what the training file holds.
        val_annotations: what the validation file holds; where validation images are set aside, the same.
        masks: whether the masks were read.

    Raises:
        ValueError: the annotation files or images cannot be found or used, the validation file has classes that
            the training file lacks, more than `max_unreadable` images are missing, or an argument is out of range.
            Names the file and the remedy.
    """

    other_keys: ClassVar = OTHER_KEYS
    train_dataset: CocoDataset
    val_dataset: CocoDataset

    def __init__(
        self,
        root: str | Path,
        *,
        batch_size: int = 2,
        val_batch_size: int | None = None,
        num_workers: int | Literal["auto"] = "auto",
        max_unreadable: int = 100,
        builtin: Literal["digit_scenes"] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            num_workers=num_workers,
            max_unreadable=max_unreadable,
            seed=seed,
            collate_fn=collate,
        )
        self.settings = CocoSettings(**settings)
        self.masks = self.settings.masks
        self.augmentation = self.settings.augmentation
        self._preprocessing = self.settings.preprocessing()

        root = data_root(root, builtin, form="coco")
        self._split = read_split(root, self.settings)
        self.train_annotations, self.val_annotations = self._split.train, self._split.val
        for annotations in dict.fromkeys([self.train_annotations, self.val_annotations]):
            for line in annotations.log.describe():
                _log.warning("%s; %s", line, _CHECK_DATA)
            _refuse_missing(annotations, max_unreadable)
            _refuse_other_sizes(annotations)

        train_indices = self._split.train_indices
        if not self.settings.only_evaluates:
            if self.masks:
                self.train_annotations.require_masks()
            train_indices = self._indices_to_train_on()
        shared: dict[str, Any] = {
            "annotation_frame": self.settings.annotation_frame,
            "value_range": self._preprocessing.value_range,
        }
        self.train_dataset = CocoDataset(
            self.train_annotations,
            train_indices,
            transform=TrainTransform(self._preprocessing, self.augmentation),
            max_substitutes=max_unreadable,
            **shared,
        )
        # A substitute would be measured twice.
        self.val_dataset = CocoDataset(
            self.val_annotations, self._split.val_indices, transform=None, max_substitutes=0, **shared
        )
        shown = self.val_dataset if self.settings.only_evaluates else self.train_dataset
        self.warn_of_losses(shown, most=_PROBED_IMAGES)

    def _indices_to_train_on(self) -> np.ndarray:
        """Training images that teach something true: not those of which annotations are there, but none can be learnt.

        Raises:
            ValueError: there are none.
        """
        annotations, indices = self.train_annotations, self._split.train_indices
        if not annotations.count_objects(indices).any():
            raise ValueError(
                f"{annotations.path}: not one of its {len(indices):,} training images has an object to learn from, "
                "apart from crowd regions; take annotations with boxes"
            )
        if self.settings.keep_empty:
            chosen = indices[~annotations.unlearnable()[indices]]
        else:
            chosen = indices[annotations.count_objects(indices) > 0]
        threshold = self.settings.repeat_threshold
        return chosen if threshold is None else repeat_rare(annotations, chosen, threshold, seed=self.seed)

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
        """Summarise the data in a few lines."""
        preprocessing = self._preprocessing
        val_objects = self.val_annotations.count_objects(self.val_dataset.indices)
        origin = "set aside from training" if self.is_split else self.val_annotations.path.name
        lines = [f"data        {printable(self._split.root)}"]
        if not self.settings.only_evaluates:
            lines += self._training_summary()
        lines += [
            f"validation  {len(self.val_dataset):,} images with {val_objects.sum():,} objects ({printable(origin)})",
            f"classes     {self.num_classes:,}: {printable(abridged(self.class_names, 8))}",
        ]
        if not self.settings.only_evaluates:
            lines.append(f"per class   {self._spread()} training objects")
        lines += [
            f"masks       {'read' if self.masks else 'not read'}",
            f"input       shorter side {preprocessing.min_size}, longer at most {preprocessing.max_size} pixels",
        ]
        return "\n".join(lines)

    def _training_summary(self) -> list[str]:
        annotations, indices = self.train_annotations, self.train_dataset.indices
        objects = annotations.count_objects(indices)
        file = printable(annotations.path.name)
        return [
            f"training    {len(indices):,} images with {objects.sum():,} objects ({file})",
            f"empty       {(objects == 0).sum():,} training images have no object",
        ]

    def _spread(self) -> str:
        """How many objects the rarest and the most frequent class have."""
        counts = self.train_annotations.class_counts(self.train_dataset.indices)
        rarest, commonest = int(counts.argmin()), int(counts.argmax())
        spread = f"{counts[rarest]:,}"
        if counts[rarest] == counts[commonest]:
            return spread
        rare, common = printable(self.class_names[rarest]), printable(self.class_names[commonest])
        return f"{spread} (of {rare}) to {counts[commonest]:,} (of {common})"


def repeat_rare(annotations: CocoAnnotations, indices: np.ndarray, threshold: float, *, seed: int) -> np.ndarray:
    """Repeat images with rare classes.

    Args:
        annotations: of the images.
        indices: (n,) images to train on.
        threshold: share of the images below which a class is rare.
        seed: rounds fractions of a repeat, at random.

    Returns:
        (m,) images in the same order, with repeats; none is left out.

    Source: Gupta et al., LVIS, arXiv:1908.03195, appendix B.
    """
    counted = annotations.usable & ~annotations.crowd
    shown = np.zeros((len(annotations), len(annotations.class_names)), bool)
    shown[annotations.image_of[counted], annotations.labels[counted]] = True
    shown = shown[indices]
    share = np.maximum(shown.mean(axis=0), 1 / max(len(indices), 1))
    factor = np.maximum(1, np.sqrt(threshold / share))
    repeats = np.where(shown, factor, 1).max(axis=1, initial=1)
    up = np.random.default_rng(seed).random(len(indices)) < repeats % 1
    return np.repeat(indices, np.floor(repeats).astype(np.int64) + up)


def _refuse_missing(annotations: CocoAnnotations, max_unreadable: int) -> None:
    missing = annotations.problem_counts["missing-file"]
    if missing > max_unreadable:
        first = next(problem.path for problem in annotations.problems if problem.kind == "missing-file")
        raise ValueError(
            f"{annotations.path}: {missing:,} of its {len(annotations):,} image files are missing, more than "
            f"max_unreadable={max_unreadable} allows, such as {first}; fetch them, name the right folder with "
            "data.train_images or data.val_images, or raise data.max_unreadable"
        )


def _refuse_other_sizes(annotations: CocoAnnotations) -> None:
    """Raise where not one of a few images has the size that the annotations give: all would be left out, one by one."""
    chosen = np.flatnonzero(annotations.present & ~annotations.size_from_file)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(len(chosen), _PROBED_IMAGES)).astype(int)]
    paths = [annotations.file(int(i)) for i in chosen]
    sizes, upright = (sizes_in_headers(paths, upright=turned) for turned in (False, True))
    looks = zip(chosen.tolist(), sizes, upright, strict=True)
    plain = {i: size for i, size, turned in looks if size is not None and size == turned}
    seen, stored = list(plain), np.array(list(plain.values()), np.int64).reshape(-1, 2)
    if why := strange_sizes(annotations.sizes[seen], stored):
        first, (width, height) = seen[0], stored[0].tolist()
        given = "{} x {}".format(*annotations.sizes[first].tolist())
        raise ValueError(
            f"{annotations.path}: none of {len(seen)} images that were looked at has the size that the annotations "
            f"give, such as {annotations.file(first)} with {width} x {height} pixels for {given}; {why}"
        )


forward_moved_names(__name__)
