"""Images with masks, as training and validation batches."""

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scalablevit.abridged import abridged
from scalablevit.data.builtin import write_builtin
from scalablevit.data.image_file import ImageError
from scalablevit.data.input_settings import height_and_width, per_channel
from scalablevit.data.masks import read_upright_mask
from scalablevit.data.unreadable import read_or_substitute
from scalablevit.segmentation.labels import (
    IGNORED,
    OUTSIDE_REMEDY,
    LabelMap,
    OutsideLabelsError,
    count_labels,
    find_class_file,
    names_of_labels,
    read_class_names,
)
from scalablevit.segmentation.pairs import MaskFrame, Pair, PairError, ReadPair, read_pair, scan_pairs
from scalablevit.segmentation.transforms import Augmentation, ImageTransform, PairTransform, Preprocessing
from scalablevit.training.data_module import TaskData, available_cores
from scalablevit.visualization.palette import class_colours

_log = logging.getLogger(__name__)

_AUGMENTATION = Augmentation()
# So many pairs of each part are read before training starts, to find what is wrong with all of them.
_PROBES = 32
_UNREADABLE_SIZE = (32, 32)
_CHECK_DATA = "`scalablevit check-data` finds everything that is wrong with the folder"

Palette = tuple[tuple[int, int, int], ...]


class SegmentationSample(NamedTuple):
    """One image with its mask.

    Fields:
        image: (C, h, w) float32, normalised.
        mask: (h, w) int64 class indices, 255 where ignored.
        readable: False: nothing could be read; the image is zeros and the mask 255.
        index: of the sample in its data set; of the substitute where one was taken.
        unreadable: what failed on the way to it: path, reason, remedy.
    """

    image: Tensor
    mask: Tensor
    readable: bool
    index: int  # type: ignore[assignment]  # a tuple has a method of that name, of no use here
    unreadable: tuple[str, ...]


class SegmentationBatch(NamedTuple):
    """Images with their masks.

    Fields:
        images: (B, C, h, w) float32, normalised.
        masks: (B, h, w) int64 class indices, 255 where ignored.
        readable: whether each image and mask could be read. Where not, in training: not one could, or more than
            `max_unreadable` could not; in validation: leave it out of the metrics.
        indices: of the samples in their data set.
        unreadable: what failed while this batch was made: path, reason, remedy.
    """

    images: Tensor
    masks: Tensor
    readable: list[bool]
    indices: list[int]
    unreadable: list[str]


def collate(samples: Sequence[SegmentationSample]) -> SegmentationBatch:
    """Stack samples of one size to a batch."""
    return SegmentationBatch(
        torch.stack([sample.image for sample in samples]),
        torch.stack([sample.mask for sample in samples]),
        [sample.readable for sample in samples],
        [sample.index for sample in samples],
        [message for sample in samples for message in sample.unreadable],
    )


