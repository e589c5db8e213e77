"""Images of a folder as a data set: what cannot be read does not change how many samples there are."""

import os
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from scalablevit.data.image_file import ImageError
from scalablevit.data.image_transforms import Transform
from scalablevit.data.images import read_image
from scalablevit.data.pixel_values import ValueRange
from scalablevit.data.stored_path import StoredPath, StoredSamples, shards_of
from scalablevit.data.unreadable import in_words, read_or_substitute

Sample = TypeVar("Sample", covariant=True)


class Found(NamedTuple):
    """What is found on the way to an image.

    Fields:
        image: (C, H, W), and the index of the sample that it is of; None: none of those tried can be read.
        unreadable: paths that failed on the way to it.
        is_nothing_left: not one image of the data set can be read.
    """

    image: tuple[Tensor, int] | None
    unreadable: tuple[str, ...]
    is_nothing_left: bool


class ImageFiles(Dataset[Sample]):
    """Images of a folder; a data set of them says in `__getitem__` what a sample is.

    Nothing is raised there for an image that cannot be read: in a loading process it would end in a stack trace.
    `UnreadableFiles` raises.

    Args:
        folder: that the files start from.
        files: images, relative to `folder`.
        transform: RGB image to (C, H, W).
        image_shape: (C, H, W) of the zeros that stand for an image that cannot be read.
        max_substitutes: how many of the next samples to try in the place of one that cannot be read.
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
        value_range: ValueRange | None = None,
    ) -> None:
        self.folder = folder
        self.transform = transform
        self.image_shape = image_shape
        self.max_substitutes = max_substitutes
        self.value_range = value_range
        # An array, not a list: counting references to a million strings would copy their memory in each worker.
        self._files = np.array([os.fsencode(file) for file in files])

    def __len__(self) -> int:
        return len(self._files)

    def path(self, index: int) -> Path:
        """File of a sample."""
        return self.folder / os.fsdecode(self._files[index])

    def shards(self) -> StoredSamples | None:
        """Which shard holds each sample; None: the images lie in a plain folder."""
        return shards_of(self.folder, self._files)

    def read(self, index: int) -> Image.Image:
        """Decode the image of a sample.

        Raises:
            ImageError: it cannot be read.
        """
        return read_image(self.path(index), value_range=self.value_range)

    def find(self, index: int) -> Found:
        """Read and transform the image of a sample, or of the next one that can be read."""
        image, failed = read_or_substitute(
            self._transformed,
            index,
            count=len(self),
            max_substitutes=self.max_substitutes,
            errors=(ImageError,),
            describe=in_words if isinstance(self.folder, StoredPath) else attrgetter("path"),
        )
        return Found(image, failed, image is None and self.max_substitutes > 0 and len(failed) == len(self))

    def _transformed(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.read(index)), index
