"""Read image files batch by batch for inference; a file that cannot be read is handed back with the reason."""

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image

from scalablevit.data.find_images import as_paths
from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_image
from scalablevit.data.pixel_values import ValueRange


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


def read_batches(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    batch_size: int,
    *,
    value_range: ValueRange | None = None,
) -> Iterator[list[ReadImage]]:
    """Read image files in order, a batch at a time.

    A batch is read when it is asked for, not ahead: images can be large, and `paths` may wait for its next file.

    Args:
        paths: image files, or a single one.
        batch_size: files at a time.
        value_range: see `read_image`.

    Yields:
        a batch, in the order of its files.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return _read_batches(as_paths(paths), batch_size, value_range)


def _read_batches(paths: Iterator[Path], batch_size: int, value_range: ValueRange | None) -> Iterator[list[ReadImage]]:
    while batch := list(islice(paths, batch_size)):
        yield [_read(path, value_range) for path in batch]  # no name of ours keeps the images while the next are read


def _read(path: Path, value_range: ValueRange | None) -> ReadImage:
    try:
        with warnings.catch_warnings():
            # what may be read is set by `pixel_limit`; a warning of every large image would be of no use
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return ReadImage(path, read_image(path, value_range=value_range))
    except ImageError as error:
        return ReadImage(path, None, str(error))
