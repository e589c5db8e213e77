"""Read image files batch by batch for inference; a file that cannot be read is handed back with the reason."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalablevit.data.bands import read_bands
from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_upright, upright_in_memory
from scalablevit.data.pixel_values import Loss, ValueRange
from scalablevit.data.read_ahead import ReadAhead

log = logging.getLogger(__name__)

PIXELS_AHEAD = 2**24
"""Pixels of images that may lie decoded before they are asked for."""

# What may be read is set by `pixel_limit`; a warning of every large image would be of no use.
_OF_LARGE_IMAGES = ("ignore", None, Image.DecompressionBombWarning, None, 0)


@dataclass(frozen=True)
class ReadImage:
    """One file of a batch.

    Attributes:
        path: the file.
        image: upright, RGB, or (H, W, C) uint8 where bands are read; None where the file could not be read, or where
            the image is not kept.
        error: why the file could not be read, or None.
        converted: what `convert` made of the image; None without it.
        losses: what the file holds and the image does not.
    """

    path: Path
    image: Any
    error: str | None = None
    converted: Any = None
    losses: tuple[Loss, ...] = ()


ImageSource = str | os.PathLike[str] | Image.Image | np.ndarray
"""An image file, or an image that is in memory: of Pillow, or (H, W) or (H, W, 3) uint8 in RGB."""
Convert = Callable[[Image.Image], Any]


def read_batches(
    paths: ImageSource | Iterable[ImageSource],
    batch_size: int,
    *,
    value_range: ValueRange | None = None,
    num_bands: int | None = None,
    convert: Convert | None = None,
    keep_images: bool = True,
) -> Iterator[list[ReadImage]]:
    """Read images in order, a batch at a time.

    Of a list of files, the next two batches are read in threads while the last one is used, if their images have no
    more than `PIXELS_AHEAD` pixels together. Otherwise a batch is read when it is asked for: an iterator of paths may
    wait for its next file.

    Args:
        paths: image files or images in memory, or a single one; those in memory are called `image 0`, `image 1`, ...
        batch_size: images at a time.
        value_range: see `read_image`.
        num_bands: read so many bands by `read_bands`; None: RGB.
        convert: from an image to what is needed of it, computed where the image is read.
        keep_images: hand the images out as well as what `convert` makes of them.

    Yields:
        a batch, in the order of its files.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(paths, str | os.PathLike | Image.Image | np.ndarray):
        paths = [paths]
    reader = _Reader(value_range, num_bands, convert, keep_images or convert is None)
    if isinstance(paths, list | tuple) and len(paths) > 1 and all(isinstance(x, str | os.PathLike) for x in paths):
        ahead = ReadAhead(
            reader.read, list(enumerate(paths)), ahead=2 * batch_size, keeps=_has_image, pixels=PIXELS_AHEAD
        )
        return _batches(ahead, batch_size)
    return _batches(map(reader.read, enumerate(paths)), batch_size)


def _batches(files: Iterable[ReadImage], batch_size: int) -> Iterator[list[ReadImage]]:
    told: set[str] = set()
    source = iter(files)
    with _quiet_about_large_images(), contextlib.ExitStack() as stack:
        if isinstance(source, Generator):
            stack.callback(source.close)  # at once, not when it is collected
        while True:
            batch = [list(islice(source, batch_size))]
            if not batch[0]:
                return
            for file in batch[0]:
                _tell(file, told)
                del file  # no name of ours keeps the images while they are used, and while the next are read
            yield batch.pop()


def _tell(file: ReadImage, told: set[str]) -> None:
    """Log each kind of loss once."""
    for loss in file.losses:
        if loss.kind not in told and loss.kind != "unused-range":
            told.add(loss.kind)
            log.warning("%s (and others like it): %s; %s", file.path, loss.found, loss.remedy)


@contextlib.contextmanager
def _quiet_about_large_images() -> Iterator[None]:
    """Ignore Pillow's warning in all threads; `warnings.catch_warnings` would undo what others set meanwhile."""
    warnings.filters.insert(0, _OF_LARGE_IMAGES)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            warnings.filters.remove(_OF_LARGE_IMAGES)  # type: ignore[attr-defined]


def _has_image(file: ReadImage) -> bool:
    return file.image is not None


@dataclass(frozen=True)
class _Reader:
    value_range: ValueRange | None
    num_bands: int | None
    convert: Convert | None
    keep_images: bool

    def read(self, numbered: tuple[int, ImageSource], admit: Callable[[int], None] | None = None) -> ReadImage:
        """Read one image; called in threads."""
        number, source = numbered
        if isinstance(source, np.ndarray):
            file = _from_array(Path(f"image {number}"), source, self.num_bands)
        elif isinstance(source, Image.Image):
            file = self._from_pillow(Path(f"image {number}"), source)
        else:
            file = self._from_file(
                source if isinstance(source, Path) else Path(source), admit
            )  # one in shards stays one
        if file.image is None or self.convert is None:
            return file
        converted = self.convert(file.image)
        return replace(file, converted=converted, image=file.image if self.keep_images else None)

    def _from_file(self, path: Path, admit: Callable[[int], None] | None) -> ReadImage:
        try:
            if self.num_bands is not None:
                pixels, losses = read_bands(path, self.num_bands, value_range=self.value_range, admit=admit)
                return ReadImage(path, pixels, losses=losses)
            upright = read_upright(path, value_range=self.value_range, admit=admit)
        except ImageError as error:
            return ReadImage(path, None, str(error))
        return ReadImage(path, upright.image, losses=upright.losses)

    def _from_pillow(self, name: Path, image: Image.Image) -> ReadImage:
        if self.num_bands is not None:
            bands = f"the network takes {self.num_bands} bands: give uint8 of shape (H, W, C)"
            return ReadImage(name, None, f"{name}: {bands}")
        try:
            upright = upright_in_memory(image, name, value_range=self.value_range)
        except ImageError as error:
            return ReadImage(name, None, str(error))
        return ReadImage(name, upright.image, losses=upright.losses)


def _from_array(name: Path, pixels: np.ndarray, num_bands: int | None) -> ReadImage:
    if num_bands is not None and pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == num_bands:
        return ReadImage(name, pixels)
    if num_bands is not None:
        found = f"{pixels.dtype} of shape {pixels.shape}"
        return ReadImage(name, None, f"{name}: an array must be uint8 of shape (H, W, {num_bands}), got {found}")
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        found = f"{pixels.dtype} of shape {pixels.shape}"
        return ReadImage(name, None, f"{name}: an array must be uint8 of shape (H, W) or (H, W, 3), got {found}")
    if pixels.size == 0:
        return ReadImage(name, None, f"{name}: an array of shape {pixels.shape} has no pixels")
    return ReadImage(name, Image.fromarray(pixels).convert("RGB"))
