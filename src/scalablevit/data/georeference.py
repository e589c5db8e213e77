"""Carry the place on the earth from a TIFF file to what is predicted for it."""

import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import TiffImagePlugin

from scalablevit.data.image_file import ImageError, regular_file

# Scale, tie points, transformation; the coordinate system's keys, numbers and texts; the value of pixels without data.
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
_ORIENTATION = 274
_WIDTH, _HEIGHT = 256, 257


def georeference_of(path: str | Path, size: tuple[int, int]) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    """Read the tags that place a TIFF file on the earth.

    Args:
        path: of any file.
        size: (width, height) of what they are for; a file of another size, or one that EXIF turns, gives none.

    Returns:
        tags, as Pillow's `tiffinfo` takes them; None: the file has none.
    """
    try:
        with regular_file(Path(path)) as file:
            tags = _tags(file)
    except (ImageError, OSError):
        return None
    if tags is None or tags.get(_ORIENTATION, 1) != 1 or (tags.get(_WIDTH), tags.get(_HEIGHT)) != size:
        return None
    found = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in _GEO_TAGS:
        if tag in tags:
            found.tagtype[tag] = tags.tagtype[tag]
            found[tag] = tags[tag]
    return found if len(found) else None


def _tags(file: BinaryIO) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    start = file.read(4)
    if start not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    file.seek(0)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if start[2:3] == b"+" or start[3:4] == b"+" else 8))
        file.seek(tags.next)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow tells of tags that are cut off
            tags.load(file)
    except Exception:  # damaged in any way, which Pillow meets with any exception
        return None
    return tags
