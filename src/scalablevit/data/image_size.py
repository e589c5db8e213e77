"""Sizes of images, read from the starts of their files.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from scalablevit.data.image_file import open_image
from scalablevit.data.png_metadata import has_metadata_behind_pixels

_READERS = 16  # they mostly wait for the disk or the network
_CHUNK = 64


def size_in_header(path: str | Path, *, upright: bool) -> tuple[int, int] | None:
    """(width, height) of an image as it is stored, or after EXIF's turn; None where the file does not tell."""
    try:
        with open_image(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # Pillow gives its size after the turn
                width, height = (
                    int(image.tag_v2[tag]) for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)
                )
            return (height, width) if upright and _orientation(image) >= 5 else (width, height)
    # Pillow's plugins raise almost any exception for broken data.
    except Exception:
        return None


def sizes_in_headers(paths: Sequence[str | Path], *, upright: bool) -> list[tuple[int, int] | None]:
    """Read the size of each image as `size_in_header` does, many at a time; nothing is kept for the next call."""
    if len(paths) <= _CHUNK:
        return [size_in_header(path, upright=upright) for path in paths]
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]  # a task costs as much as a file
    with ThreadPoolExecutor(_READERS) as pool:
        return [size for sizes in pool.map(partial(_sizes, upright=upright), chunks) for size in sizes]


def _sizes(paths: Sequence[str | Path], *, upright: bool) -> list[tuple[int, int] | None]:
    return [size_in_header(path, upright=upright) for path in paths]


def orientation_in_header(path: str | Path) -> int:
    """EXIF orientation of an image, 1 (not turned) to 8; 1 where the file does not tell."""
    try:
        with open_image(path) as image:
            return _orientation(image)
    # Pillow's plugins raise almost any exception for broken data.
    except Exception:
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        # Pillow decodes all pixels of a PNG to see whether EXIF stands behind them.
        if isinstance(image, PngImageFile) and image.fp and not has_metadata_behind_pixels(image.fp):
            exif = Image.Image.getexif(image)
        else:
            exif = image.getexif()
        value = exif.get(ExifTags.Base.Orientation, 1)
        return value if value in range(2, 9) else 1
    # A damaged EXIF block says nothing against the pixels, and turns nothing.
    except Exception:
        return 1
