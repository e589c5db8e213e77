"""Turn images and arrays upright, as EXIF says that they were taken."""

from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from scalablevit.data.pixel_values import Loss


class UprightImage(NamedTuple):
    """An image, and how it lay in its file.

    Fields:
        image: upright, mode RGB.
        orientation: the EXIF orientation that was applied, 1 (none) to 8.
        stored_size: (width, height) of the file's own pixel grid, before it was turned.
        losses: what the file holds and the image does not.
    """

    image: Image.Image
    orientation: int
    stored_size: tuple[int, int]
    losses: tuple[Loss, ...] = ()


def load_upright(image: Image.Image) -> UprightImage:
    """Decode an image and turn it in place; it stays in its own mode."""
    # Pillow turns a TIFF while it decodes it, and forgets that it did.
    turned_on_load = _orientation(image) if image.format == "TIFF" else 1
    image.load()  # truncation is met here, so that below only the EXIF block can be at fault
    try:
        orientation = _orientation(image)
        ImageOps.exif_transpose(image, in_place=True)
    # A damaged EXIF block (struct.error, SyntaxError, OverflowError, ...) says nothing against the pixels.
    except Exception:
        orientation = 1
    if turned_on_load != 1:
        orientation = turned_on_load
    width, height = image.size
    return UprightImage(image, orientation, (height, width) if orientation >= 5 else (width, height))


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(2, 9) else 1


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels as `read_image` turns an image of that EXIF orientation.

    Args:
        pixels: (H, W) or (H, W, C), as stored.
        orientation: of the EXIF standard, 1 to 8.

    Returns:
        A view of `pixels`: (H, W, ...) for 1 to 4, (W, H, ...) for 5 to 8.

    Raises:
        ValueError: `orientation` is out of range.

    Source: EXIF 2.32 (CIPA DC-008), tag 0x0112.
    """
    if orientation not in range(1, 9):
        raise ValueError(f"orientation must be one of EXIF's, 1 to 8, got {orientation}")
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def orient_boxes(boxes_xyxy: np.ndarray, stored_size: tuple[int, int], orientation: int) -> np.ndarray:
    """Boxes of the stored image as boxes of the upright one, (R, 4), in pixels.

    Args:
        boxes_xyxy: (R, 4), left, top, right, bottom.
        stored_size: (width, height) before the turn.
        orientation: EXIF's, 1 to 8.
    """
    left, top, right, bottom = boxes_xyxy.T
    width, height = stored_size
    turned = {
        1: (left, top, right, bottom),
        2: (width - right, top, width - left, bottom),
        3: (width - right, height - bottom, width - left, height - top),
        4: (left, height - bottom, right, height - top),
        5: (top, left, bottom, right),
        6: (height - bottom, left, height - top, right),
        7: (height - bottom, width - right, height - top, width - left),
        8: (top, width - right, bottom, width - left),
    }[orientation]
    return np.stack(turned, axis=1)


def turned_back(orientation: int) -> int:
    """Return the EXIF orientation that undoes another, 1 to 8."""
    return {6: 8, 8: 6}.get(orientation, orientation)
