"""Read any mask as labels, exactly as stored."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from scalablevit.data.image_file import ImageError, open_image
from scalablevit.data.orientation import load_upright
from scalablevit.data.pixel_values import stored_pixels


class UprightMask(NamedTuple):
    """A mask of labels, and how it lay in its file.

    Fields:
        labels: (H, W) integers as the file has them, upright.
        orientation: the EXIF orientation of the mask's own file that was applied, 1 (none) to 8.
        palette: colour of each label as RGB in 0..255, where the file has a palette.
        lossy: the file is a JPEG, whose pixels near edges are not the labels that were drawn.
    """

    labels: np.ndarray
    orientation: int
    palette: tuple[tuple[int, int, int], ...] | None
    lossy: bool


def read_mask(path: str | Path) -> np.ndarray:
    """Labels of one mask, (H, W) integers exactly as stored: uint8, uint16 or int32.

    Read are grayscale of 1 to 32 bits, palettes (the indices, not the colours), floats that are whole numbers,
    and RGB whose three channels are equal. Transparency is ignored. EXIF orientation is applied. Of an
    animation, the first frame is taken.

    Args:
        path: file of any format that Pillow reads; lossy ones (JPEG) distort labels.

    Raises:
        ImageError: as for `read_image`; of kind "not-a-mask" if the picture has colours and no palette, or
            fractions.
    """
    return read_upright_mask(path).labels


def read_upright_mask(path: str | Path) -> UprightMask:
    """As `read_mask`; also gives the palette and tells how the mask was turned.

    Args:
        path: file of any format that Pillow reads.

    Raises:
        ImageError: as for `read_mask`.
    """
    path = Path(path)
    with open_image(path) as image:
        stored = stored_pixels(image)
        lossy = image.format in ("JPEG", "MPO")
        upright = load_upright(image)
        palette = upright.image.getpalette("RGB") if upright.image.mode in ("P", "PA") else None
        labels = _labels(path, upright.image, stored.raw_mode, stored.maximum)
        colours = None if palette is None else tuple(zip(palette[::3], palette[1::3], palette[2::3], strict=True))
        return UprightMask(labels, upright.orientation, colours, lossy)


def _labels(path: Path, image: Image.Image, raw_mode: str, maximum: int | None) -> np.ndarray:
    """(H, W) labels of an upright picture in its own mode, undoing what Pillow scales."""
    in_colour = image.mode in ("RGB", "RGBA", "RGBX")
    if not (in_colour or image.mode in ("1", "L", "LA", "P", "PA", "I", "F") or image.mode.startswith("I;16")):
        raise _no_mask(path, f"it has colours ({image.mode})")
    values = np.asarray(image)
    if (";16" in raw_mode or (maximum or 0) > 255) and (in_colour or image.mode == "LA"):
        raise _no_mask(path, "it has 16 bits in each of several channels, of which only 8 can be read")
    if in_colour and not (values[..., :1] == values[..., 1:3]).all():
        raise _no_mask(path, f"it has colours ({image.mode})")
    if image.mode == "F":
        # NaN and infinity are no labels either.
        if not (np.isfinite(values).all() and (values == np.rint(values)).all() and np.abs(values).max() < 2**31):
            raise _no_mask(path, "it has fractions in place of labels")
        return values.astype(np.int32)
    if values.ndim == 3:
        values = values[..., 0]
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode == "L" and raw_mode.startswith(("L;2", "L;4")):  # spread by Pillow over 0..255
        return values // (85 if raw_mode.startswith("L;2") else 17)
    if maximum is not None:  # spread by Pillow likewise
        white = 65535 if image.mode == "I" else 255
        return np.rint(values * (maximum / white)).astype(np.uint8 if maximum < 256 else np.uint16)
    return values.astype(values.dtype.newbyteorder("="))


def _no_mask(path: Path, what: str) -> ImageError:
    return ImageError(
        path,
        kind="not-a-mask",
        reason=f"{what}, but a mask has one number per pixel, the index of its class",
        remedy="convert its colours to class indices and save it as grayscale or palette PNG",
    )