class MaskDataset(Dataset[SegmentationSample]):
    """Images with masks; what cannot be read does not change how many samples there are.

    Args:
        root: the data folder.
        pairs: images and masks in it.
        label_map: which label of a mask file is which class.
        mask_frame: see `read_pair`.
        image_transform: of the image alone, for evaluation: both come at the image's own size.
        pair_transform: of both, for training; in the place of `image_transform`.
        blank_shape: (C, h, w) of the zeros that stand for an image that cannot be read.
        max_substitutes: how many of the next samples to try in the place of one that cannot be read or has labels
            that are no class. Nothing is raised here: in a loading process it would end in a stack trace.
            `UnreadableFiles` raises.
    """

    def __init__(
        self,
        root: Path,
        pairs: Sequence[Pair],
        *,
        label_map: LabelMap,
        mask_frame: MaskFrame,
        blank_shape: tuple[int, int, int],
        max_substitutes: int,
        image_transform: ImageTransform | None = None,
        pair_transform: PairTransform | None = None,
    ) -> None:
        assert (image_transform is None) != (pair_transform is None)
        self.root = root
        self.label_map = label_map
        self.mask_frame: MaskFrame = mask_frame
        self.image_transform = image_transform
        self.pair_transform = pair_transform
        self.blank_shape = blank_shape
        self.max_substitutes = max_substitutes
        # Arrays, not lists: counting references to a million strings would copy their memory in each worker.
        self._images = np.array([os.fsencode(pair.image) for pair in pairs])
        self._masks = np.array([os.fsencode(pair.mask) for pair in pairs])

    def __len__(self) -> int:
        return len(self._images)

    def path(self, index: int) -> Path:
        """Image of a sample."""
        return self.root / os.fsdecode(self._images[index])

    def mask_path(self, index: int) -> Path:
        """Mask of a sample."""
        return self.root / os.fsdecode(self._masks[index])

    def read(self, index: int) -> ReadPair:
        """Image and mask of a sample as their files have them, upright; labels are class indices.

        Raises:
            ImageError: the image or the mask cannot be read.
            PairError: the mask does not fit its image, or has labels that are no class.
        """
        pair = read_pair(self.path(index), self.mask_path(index), mask_frame=self.mask_frame)
        try:
            return pair._replace(labels=self.label_map.encode(pair.labels))
        except OutsideLabelsError as error:
            path = self.mask_path(index)
            raise PairError(path, kind="outside-classes", reason=str(error), remedy=OUTSIDE_REMEDY) from None

    def __getitem__(self, index: int) -> SegmentationSample:
        read, failed = read_or_substitute(
            self._read_transformed,
            index,
            count=len(self),
            max_substitutes=self.max_substitutes,
            errors=(ImageError, PairError),
        )
        if read is not None:
            return SegmentationSample(*read, failed)
        mask = torch.full(self.blank_shape[1:], IGNORED, dtype=torch.int64)
        return SegmentationSample(torch.zeros(self.blank_shape), mask, False, index, failed)

    def _read_transformed(self, index: int) -> tuple[Tensor, Tensor, bool, int]:
        """The fields of a readable sample."""
        pair = self.read(index)
        if self.pair_transform is not None:
            image, mask = self.pair_transform(pair.image, pair.labels)
        else:
            assert self.image_transform is not None
            image, mask = self.image_transform(pair.image), torch.from_numpy(pair.labels).to(torch.int64)
        return image, mask, True, index


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
        root: the data folder.
        train: name of the training folder; "auto": train or training.
        val: name of the validation folder; "auto": val, validation, valid or test.
        images: name of the folder of images; "auto": images, img, JPEGImages, ...
        masks: name of the folder of masks; "auto": masks, annotations, labels, SegmentationClass, ...
        val_fraction: where there is no validation folder, the share of the pairs that is set aside, chosen by a hash of
            the file names; in (0, 1).
        reduce_zero_label: label 0 of the files is no class and is ignored, label 1 is the first class, as in ADE20K.
        ignore_labels: labels of the files that are ignored; None: 255.
        class_names_file: text or JSON file with the names of the classes; see `read_class_names`.
        mask_frame: for images turned by an EXIF orientation: "stored": masks are drawn over the stored pixels;
            "upright": over the upright picture; "auto": whichever their size fits, and "stored" if it fits both.
        crop_size: of training crops in pixels, one number or height and width.
        short_side: images are resized to this shorter side, in pixels, before they are varied, and in evaluation;
            None: not at all.
        long_side: no more than this for the longer side, in pixels; None: no limit.
        batch_size: training crops a device and batch.
        num_workers: processes that load images for each loader; "auto" leaves one core a device to the training,
            and takes 8 at most.
        in_chans: channels of the network's input, 3 (RGB) or 1 (grayscale).
        mean: per channel, of pixels in 0..1; default ImageNet's.
        std: per channel, of pixels in 0..1; default ImageNet's.
        augmentation: how training images are varied; None: not at all, the middle of each is taken.
        max_unreadable: how many distinct files may be unreadable, or masks unfit for their images, before training
            stops, for each training process by itself.
        builtin: write this built-in data set into `root` first if `root` is missing or empty.
        seed: gives the order of the images and their augmentation.

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
        train: str = "auto",
        val: str = "auto",
        images: str = "auto",
        masks: str = "auto",
        val_fraction: float = 0.1,
        reduce_zero_label: bool = False,
        ignore_labels: list[int] | None = None,
        class_names_file: str | Path | None = None,
        mask_frame: MaskFrame = "auto",
        crop_size: int | list[int] = 512,
        short_side: int | None = 512,
        long_side: int | None = 2048,
        batch_size: int = 4,
        num_workers: int | Literal["auto"] = "auto",
        in_chans: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        augmentation: Augmentation | None = _AUGMENTATION,
        max_unreadable: int = 100,
        builtin: Literal["digit_scenes"] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            max_unreadable=max_unreadable,
            seed=seed,
            collate_fn=collate,
            val_batch_size=1,
        )
        crop = height_and_width("crop_size", crop_size)
        settings = Preprocessing(
            mean=per_channel("mean", mean, in_chans),
            std=per_channel("std", std, in_chans),
            short_side=short_side,
            long_side=long_side,
        )
        pair_transform = settings.train_transform(augmentation, crop)
        self.augmentation = augmentation
        self.crop_size = crop
        if mask_frame not in ("auto", "stored", "upright"):
            raise ValueError(f"mask_frame must be 'auto', 'stored' or 'upright', got {mask_frame!r}")

        root = Path(root).expanduser()
        if builtin is not None:
            write_builtin(builtin, root, form="ade20k")
        self._scan = scan_pairs(root, train=train, val=val, images=images, masks=masks, val_fraction=val_fraction)
        self._scan.raise_for_errors()
        for sentence in self._scan.unpaired_summary():
            _log.warning("%s; %s", sentence, _CHECK_DATA)

        ignored = (IGNORED,) if ignore_labels is None else tuple(ignore_labels)
        self._class_names = self._find_class_names(class_names_file, reduce_zero_label, ignored)
        label_map = LabelMap(len(self._class_names), reduce_zero_label, ignored)
        self.train_dataset = MaskDataset(
            root,
            self._scan.train,
            label_map=label_map,
            mask_frame=mask_frame,
            pair_transform=pair_transform,
            blank_shape=(in_chans, *crop),
            max_substitutes=max_unreadable,
        )
        # A substitute would count one image twice in the figures.
        self.val_dataset = MaskDataset(
            root,
            self._scan.val,
            label_map=label_map,
            mask_frame=mask_frame,
            image_transform=settings.eval_transform(),
            blank_shape=(in_chans, *_UNREADABLE_SIZE),
            max_substitutes=0,
        )
        palette = _probe(self.train_dataset, "training")
        _probe(self.val_dataset, "validation")
        self._preprocessing = Preprocessing(
            mean=settings.mean,
            std=settings.std,
            short_side=short_side,
            long_side=long_side,
            palette=palette or tuple(class_colours(len(self._class_names))),
        )

    def _find_class_names(
        self, class_names_file: str | Path | None, reduce_zero_label: bool, ignored: tuple[int, ...]
    ) -> list[str]:
        root = self._scan.root
        path = class_names_file if class_names_file is not None else find_class_file(root)
        if path is not None:
            return read_class_names(path, reduce_zero_label=reduce_zero_label, ignore_labels=ignored)
        pairs = [*self._scan.train, *self._scan.val]
        _log.info("%s: it has no classes.txt, so the labels of all %s masks are read", root, f"{len(pairs):,}")
        found = _find_labels(root, pairs)
        try:
            names = names_of_labels(found, reduce_zero_label=reduce_zero_label, ignore_labels=ignored)
        except ValueError as error:
            raise ValueError(f"{root}: {error}") from None
        label_map = LabelMap(len(names), reduce_zero_label, ignored)
        unused = [label for label in range(label_map.first_label, label_map.last_label) if label not in found]
        if unused:
            _log.warning(
                "%s: %d of %d classes never occur (label %d is the first), as the labels have gaps; if they are shades "
                "of gray rather than class indices, renumber the masks",
                *(root, len(unused), len(names), unused[0]),
            )
        return names

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class index."""
        return list(self._class_names)

    @property
    def label_map(self) -> LabelMap:
        """Which label of a mask file is which class."""
        return self.train_dataset.label_map

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """RGB colour in 0..255 of each class: of the masks' palette, where they have one."""
        return self._preprocessing.colours(self.num_classes)

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input in evaluation, and the palette."""
        return self._preprocessing

    def summary(self) -> str:
        """What was found, in a few lines for people."""
        scan, settings = self._scan, self._preprocessing
        origin = "set aside from training" if scan.is_split else scan.val_folder
        resized = "as they are"
        if settings.short_side is not None or settings.long_side is not None:
            short, long = (side if side is not None else "any" for side in (settings.short_side, settings.long_side))
            resized = f"resized to {short} px (short side), at most {long} px (long side)"
        height, width = self.crop_size
        return "\n".join(
            [
                f"data        {scan.root}",
                f"training    {len(self.train_dataset):,} images with masks",
                f"validation  {len(self.val_dataset):,} images with masks ({origin})",
                f"classes     {self.num_classes:,}: {abridged(self._class_names, 8)}",
                f"masks       {self.label_map.describe()}",
                f"images      {resized}",
                f"input       {settings.in_chans} x {height} x {width} in training",
            ]
        )


def _find_labels(root: Path, pairs: Sequence[Pair]) -> set[int]:
    """Every label of the masks that can be read.

    Raises:
        ImageError: none of them can, or those that can have one label and others have colours.
    """

    def labels_of(pair: Pair) -> set[int] | ImageError:
        try:
            return set(count_labels(read_upright_mask(root / pair.mask).labels))
        except ImageError as error:
            return error

    # Pillow decodes without Python's lock.
    with ThreadPoolExecutor(available_cores()) as pool:
        results = list(pool.map(labels_of, pairs))
    found: set[int] = set().union(*(result for result in results if isinstance(result, set)))
    errors = [result for result in results if isinstance(result, ImageError)]
    coloured = [error for error in errors if error.kind == "not-a-mask"]
    if len(errors) == len(results):
        raise errors[0]
    if len(found) < 2 and coloured:  # masks of one gray (empty ones, say) do not tell the classes
        raise coloured[0]
    return found


def _probe(dataset: MaskDataset, part: Literal["training", "validation"]) -> Palette | None:
    """Read some pairs, evenly spread, for what is wrong with all of them; gives the masks' palette.

    Raises:
        ValueError: labels of one are no classes, none can be read, or all pixels of the part are ignored.
    """
    palette, first_error, readable = None, None, 0
    ignored: list[Path] = []
    count = min(_PROBES, len(dataset))
    for index in (i * len(dataset) // count for i in range(count)):
        try:
            pair = dataset.read(index)
        except (ImageError, PairError) as error:
            # Labels beyond the classes are seldom the fault of one mask.
            if error.kind == "outside-classes":
                raise ValueError(f"a {part} mask cannot be used: {error}; {_CHECK_DATA}") from None
            first_error = first_error or error
            continue
        readable += 1
        palette = palette or _class_palette(pair.palette, dataset.label_map)
        if (pair.labels == IGNORED).all():
            ignored.append(dataset.mask_path(index))
    if readable == 0 and first_error is not None:
        raise ValueError(
            f"none of {count} {part} images with masks that were tried can be used. The first: {first_error}\n"
            f"{_CHECK_DATA}"
        )
    if ignored:
        _tell_of_ignored(dataset, part, ignored, readable)
    return palette


def _tell_of_ignored(dataset: MaskDataset, part: str, ignored: Sequence[Path], tried: int) -> None:
    """Warn of masks without a pixel of a class, `ignored` of `tried`; raise a ValueError if there is no other mask."""
    result = "nothing can be learned" if part == "training" else "nothing can be measured"
    if len(ignored) == tried and not any(_has_a_class(dataset, index) for index in range(len(dataset))):
        raise ValueError(
            f"{ignored[0]}: all pixels of this and of every other {part} mask are ignored, so {result}. "
            f"{dataset.label_map.describe().capitalize()}: label the masks, or correct reduce_zero_label or "
            f"ignore_labels; {_CHECK_DATA}"
        )
    _log.warning(
        "all pixels are ignored in %d of %d %s masks that were tried, so %s from them, such as %s; %s",
        *(len(ignored), tried, part, result, ignored[0], _CHECK_DATA),
    )


def _has_a_class(dataset: MaskDataset, index: int) -> bool:
    try:
        labels = dataset.label_map.encode(read_upright_mask(dataset.mask_path(index)).labels)
    except (ImageError, OutsideLabelsError):
        return False
    return bool((labels != IGNORED).any())


def _class_palette(palette: Iterable[tuple[int, int, int]] | None, label_map: LabelMap) -> Palette | None:
    """Colours of the classes in a mask's palette; None where it has too few or two alike."""
    if palette is None:
        return None
    colours = tuple(palette)[label_map.first_label : label_map.last_label + 1]
    return colours if len(set(colours)) == label_map.num_classes else None
