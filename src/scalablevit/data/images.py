"""Read any image as upright RGB of 8 bits a channel."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from scalablevit.data.image_file import ImageError, open_image
from scalablevit.data.orientation import UprightImage, load_upright
from scalablevit.data.pixel_values import ValueRange, stored_pixels, to_rgb


def read_image(path: str | Path, *, value_range: ValueRange | None = None) -> Image.Image:
    """Decode one image completely, upright and in mode RGB, 8 bits per channel.

    EXIF orientation is applied. Transparency is laid on white. Of an animation or a document, the first frame or page
    is taken. 16-bit grayscale is scaled by 255/65535. 32-bit integer and float grayscale have no white of their own:
    the smallest of the ranges 0..1 (floats only), 0..255 and 0..65535 that holds all values is taken as black to white,
    else the lowest and the highest value are; NaN counts as the lowest value.

    Args:
        path: file of any of the formats in `scalablevit.data.image_file.FORMATS`.
        value_range: values that become black and white, in grayscale of more than 8 bits a pixel; None: as above.

    Raises:
        ImageError: the file is missing, empty, not an image, truncated or damaged, too large (Pillow's
            guard against decompression bombs), or may not be read.
    """
    return read_upright(path, value_range=value_range).image


def read_upright(
    path: str | Path, *, value_range: ValueRange | None = None, admit: Callable[[int], None] | None = None
) -> UprightImage:
    """Read an image as `read_image` does, and tell how it was turned and what was lost.

    Args:
        path: as for `read_image`.
        value_range: as for `read_image`.
        admit: called with the number of pixels before they are decoded, to wait until there is memory for them.

    Raises:
        ImageError: as for `read_image`.
    """
    with open_image(path) as image:
        if admit is not None:
            admit(image.width * image.height)
        stored = stored_pixels(image)
        upright = load_upright(image)
        rgb, losses = to_rgb(Path(path), upright.image, stored, value_range)
        return upright._replace(image=rgb, losses=tuple(losses))


def why_unreadable(path: str) -> str:
    """Why an image could not be read, for people."""
    # Read again rather than carry the words through the workers: it also shows a disk that fails at times.
    try:
        read_image(path)
    except ImageError as error:
        return str(error)
    return f"{path}: it could not be read, but now it can; check the disk or network that it lies on"
