"""Images with masks, as training and validation batches."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalablevit.abridged import abridged
from scalablevit.data.builtin import data_root
from scalablevit.data.image_file import ImageError
from scalablevit.data.input_settings import height_and_width, per_channel
from scalablevit.moved import forward_moved_names
from scalablevit.segmentation.dataset import MaskDataset, collate
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.mask_classes import ClassSource, MaskClasses
from scalablevit.segmentation.mask_settings import MaskSettings
from scalablevit.segmentation.probe import probe
from scalablevit.segmentation.sharded import find_pairs
from scalablevit.segmentation.survey import CHECK_DATA, survey_masks
from scalablevit.segmentation.transforms import Augmentation, Preprocessing
from scalablevit.training.data_module import TaskData
from scalablevit.visualization.palette import class_colours

_log = logging.getLogger(__name__)

_AUGMENTATION = Augmentation()
_UNREADABLE_SIZE = (32, 32)


@dataclass(frozen=True)
class MaskFolderSettings(MaskSettings):
    """How images and masks of a folder become the network's input; further keys of `MaskFolderData`.

    Args:
        crop_size: of training crops in pixels, one number or height and width.
        short_side: images are resized to this shorter side, in pixels, before they are varied, and in evaluation;
            None: not at all.
        long_side: no more than this for the longer side, in pixels; None: no limit.
        mean: per channel, of pixels in 0..1; default ImageNet's.
        std: per channel, of pixels in 0..1; default ImageNet's.
        augmentation: how training images are varied; None: not at all, the middle of each is taken.

    Raises:
        ValueError: a value is out of range.
    """

    crop_size: int | list[int] = 512
    short_side: int | None = 512
    long_side: int | None = 2048
    mean: list[float] | None = None
    std: list[float] | None = None
    augmentation: Augmentation | None = _AUGMENTATION

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of training crops, in pixels."""
        return height_and_width("crop_size", self.crop_size)

    def preprocessing(self, palette: tuple[tuple[int, int, int], ...] = ()) -> Preprocessing:
        """Settings of the network's input, with the colours of the classes."""
        return Preprocessing(
            mean=per_channel("mean", self.mean, self.in_chans, any_bands=True),
            std=per_channel("std", self.std, self.in_chans, any_bands=True),
            short_side=self.short_side,
            long_side=self.long_side,
            palette=palette,
            value_range=self.black_and_white,
        )


