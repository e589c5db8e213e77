"""Images of a folder as samples and batches: each with a seed of its own, for what is drawn for it."""

import os
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from scalablevit.data.image_file import ImageError
from scalablevit.data.image_transforms import Transform
from scalablevit.data.images import read_image
from scalablevit.data.pixel_values import ValueRange
from scalablevit.data.randomness import seed_for
from scalablevit.data.unreadable import read_or_substitute

_SEEDS = 2**62


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
