"""Read image files batch by batch for inference; a file that cannot be read is handed back with the reason."""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_upright
from scalablevit.data.pixel_values import ValueRange

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadImage:
    """One file of a batch.

    Attributes:
        path: the file.
        image: upright, RGB; None where the file could not be read.
        error: why the file could not be read, or None.
    """

    path: Path
    image: Image.Image | None
    error: str | None = None


ImageSource = str | os.PathLike[str] | Image.Image | np.ndarray
"""An image file, or an image that is in memory: of Pillow, or (H, W) or (H, W, 3) uint8 in RGB."""


def read_batches(
    paths: ImageSource | Iterable[ImageSource], batch_size: int, *, value_range: ValueRange | None = None
) -> Iterator[list[ReadImage]]:
    """Read images in order, a batch at a time.

    A batch is read when it is asked for, not ahead: images can be large, and `paths` may wait for its next file.

    Args:
        paths: image files or images in memory, or a single one; those in memory are called `image 0`, `image 1`, ...
        batch_size: images at a time.
        value_range: see `read_image`.

    Yields:
        a batch, in the order of its files.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(paths, str | os.PathLike | Image.Image | np.ndarray):
        paths = [paths]
    return _read_batches(enumerate(paths), batch_size, value_range)


def _read_batches(
    sources: Iterator[tuple[int, ImageSource]], batch_size: int, value_range: ValueRange | None
) -> Iterator[list[ReadImage]]:
    told: set[str] = set()
    while batch := list(islice(sources, batch_size)):
        # no name of ours keeps the images while the next are read
        yield [_read(number, source, value_range, told) for number, source in batch]


def _read(number: int, source: ImageSource, value_range: ValueRange | None, told: set[str]) -> ReadImage:
    if isinstance(source, np.ndarray):
        return _from_array(Path(f"image {number}"), source)
    if isinstance(source, Image.Image):
        return ReadImage(Path(f"image {number}"), _on_white(source))
    path = Path(source)
    try:
        with warnings.catch_warnings():
            # what may be read is set by `pixel_limit`; a warning of every large image would be of no use
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            upright = read_upright(path, value_range=value_range)
            for loss in upright.losses:
                if loss.kind not in told and loss.kind != "unused-range":
                    told.add(loss.kind)
                    log.warning("%s (and others like it): %s; %s", path, loss.found, loss.remedy)
            return ReadImage(path, upright.image)
    except ImageError as error:
        return ReadImage(path, None, str(error))


def _from_array(name: Path, pixels: np.ndarray) -> ReadImage:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        found = f"{pixels.dtype} of shape {pixels.shape}"
        return ReadImage(name, None, f"{name}: an array must be uint8 of shape (H, W) or (H, W, 3), got {found}")
    return ReadImage(name, Image.fromarray(pixels).convert("RGB"))


def _on_white(image: Image.Image) -> Image.Image:
    """An image in memory as RGB; transparency is laid on white, as in files."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
