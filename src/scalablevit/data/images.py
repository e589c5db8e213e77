"""Read any image as upright RGB of 8 bits a channel."""

from pathlib import Path

import numpy as np
from PIL import Image

from scalablevit.data.image_file import ImageError, open_image
from scalablevit.data.orientation import UprightImage, load_upright


def read_image(path: str | Path) -> Image.Image:
    """Decode one picture completely, upright and in mode RGB, 8 bits per channel.

    EXIF orientation is applied. Transparency is laid on white. Of an animation, the first frame is taken.
    16-bit grayscale is scaled by 255/65535. 32-bit integer and float grayscale have no white of their own:
    the smallest of the ranges 0..1 (floats only), 0..255 and 0..65535 that holds all values is taken as
    black to white, else the lowest and the highest value are; NaN counts as the lowest value.

    Args:
        path: file of any format that Pillow reads.

    Raises:
        ImageError: the file is missing, empty, not an image, truncated or damaged, too large (Pillow's
            guard against decompression bombs), or may not be read.
    """
    return read_upright(path).image


def read_upright(path: str | Path) -> UprightImage:
    """As `read_image`; also tells how the picture was turned, for boxes and masks that have to follow.

    Args:
        path: file of any format that Pillow reads.

    Raises:
        ImageError: as for `read_image`.
    """
    with open_image(path) as image:
        upright = load_upright(image)
        return upright._replace(image=_rgb(Path(path), upright.image))


def _rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_gray_to_8_bits(path, image)).convert("RGB")
    if image.has_transparency_data:
        # Premultiplied and gray alpha modes reach RGBA in one or two steps.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        rgba = image.convert(straight).convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _gray_to_8_bits(path: Path, image: Image.Image) -> np.ndarray:
    """(H, W) uint8 from 16-bit, 32-bit or float grayscale; see `read_image` for the range."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        values = values.astype(np.float64)
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            raise ImageError(path, kind="unreadable", reason="it has no finite pixel value", remedy="export it again")
        low, high = float(finite.min()), float(finite.max())
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        ranges = [1.0, 255.0, 65535.0] if image.mode == "F" else [255.0, 65535.0]
        if low >= 0:
            low, high = next(((0.0, white) for white in ranges if high <= white), (low, high))
    scaled = (values.astype(np.float64) - low) * (255.0 / ((high - low) or 1.0))
    return np.rint(scaled).astype(np.uint8)
