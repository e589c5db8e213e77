"""Images with masks as a map-style data set, and their batches."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scalablevit.data.image_file import ImageError
from scalablevit.data.pixel_values import ValueRange
from scalablevit.data.stored_path import StoredSamples, shards_of
from scalablevit.data.unreadable import read_or_substitute
from scalablevit.segmentation.label_map import LabelMap, OutsideLabelsError
from scalablevit.segmentation.labels import IGNORED
from scalablevit.segmentation.pairs import Pair
from scalablevit.segmentation.read_pair import MaskFrame, PairError, ReadPair, read_pair
from scalablevit.segmentation.transforms import ImageTransform, PairTransform


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
        value_range: see `read_pair`.
        num_bands: see `read_pair`.
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
        value_range: ValueRange | None = None,
        num_bands: int | None = None,
        blank_shape: tuple[int, int, int],
        max_substitutes: int,
        image_transform: ImageTransform | None = None,
        pair_transform: PairTransform | None = None,
    ) -> None:
        assert (image_transform is None) != (pair_transform is None)
        self.root = root
        self.label_map = label_map
        self.mask_frame: MaskFrame = mask_frame
        self.value_range = value_range
        self.num_bands = num_bands
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

    def shards(self) -> StoredSamples | None:
        """Which shard holds each sample; None: the files lie in a plain folder."""
        return shards_of(self.root, self._images)

    def read(self, index: int) -> ReadPair:
        """Image and mask of a sample as their files have them, upright; labels are class indices.

        Raises:
            ImageError: the image or the mask cannot be read.
            PairError: the mask does not fit its image, or has labels that are no class.
        """
        pair = read_pair(
            self.path(index),
            self.mask_path(index),
            mask_frame=self.mask_frame,
            in_colours=self.label_map.in_colours,
            value_range=self.value_range,
            num_bands=self.num_bands,
        )
        try:
            return pair._replace(labels=self.label_map.encode(pair.labels))
        except OutsideLabelsError as error:
            path = self.mask_path(index)
            raise PairError(path, kind="outside-classes", reason=str(error), remedy=error.remedy) from None

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
