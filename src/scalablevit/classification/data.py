"""A folder of pictures per class, as training and validation batches."""

import logging
import os
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scalablevit.abridged import abridged
from scalablevit.classification.image_folder import ClassFiles, read_class_names, scan_folder
from scalablevit.classification.transforms import Augmentation, Preprocessing, Transform
from scalablevit.data.builtin import write_builtin
from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_image
from scalablevit.data.input_settings import height_and_width, per_channel
from scalablevit.data.unreadable import read_or_substitute
from scalablevit.training.data_module import TaskData

_log = logging.getLogger(__name__)

UNREADABLE_TARGET = -1
"""Target of a picture that could not be read and has no substitute: leave it out of losses and metrics."""

NOTHING_READABLE_TARGET = -2
"""Target of a training picture that stands for a folder in which no picture at all could be read."""

_IMAGENET_AUGMENTATION = Augmentation()


class ClassificationSample(NamedTuple):
    """One picture: image (C, H, W) float32, target class index, and paths that failed on the way to it."""

    image: Tensor
    target: int
    unreadable: tuple[str, ...]


class ClassificationBatch(NamedTuple):
    """Pictures and their classes.

    Fields:
        images: (B, C, H, W) float32, normalised.
        targets: (B,) int64 class indices; negative where a picture is to be left out: `UNREADABLE_TARGET`,
            `NOTHING_READABLE_TARGET`.
        unreadable: paths of files that could not be read while this batch was made.
    """

    images: Tensor
    targets: Tensor
    unreadable: list[str]


def collate(samples: Sequence[ClassificationSample]) -> ClassificationBatch:
    """Stack samples to a batch."""
    return ClassificationBatch(
        torch.stack([sample.image for sample in samples]),
        torch.tensor([sample.target for sample in samples], dtype=torch.int64),
        [path for sample in samples for path in sample.unreadable],
    )


