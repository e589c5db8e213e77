"""A folder of images without labels, as training and validation batches."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import DataLoader

from scalablevit.data.image_transforms import Augmentation, Preprocessing
from scalablevit.data.input_settings import height_and_width, per_channel
from scalablevit.pretraining.labelled import NeighboursTest, scan_labelled
from scalablevit.pretraining.unlabelled_folder import scan_unlabelled
from scalablevit.pretraining.unlabelled_images import UnlabelledImages, collate
from scalablevit.training.data_module import TaskData

_log = logging.getLogger(__name__)

_PROBED_IMAGES = 32
_WITH_MASKS = ("masks", "voc")
_CROP_AND_FLIP = Augmentation(scale=(0.67, 1.0), rand_augment=None, color_jitter=None, erasing_prob=0.0)


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
        labelled_root: folder with `train/CLASS` and `val/CLASS`, whose validation images are classified by the nearest
            neighbours of their features among its training images, at every validation; null: they are not.
        labelled_images: the most images of each part of it, evenly spread over the classes.

    Raises:
        ValueError: a value is out of range.
    """

    val_fraction: float = 0.1
    image_size: int | list[int] = 224
    in_chans: int = 3
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_ratio: float = 0.875
    interpolation: str = "bicubic"
    value_range: tuple[float, float] | None = None
    augmentation: Augmentation | None = _CROP_AND_FLIP
    labelled_root: str | Path | None = None
    labelled_images: int = 10_000

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

    Attributes:
        labelled: images with labels, to measure features by; None: there are none.

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
        layout = self._scan.layout
        if layout is not None and layout.kind in _WITH_MASKS:
            _log.warning(
                "%s: masks seem to lie beside the images (%s); they end like images and are trained on too: name the "
                "folder of the images alone as data.root",
                *(self._scan.root, layout.found),
            )
        shared = own.reading_options()
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
        evaluated = {"transform": own.eval_transform(), "max_substitutes": 0, "keeps_seeds": True, **shared}
        self.val_dataset = UnlabelledImages(folder, self._scan.held_out, **evaluated)
        self.labelled: NeighboursTest | None = None
        if self.settings.labelled_root is not None:
            labelled = scan_labelled(self.settings.labelled_root, most=self.settings.labelled_images)
            self.labelled = NeighboursTest(labelled, **evaluated)
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
        scan = self._scan
        share = 100 * self.settings.val_fraction
        lines = [
            f"data        {scan.root}",
            f"training    {len(self.train_dataset):,} images, without labels",
            f"validation  {len(self.val_dataset):,} images ({share:g} % of the folder, held out)",
        ]
        if scan.layout is not None:
            lines.append(f"labels      not used, though the folder looks as if it had some ({scan.layout.found})")
        if self.labelled is not None:
            labelled = self.labelled.scan
            lines.append(
                f"neighbours  {len(labelled.queries.files):,} validation images, among {len(labelled.bank.files):,} "
                f"training images of {len(labelled.class_names):,} classes in {labelled.root}"
            )
        if scan.walk.left_out:
            lines.append(f"left out    files that are no images by their names: {scan.walk.listed()}")
        lines.append(self._preprocessing.summary())
        return "\n".join(lines)
