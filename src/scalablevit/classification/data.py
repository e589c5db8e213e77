"""A folder of images per class, as training and validation batches."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scalablevit.abridged import abridged
from scalablevit.classification.class_names import read_class_names
from scalablevit.classification.image_folder import ClassFiles, FolderScan, class_name, folders_by_class, scan_folder
from scalablevit.classification.sharded import scan_stream
from scalablevit.data.builtin import data_root
from scalablevit.data.image_files import ImageFiles
from scalablevit.data.image_transforms import Augmentation, Preprocessing
from scalablevit.data.input_settings import height_and_width, per_channel
from scalablevit.data.split import check_val_fraction
from scalablevit.data.stream.opened import open_stream
from scalablevit.data.stream.settings import StreamSettings
from scalablevit.training.data_module import TaskData

_log = logging.getLogger(__name__)

UNREADABLE_TARGET = -1
"""Target of an image that could not be read and has no substitute: leave it out of losses and metrics."""

NOTHING_READABLE_TARGET = -2
"""Target of a training image that stands for a folder in which no image at all could be read."""

_IMAGENET_AUGMENTATION = Augmentation()
_STREAM = StreamSettings()
_PROBED_IMAGES = 32


class ClassificationSample(NamedTuple):
    """One image: image (C, H, W) float32, target, and paths that failed on the way to it.

    The target is a class index, or with several labels an image (K,) of 0 and 1.
    """

    image: Tensor
    target: int | np.ndarray
    unreadable: tuple[str, ...]


class ClassificationBatch(NamedTuple):
    """Images and their classes.

    Fields:
        images: (B, C, H, W) float32, normalised.
        targets: (B,) int64 class indices, or (B, K) int64 of 0 and 1; negative where an image is to be left out:
            `UNREADABLE_TARGET`, `NOTHING_READABLE_TARGET`.
        unreadable: paths of files that could not be read while this batch was made.
    """

    images: Tensor
    targets: Tensor
    unreadable: list[str]


def collate(samples: Sequence[ClassificationSample]) -> ClassificationBatch:
    """Stack samples to a batch."""
    return ClassificationBatch(
        torch.stack([sample.image for sample in samples]),
        torch.from_numpy(np.array([sample.target for sample in samples], dtype=np.int64)),
        [path for sample in samples for path in sample.unreadable],
    )


class LabelledImages(ImageFiles[ClassificationSample]):
    """Images with their targets.

    With no substitute for an image that cannot be read, or when all of them fail, the sample has zeros for the image
    and `UNREADABLE_TARGET`; when those were all samples there are, `NOTHING_READABLE_TARGET`.

    Args:
        folder: that the files start from.
        files: N images, relative to `folder`.
        targets: (N,) class indices, or (N, K) of 0 and 1.
        options: of `ImageFiles`.
    """

    def __init__(self, folder: Path, files: Sequence[str], targets: np.ndarray, **options: Any) -> None:
        super().__init__(folder, files, **options)
        self.targets = targets

    def __getitem__(self, index: int) -> ClassificationSample:
        found = self.find(index)
        if found.image is not None:
            image, i = found.image
            return ClassificationSample(image, _as_target(self.targets[i]), found.unreadable)
        missing = NOTHING_READABLE_TARGET if found.is_nothing_left else UNREADABLE_TARGET
        target = _as_target(np.full(self.targets.shape[1:], missing))
        return ClassificationSample(torch.zeros(self.image_shape), target, found.unreadable)


def _as_target(target: np.ndarray) -> int | np.ndarray:
    return int(target) if target.ndim == 0 else target


class ImageFolderDataset(LabelledImages):
    """Images of class folders.

    Args:
        folder: holds the class folders.
        files: images by class, relative to `folder`.
        class_folders: names of the class folders in the order of the class indices.
        options: of `LabelledImages`.
    """

    def __init__(self, folder: Path, files: ClassFiles, *, class_folders: Sequence[str], **options: Any) -> None:
        index = {name: i for i, name in enumerate(class_folders)}
        pairs = [(file, index[name]) for name in class_folders for file in files.get(name, [])]
        targets = np.array([target for _, target in pairs], dtype=np.int64)
        super().__init__(folder, [file for file, _ in pairs], targets, **options)


@dataclass(frozen=True)
class ClassifierInput:
    """How images become the input of a classifier.

    Args:
        image_size: pixels, one number or height and width.
        in_chans: channels of the network's input, 3 (RGB) or 1 (grayscale).
        mean: per channel, of pixels in 0..1; default ImageNet's.
        std: per channel, of pixels in 0..1; default ImageNet's.
        crop_ratio: share of the resized image that the centre crop keeps in evaluation, in (0, 1].
        interpolation: how images are resized; "bicubic", "bilinear", ..., see `Preprocessing`.
        value_range: values that become black and white, in grayscale of more than 8 bits a pixel, such as [0, 4095];
            null: see `read_image`.
        augmentation: how training images are varied; null: not at all.
        trained_class_names: set by `scalablevit validate`: classes of the network that is evaluated, by index.

    Raises:
        ValueError: a value is out of range.
    """

    image_size: int | list[int] = 224
    in_chans: int = 3
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_ratio: float = 0.875
    interpolation: str = "bicubic"
    value_range: tuple[float, float] | None = None
    augmentation: Augmentation | None = _IMAGENET_AUGMENTATION
    trained_class_names: list[str] | None = None

    def preprocessing(self) -> Preprocessing:
        """Settings of the network's input."""
        return Preprocessing(
            image_size=height_and_width("image_size", self.image_size),
            crop_ratio=self.crop_ratio,
            interpolation=self.interpolation,
            mean=per_channel("mean", self.mean, self.in_chans),
            std=per_channel("std", self.std, self.in_chans),
            value_range=self.value_range,
        )