class ImageFolderDataset(Dataset[ClassificationSample]):
    """Pictures of class folders; what cannot be read does not change how many samples there are.

    Args:
        folder: holds the class folders.
        files: pictures by class, relative to `folder`.
        class_folders: names of the class folders in the order of the class indices.
        transform: RGB picture to (C, H, W).
        image_shape: (C, H, W) of the zeros that stand for a picture that cannot be read.
        max_substitutes: how many of the next samples to try in the place of one that cannot be read. With 0,
            or when all of them fail, the sample has zeros for the image and `UNREADABLE_TARGET`; when those were
            all samples there are, `NOTHING_READABLE_TARGET`. Nothing is raised here: in a loading process it
            would end in a stack trace. `UnreadableFiles` raises.
    """

    def __init__(
        self,
        folder: Path,
        files: ClassFiles,
        *,
        class_folders: Sequence[str],
        transform: Transform,
        image_shape: tuple[int, int, int],
        max_substitutes: int,
    ) -> None:
        index = {name: i for i, name in enumerate(class_folders)}
        pairs = [(file, index[name]) for name in class_folders for file in files.get(name, [])]
        self.folder = folder
        self.transform = transform
        self.image_shape = image_shape
        self.max_substitutes = max_substitutes
        # Arrays, not lists: counting references to a million strings would copy their memory in each worker.
        self._files = np.array([os.fsencode(file) for file, _ in pairs])
        self.targets = np.array([target for _, target in pairs], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def path(self, index: int) -> Path:
        """File of a sample."""
        return self.folder / os.fsdecode(self._files[index])

    def __getitem__(self, index: int) -> ClassificationSample:
        read, failed = read_or_substitute(
            self._read,
            index,
            count=len(self),
            max_substitutes=self.max_substitutes,
            errors=(ImageError,),
            describe=attrgetter("path"),
        )
        if read is not None:
            return ClassificationSample(*read, failed)
        nothing = self.max_substitutes > 0 and len(failed) == len(self)
        target = NOTHING_READABLE_TARGET if nothing else UNREADABLE_TARGET
        return ClassificationSample(torch.zeros(self.image_shape), target, failed)

    def _read(self, index: int) -> tuple[Tensor, int]:
        return self.transform(read_image(self.path(index))), int(self.targets[index])


def why_unreadable(path: str) -> str:
    """Why a picture could not be read, for people."""
    # Read again rather than carry the words through the workers: it also shows a disk that fails at times.
    try:
        read_image(path)
    except ImageError as error:
        return str(error)
    return f"{path}: it could not be read, but now it can; look at the disk or network it lies on"


class ImageFolderData(TaskData):
    """Training and validation pictures from a folder per class.

    Known layouts: `root/train/CLASS/*` with `root/val/CLASS/*` (ImageNet's), and `root/CLASS/*`, from which
    a share is set aside for validation. The folder is looked through at once, as a network needs to know the
    classes before it is made.

    Args:
        root: the data folder.
        train: name of the training folder in it; "auto": train or training, else `root` itself.
        val: name of the validation folder in it; "auto": val, validation, valid or test.
        val_fraction: where there is no validation folder, the share of each class's pictures that is set
            aside, chosen by a hash of the file names; in (0, 1).
        image_size: pixels, one number or height and width.
        batch_size: pictures a device and batch.
        num_workers: processes that load pictures for each loader; "auto" leaves one core a device to the
            training, and takes 8 at most.
        in_chans: channels of the network's input, 3 (RGB) or 1 (grayscale).
        mean: per channel, of pixels in 0..1; default ImageNet's.
        std: per channel, of pixels in 0..1; default ImageNet's.
        crop_ratio: share of the resized picture that the centre crop keeps in evaluation, in (0, 1].
        interpolation: how pictures are resized; "bicubic", "bilinear", ..., see `Preprocessing`.
        augmentation: how training pictures are varied; None: not at all.
        max_unreadable: how many distinct files may be unreadable before training stops, for each training
            process by itself; for the task, which hands it to `UnreadableFiles`.
        class_names_file: JSON or text file with a human name for each class folder; see `read_class_names`.
        builtin: write this built-in data set into `root` first if `root` is missing or empty.
        seed: gives the order of the pictures and their augmentation.

    Raises:
        ValueError: `root` is missing or not laid out as above, a class is empty, there is only one class,
            validation has a class that training lacks, or an argument is out of range. Names the folder and
            the remedy.
    """

    train_dataset: ImageFolderDataset
    val_dataset: ImageFolderDataset

    def __init__(
        self,
        root: str | Path,
        *,
        train: str = "auto",
        val: str = "auto",
        val_fraction: float = 0.1,
        image_size: int | list[int] = 224,
        batch_size: int = 64,
        num_workers: int | Literal["auto"] = "auto",
        in_chans: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        crop_ratio: float = 0.875,
        interpolation: str = "bicubic",
        augmentation: Augmentation | None = _IMAGENET_AUGMENTATION,
        max_unreadable: int = 100,
        class_names_file: str | Path | None = None,
        builtin: Literal["digits"] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            max_unreadable=max_unreadable,
            seed=seed,
            collate_fn=collate,
        )
        self.augmentation = augmentation
        self._preprocessing = Preprocessing(
            image_size=height_and_width("image_size", image_size),
            crop_ratio=crop_ratio,
            interpolation=interpolation,
            mean=per_channel("mean", mean, in_chans),
            std=per_channel("std", std, in_chans),
        )
        train_transform = self._preprocessing.train_transform(augmentation)

        root = Path(root).expanduser()
        if builtin is not None:
            write_builtin(builtin, root, form="class folders")
        self._scan = scan_folder(root, train=train, val=val, val_fraction=val_fraction)
        self._scan.raise_for_errors()
        for problem in self._scan.problems:
            _log.warning(problem.message)
        self.class_folders = list(self._scan.train)
        self._class_names = self.class_folders
        if class_names_file is not None:
            self._class_names = read_class_names(class_names_file, self.class_folders)

        image_shape = (in_chans, *self._preprocessing.image_size)
        self.train_dataset = ImageFolderDataset(
            self._scan.train_folder,
            self._scan.train,
            class_folders=self.class_folders,
            transform=train_transform,
            image_shape=image_shape,
            max_substitutes=max_unreadable,
        )
        # A substitute would count one picture twice in the accuracy.
        self.val_dataset = ImageFolderDataset(
            self._scan.val_folder,
            self._scan.val,
            class_folders=self.class_folders,
            transform=self._preprocessing.eval_transform(),
            image_shape=image_shape,
            max_substitutes=0,
        )

    @property
    def class_names(self) -> list[str]:
        """Human names of the classes, by class index."""
        return list(self._class_names)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a picture becomes the network's input in evaluation."""
        return self._preprocessing

    def summary(self) -> str:
        """What was found, in a few lines for people."""
        scan, preprocessing = self._scan, self._preprocessing
        sizes = {name: len(files) for name, files in scan.train.items()}
        smallest, largest = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        spread = f"{sizes[smallest]:,}"
        if sizes[smallest] != sizes[largest]:
            spread += f" (of {smallest}) to {sizes[largest]:,} (of {largest})"
        origin = "set aside from training" if scan.is_split else scan.val_folder.name
        height, width = preprocessing.image_size
        return "\n".join(
            [
                f"data        {scan.root}",
                f"training    {len(self.train_dataset):,} pictures",
                f"validation  {len(self.val_dataset):,} pictures ({origin})",
                f"classes     {self.num_classes:,}: {abridged(self._class_names, 8)}",
                f"per class   {spread} training pictures",
                f"input       {preprocessing.in_chans} x {height} x {width}, {preprocessing.interpolation}",
            ]
        )
