"""A folder of images without labels, as training and validation batches."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scalablevit.data.image_file import ImageError
from scalablevit.data.image_transforms import Augmentation, Preprocessing, Transform
from scalablevit.data.images import read_image
from scalablevit.data.input_settings import height_and_width, per_channel
from scalablevit.data.pixel_values import ValueRange
from scalablevit.data.randomness import seed_for
from scalablevit.data.unreadable import read_or_substitute
from scalablevit.pretraining.unlabelled_folder import scan_unlabelled
from scalablevit.training.data_module import TaskData

_log = logging.getLogger(__name__)

_SEEDS = 2**62
_PROBED_IMAGES = 32
_CROP_AND_FLIP = Augmentation(scale=(0.67, 1.0), rand_augment=None, color_jitter=None, erasing_prob=0.0)


class UnlabelledSample(NamedTuple):
    """One image.

    Fields:
        image: (C, H, W) float32, normalised.
        seed: of what is drawn for this sample, such as its mask.
        is_readable: False where zeros stand for an image that cannot be read.
        is_nothing_left: not one image of the folder can be read.
        unreadable: paths that failed on the way to the image.
    """

    image: Tensor
    seed: int
    is_readable: bool
    is_nothing_left: bool
    unreadable: tuple[str, ...]


class UnlabelledBatch(NamedTuple):
    """Images of a batch.

    Fields:
        images: (B, C, H, W) float32, normalised.
        seeds: of each image, for what is drawn for it.
        readable: (B,) whether it is an image, not zeros in its place.
        is_nothing_left: not one image of the folder can be read.
        unreadable: paths of files that could not be read while this batch was made.
    """

    images: Tensor
    seeds: list[int]
    readable: Tensor
    is_nothing_left: bool
    unreadable: list[str]


def collate(samples: Sequence[UnlabelledSample]) -> UnlabelledBatch:
    """Stack samples to a batch."""
    return UnlabelledBatch(
        torch.stack([sample.image for sample in samples]),
        [sample.seed for sample in samples],
        torch.tensor([sample.is_readable for sample in samples]),
        any(sample.is_nothing_left for sample in samples),
        [path for sample in samples for path in sample.unreadable],
    )


class UnlabelledImages(Dataset[UnlabelledSample]):
    """Images of a folder; what cannot be read does not change how many samples there are.

    Args:
        folder: holds the images.
        files: images, relative to `folder`.
        transform: RGB image to (C, H, W).
        image_shape: (C, H, W) of the zeros that stand for an image that cannot be read.
        max_substitutes: how many of the next samples to try in the place of one that cannot be read.
        keeps_seeds: a sample has the same seed in every epoch; else it is drawn from torch's global generator.
        value_range: see `read_image`.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        *,
        transform: Transform,
        image_shape: tuple[int, int, int],
        max_substitutes: int,
        keeps_seeds: bool,
        value_range: ValueRange | None = None,
    ) -> None:
        self.folder = folder
        self.transform = transform
        self.image_shape = image_shape
        self.max_substitutes = max_substitutes
        self.keeps_seeds = keeps_seeds
        self.value_range = value_range
        # An array, not a list: counting references to a million strings would copy their memory in each worker.
        self._files = np.array([os.fsencode(file) for file in files])

    def __len__(self) -> int:
        return len(self._files)

    def path(self, index: int) -> Path:
        """File of a sample."""
        return self.folder / os.fsdecode(self._files[index])

    def __getitem__(self, index: int) -> UnlabelledSample:
        seed = seed_for(index) if self.keeps_seeds else int(torch.randint(_SEEDS, ()))
        image, failed = read_or_substitute(
            self._read,
            index,
            count=len(self),
            max_substitutes=self.max_substitutes,
            errors=(ImageError,),
            describe=attrgetter("path"),
        )
        if image is not None:
            return UnlabelledSample(image, seed, True, False, failed)
        nothing = self.max_substitutes > 0 and len(failed) == len(self)
        return UnlabelledSample(torch.zeros(self.image_shape), seed, False, nothing, failed)

    def read(self, index: int) -> Image.Image:
        """Decode the image of a sample.

        Raises:
            ImageError: it cannot be read.
        """
        return read_image(self.path(index), value_range=self.value_range)

    def _read(self, index: int) -> Tensor:
        return self.transform(self.read(index))