@dataclass(frozen=True)
class ImageFolderSettings(ClassifierInput):
    """How images of class folders become the network's input; further keys of `ImageFolderData`, with those of
    `ClassifierInput`.

    Args:
        train: name of the training folder in the root; "auto": train or training, else the root itself.
        val: name of the validation folder in the root; "auto": val, validation, valid or test.
        val_fraction: where there is no validation folder, the share of each class's images that is set aside, chosen by
            a hash of the file names; in (0, 1).
        class_names_file: JSON or text file with a human name for each class folder; see `read_class_names`.
        sampling: "all": an epoch has each training image once; "balanced": as many images, of each class equally many.
        stream: how shards are read, where the data are shards.

    Raises:
        ValueError: a value is out of range.
    """

    train: str = "auto"
    val: str = "auto"
    val_fraction: float = 0.1
    class_names_file: str | Path | None = None
    sampling: Literal["all", "balanced"] = "all"
    stream: StreamSettings = _STREAM

    def __post_init__(self) -> None:
        check_val_fraction(self.val_fraction, trained_class_names=self.trained_class_names)
        if self.sampling not in ("all", "balanced"):
            raise ValueError(f"sampling must be 'all' or 'balanced', got {self.sampling!r}")

    def scan(self, root: str | Path) -> FolderScan:
        """Find the images of a data folder, or of shards."""
        options: dict[str, Any] = {
            "train": self.train,
            "val": self.val,
            "val_fraction": self.val_fraction,
            "trained_class_names": self.trained_class_names,
            "class_names_file": self.class_names_file,
        }
        stream = open_stream(root, self.stream, task="classification")
        return scan_folder(root, **options) if stream is None else scan_stream(stream, **options)


