"""Images of a folder as samples and batches: each with a seed of its own, for what is drawn for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scalablevit.data.image_files import ImageFiles
from scalablevit.data.randomness import seed_for

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


class UnlabelledImages(ImageFiles[UnlabelledSample]):
    """Images of a folder, each with a seed of its own.

    Args:
        folder: holds the images.
        files: images, relative to `folder`.
        keeps_seeds: a sample has the same seed in every epoch; else it is drawn from torch's global generator.
        options: of `ImageFiles`.
    """

    def __init__(self, folder: Path, files: Sequence[str], *, keeps_seeds: bool, **options: Any) -> None:
        super().__init__(folder, files, **options)
        self.keeps_seeds = keeps_seeds

    def __getitem__(self, index: int) -> UnlabelledSample:
        seed = seed_for(index) if self.keeps_seeds else int(torch.randint(_SEEDS, ()))
        found = self.find(index)
        is_readable = found.image is not None
        image = torch.zeros(self.image_shape) if found.image is None else found.image[0]
        return UnlabelledSample(image, seed, is_readable, found.is_nothing_left, found.unreadable)