@dataclass(frozen=True)
class UnlabelledSettings:
    """How images become the network's input; further keys of `UnlabelledImageData`.

    Args:
        val_fraction: share of the images that is held out to validate the loss, chosen by a hash of the file names; in
            (0, 1), or 1 where nothing is trained.
        image_size: pixels, one number or height and width.
        in_chans: channels of the network's input, 3 (RGB) or 1 (grayscale).
        mean: per channel, of pixels in 0..1; default ImageNet's.
        std: per channel, of pixels in 0..1; default ImageNet's.
        crop_ratio: share of the resized image that the centre crop keeps in validation, in (0, 1].
        interpolation: how images are resized; "bicubic", "bilinear", ..., see `Preprocessing`.
        value_range: values that become black and white, in grayscale of more than 8 bits a pixel, such as [0, 4095];
            null: see `read_image`.
        augmentation: how training images are varied; null: not at all.

    Raises:
        ValueError: a value is out of range.
    """

    val_fraction: float = 0.05
    image_size: int | list[int] = 224
    in_chans: int = 3
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_ratio: float = 0.875
    interpolation: str = "bicubic"
    value_range: tuple[float, float] | None = None
    augmentation: Augmentation | None = _CROP_AND_FLIP

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


class UnlabelledImageData(TaskData):
    """Training and validation images from a folder of images at any depth; labels that it may have are not used.

    Args:
        root: the folder.
        batch_size: images a device and batch.
        num_workers: processes that load images for each loader; "auto" leaves one core a device to the
            training, and takes 8 at most.
        max_unreadable: how many distinct files may be unreadable before training stops, for each training
            process by itself.
        seed: gives the order of the images, their augmentation and their masks.
        settings: fields of `UnlabelledSettings`.

    Raises:
        ValueError: `root` is missing or has too few images, or an argument is out of range.
    """

    train_dataset: UnlabelledImages
    val_dataset: UnlabelledImages

    def __init__(
        self,
        root: str | Path,
        *,
        batch_size: int = 64,
        num_workers: int | Literal["auto"] = "auto",
        max_unreadable: int = 100,
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
        self.settings = UnlabelledSettings(**settings)
        own = self._preprocessing = self.settings.preprocessing()
        train_transform = own.train_transform(self.settings.augmentation)
        self._scan = scan_unlabelled(root, val_fraction=self.settings.val_fraction)
        for remark in self._scan.walk.remarks():
            _log.warning(remark.message)
        shared: dict[str, Any] = {"image_shape": (own.in_chans, *own.image_size), "value_range": own.value_range}
        folder = self._scan.root
        self.train_dataset = UnlabelledImages(
            folder,
            self._scan.train,
            transform=train_transform,
            max_substitutes=max_unreadable,
            keeps_seeds=False,
            **shared,
        )
        # a substitute would count one image twice in the loss
        self.val_dataset = UnlabelledImages(
            folder,
            self._scan.held_out,
            transform=own.eval_transform(),
            max_substitutes=0,
            keeps_seeds=True,
            **shared,
        )
        self.warn_of_losses(self.train_dataset if self._scan.train else self.val_dataset, most=_PROBED_IMAGES)

    @property
    def class_names(self) -> list[str]:
        """There are none."""
        return []

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input in validation."""
        return self._preprocessing

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled and augmented; the same number of batches on all ranks, and whole optimizer steps of them.

        Raises:
            ValueError: all images are held out.
        """
        if not len(self.train_dataset):
            raise ValueError("data.val_fraction 1 holds all images out, and none is left to train on: lower it")
        return super().train_dataloader()

    def summary(self) -> str:
        """Summarise the data in a few lines."""
        scan, preprocessing = self._scan, self._preprocessing
        height, width = preprocessing.image_size
        lines = [
            f"data        {scan.root}",
            f"training    {len(self.train_dataset):,} images, without labels",
            f"validation  {len(self.val_dataset):,} images ({self.settings.val_fraction:.0%} of the folder, held out)",
        ]
        if scan.layout is not None:
            lines.append(f"labels      not used, though the folder looks as if it had some ({scan.layout.found})")
        if scan.walk.left_out:
            lines.append(f"left out    files that are no images by their names: {scan.walk.listed()}")
        lines.append(f"input       {preprocessing.in_chans} x {height} x {width}, {preprocessing.interpolation}")
        return "\n".join(lines)