class ImageFolderData(TaskData):
    """Training and validation images from a folder per class.

    Known layouts: `root/train/CLASS/*` with `root/val/CLASS/*` (ImageNet's), and `root/CLASS/*`, from which
    a share is set aside for validation; or shards of either (see `scalablevit shard`). The folder is searched at once,
    as a network needs to know the classes before it is made.

    Args:
        root: the data folder, or a folder or address of shards.
        batch_size: images a device and batch.
        num_workers: processes that load images for each loader; "auto" leaves one core a device to the
            training, and takes 8 at most.
        max_unreadable: how many distinct files may be unreadable before training stops, for each training
            process by itself; for the task, which hands it to `UnreadableFiles`.
        builtin: write this built-in data set into `root` first if `root` is missing or empty.
        seed: gives the order of the images and their augmentation.
        settings: fields of `ImageFolderSettings`.

    Raises:
        ValueError: `root` is missing or not laid out as above, a class is empty, there is only one class,
            validation has a class that training lacks, or an argument is out of range. Names the folder and
            the remedy.
    """

    multi_label: ClassVar[bool] = False
    train_dataset: ImageFolderDataset
    val_dataset: ImageFolderDataset

    def __init__(
        self,
        root: str | Path,
        *,
        batch_size: int = 64,
        num_workers: int | Literal["auto"] = "auto",
        max_unreadable: int = 100,
        builtin: Literal["digits"] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            max_unreadable=max_unreadable,
            seed=seed,
            collate_fn=collate,
        )
        self.settings = ImageFolderSettings(**settings)
        self._preprocessing = self.settings.preprocessing()
        train_transform = self._preprocessing.train_transform(self.settings.augmentation)
        root = data_root(root, builtin, form="class folders")
        self._scan = self.settings.scan(root)
        self._scan.raise_for_errors()
        for problem in self._scan.problems:
            _log.warning(problem.message)
        self.class_folders, self._class_names = self._find_classes()
        shared = {"class_folders": self.class_folders, **self._preprocessing.reading_options()}
        scan = self._scan
        self.train_dataset = ImageFolderDataset(
            scan.train_folder, scan.train, transform=train_transform, max_substitutes=max_unreadable, **shared
        )
        # A substitute would count one image twice in the accuracy.
        self.val_dataset = ImageFolderDataset(
            scan.val_folder, scan.val, transform=self._preprocessing.eval_transform(), max_substitutes=0, **shared
        )
        shown = self.val_dataset if self.settings.trained_class_names is not None else self.train_dataset
        self.warn_of_losses(shown, most=_PROBED_IMAGES)

    def _find_classes(self) -> tuple[list[str], list[str]]:
        """Class folders and names of the classes, both by class index; "" where a class has no folder."""
        settings, scan = self.settings, self._scan
        if settings.trained_class_names is not None:
            index = folders_by_class(scan, settings.trained_class_names, settings.class_names_file)
            folder_of = {i: folder for folder, i in index.items()}
            names = settings.trained_class_names
            return [folder_of.get(i, "") for i in range(len(names))], list(names)
        folders = list(scan.train)
        if settings.class_names_file is None:
            return folders, [class_name(folder) for folder in folders]
        return folders, read_class_names(settings.class_names_file, folders)

    @property
    def class_names(self) -> list[str]:
        """Human names of the classes, by class index."""
        return list(self._class_names)

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input in evaluation."""
        return self._preprocessing

    def balanced_classes(self) -> Sequence[int] | None:
        """The class of each training image, with `sampling` "balanced"."""
        return self.train_dataset.targets.tolist() if self.settings.sampling == "balanced" else None

    def summary(self) -> str:
        """Summarise the data in a few lines."""
        scan = self._scan
        lines = [f"data        {scan.root}"]
        if self.settings.trained_class_names is None:
            lines += self._training_summary()
        else:
            lines.append(f"validation  {len(self.val_dataset):,} images ({self._origin()})")
        lines.append(f"classes     {self.num_classes:,}: {abridged(self._class_names, 8)}")
        if self.settings.trained_class_names is None:
            lines.append(f"per class   {self._per_class()} training images")
        left_out = scan.left_out()
        if left_out:
            lines.append(f"left out    files that are no images by their names: {left_out}")
        lines.append(self._preprocessing.summary())
        return "\n".join(lines)

    def _training_summary(self) -> list[str]:
        return [
            f"training    {len(self.train_dataset):,} images",
            f"validation  {len(self.val_dataset):,} images ({self._origin()})",
        ]

    def _origin(self) -> str:
        """Where the validation images come from."""
        scan = self._scan
        if not scan.is_split:
            return scan.val_folder.name
        if self.settings.val_fraction == 1:
            return f"all of {scan.val_folder}, which has no validation folder"
        return "set aside from training"

    def _per_class(self) -> str:
        sizes = {name: len(files) for name, files in self._scan.train.items()}
        smallest, largest = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        if sizes[smallest] == sizes[largest]:
            return f"{sizes[smallest]:,}"
        return f"{sizes[smallest]:,} (of {smallest}) to {sizes[largest]:,} (of {largest})"