class MaskFolderData(TaskData):
    """Training and validation images with masks from a folder.

    Known layouts: `images/training` and `images/validation` beside `annotations/...` (ADE20K's), `train/images` beside
    `train/masks` and `val/...`, and `images` beside `masks`, from which a share is set aside for validation. Masks are
    grayscale or palette files whose pixels are labels, named as their images. Validation images come one at a time and
    at their own size.

    The folder is looked through at once, as a network needs to know the classes before it is made. Classes are named by
    `class_names_file`, else by a file in the folder (`classes.txt`, `classes.json`, `objectInfo150.txt`, ...), else
    numbered after the labels found in all masks. Without such a file every mask is read for that before each run.

    Args:
        root: the data folder, or a folder or address of shards.
        batch_size: training crops a device and batch.
        num_workers: processes that load images for each loader; "auto" leaves one core a device to the training,
            and takes 8 at most.
        max_unreadable: how many distinct files may be unreadable, or masks unfit for their images, before training
            stops, for each training process by itself.
        builtin: write this built-in data set into `root` first if `root` is missing or empty.
        seed: gives the order of the images and their augmentation.
        settings: fields of `MaskFolderSettings`.

    Raises:
        ValueError: `root` is missing or not laid out as above, images and masks have no names in common, no training
            pair or no validation pair can be used, labels do not fit the named classes, all pixels are ignored, or an
            argument is out of range. Names the file or folder and the remedy.
    """

    train_dataset: MaskDataset
    val_dataset: MaskDataset

    def __init__(
        self,
        root: str | Path,
        *,
        batch_size: int = 4,
        num_workers: int | Literal["auto"] = "auto",
        max_unreadable: int = 100,
        builtin: Literal["digit_scenes"] | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            max_unreadable=max_unreadable,
            seed=seed,
            collate_fn=collate,
            val_batch_size=1,
        )
        self.settings = MaskFolderSettings(**settings)
        preprocessing = self.settings.preprocessing()
        self.crop_size = self.settings.crop
        pair_transform = preprocessing.train_transform(self.settings.augmentation, self.crop_size)

        root = data_root(root, builtin, form="ade20k")
        self._scan, self._class_folder = find_pairs(root, self.settings)
        self._scan.raise_for_errors()
        for sentence in self._scan.unpaired_summary():
            _log.warning("%s; %s", sentence, CHECK_DATA)

        self._classes = self._find_classes()
        self._class_names, self._label_map = self._classes.names, self._classes.label_map
        shared: dict[str, Any] = {
            "label_map": self._label_map,
            "mask_frame": self.settings.mask_frame,
            "value_range": self.settings.black_and_white,
            "num_bands": self.settings.num_bands,
        }
        self.train_dataset = MaskDataset(
            self._scan.root,
            self._scan.train,
            pair_transform=pair_transform,
            blank_shape=(preprocessing.in_chans, *self.crop_size),
            max_substitutes=max_unreadable,
            **shared,
        )
        # A substitute would count one image twice in the figures.
        self.val_dataset = MaskDataset(
            self._scan.root,
            self._scan.val,
            image_transform=preprocessing.eval_transform(),
            blank_shape=(preprocessing.in_chans, *_UNREADABLE_SIZE),
            max_substitutes=0,
            **shared,
        )
        palette = None if self.settings.is_evaluation else probe(self.train_dataset, "training")
        val_palette = probe(self.val_dataset, "validation")
        palette = palette or (val_palette if self.settings.is_evaluation else None)
        self._preprocessing = self.settings.preprocessing(palette or tuple(class_colours(len(self._class_names))))

    def _find_classes(self) -> MaskClasses:
        root, pairs, trained = self._scan.root, [*self._scan.train, *self._scan.val], self.settings.trained_class_names
        source = ClassSource(self._class_folder, self.settings)
        if trained is not None:
            self._survey = survey_masks(self._scan, in_colours=source.in_colours, everything=False)
            self._survey.warn(None)
            classes = source.classes_of_network(trained, self._survey.labels)
            self._survey.warn(classes)
            return classes
        if source.path is None:
            _log.info("%s: it has no classes.txt, so the labels of all %s masks are read", root, f"{len(pairs):,}")
        self._survey = survey_masks(self._scan, in_colours=source.in_colours, everything=source.path is None)
        self._survey.warn(None)
        try:
            classes = source.classes(self._survey.labels_for_classes() if source.path is None else ())
        except ImageError:
            raise
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(str(root)) else f"{root}: {error}") from None
        if (shades := classes.why_shades(self._survey.labels)) is not None:
            raise ValueError(f"{root}: {shades}")
        self._survey.warn(classes)
        if source.path is None:
            self._warn_of_gaps(classes)
        return classes

    def _warn_of_gaps(self, classes: MaskClasses) -> None:
        found = self._survey.labels
        label_map = classes.label_map
        unused = [label for label in range(label_map.first_label, label_map.last_label) if label not in found]
        if unused:
            _log.warning(
                "%s: %d of %d classes never occur (label %d is the first), as the labels have gaps; if they are shades "
                "of gray rather than class indices, renumber the masks",
                *(self._scan.root, len(unused), len(classes.names), unused[0]),
            )

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class index."""
        return list(self._class_names)

    @property
    def label_map(self) -> LabelMap:
        """Which label of a mask file is which class."""
        return self._label_map

    def class_pixels(self) -> list[int]:
        """Pixels of each class in the training masks that were read before training, by class index."""
        return self._survey.class_pixels(self._label_map)[0]

    def counted_masks(self) -> str:
        """How many training masks `class_pixels` counts, of how many, in words."""
        return f"{len(self._survey.training):,} of {len(self._scan.train):,} training masks, evenly spread"

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """RGB colour in 0..255 of each class: of the masks' palette, where they have one."""
        return self._preprocessing.colours(self.num_classes)

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input in evaluation, and the palette."""
        return self._preprocessing

    def summary(self) -> str:
        """Summarise the data in a few lines."""
        scan, settings = self._scan, self._preprocessing
        origin = "set aside from training" if scan.is_split else scan.val_folder
        if scan.is_split and self.settings.val_fraction == 1:
            origin = "all that there are"
        training = f"training    {len(self.train_dataset):,} images with masks"
        resized = "as they are"
        if settings.short_side is not None or settings.long_side is not None:
            short, long = (side if side is not None else "any" for side in (settings.short_side, settings.long_side))
            resized = f"resized to {short} px (short side), at most {long} px (long side)"
        height, width = self.crop_size
        network_input = f"{settings.in_chans} x {height} x {width} in training"
        if self.settings.is_evaluation:  # crops are of training
            network_input = f"{settings.in_chans} channels"
        return "\n".join(
            [
                f"data        {scan.root}",
                *([] if self.settings.is_evaluation else [training]),
                f"validation  {len(self.val_dataset):,} images with masks ({origin})",
                f"classes     {self.num_classes:,}: {abridged(self._class_names, 8)}",
                f"masks       {self.label_map.describe()}",
                f"images      {resized}",
                f"input       {network_input}",
            ]
        )


forward_moved_names(__name__)
