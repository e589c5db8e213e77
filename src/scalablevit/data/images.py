"""Read any image as upright RGB of 8 bits a channel."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from scalablevit.data.image_file import ImageError, open_image
from scalablevit.data.orientation import UprightImage, load_upright
from scalablevit.data.pixel_values import ValueRange, stored_in_memory, stored_pixels, to_rgb
from scalablevit.data.stored_path import as_path
from scalablevit.data.unreadable import Explained


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
        rgb, losses = to_rgb(as_path(path), upright.image, stored, value_range)
        return upright._replace(image=rgb, losses=tuple(losses))


def upright_in_memory(image: Image.Image, name: str | Path, *, value_range: ValueRange | None = None) -> UprightImage:
    """Convert an image of Pillow as `read_image` does the file that it comes from; it is left as it is.

    Args:
        image: opened or made, of any mode; an EXIF orientation that it still has is applied.
        name: for messages.
        value_range: as for `read_image`.

    Raises:
        ImageError: it cannot be decoded, or has no pixels.
    """
    try:
        copied = image.copy()
    # Pillow's format plugins meet broken data with almost any exception.
    except Exception as error:
        reason, remedy = f"the image is truncated or damaged ({error})", "open it again"
        raise ImageError(name, kind="truncated", reason=reason, remedy=remedy) from error
    if 0 in copied.size:
        reason = f"the image of {copied.width} x {copied.height} pixels has no pixels"
        raise ImageError(name, kind="unreadable", reason=reason, remedy="leave it out")
    upright = load_upright(copied)
    rgb, losses = to_rgb(Path(name), upright.image, stored_in_memory(image), value_range)
    return upright._replace(image=rgb, losses=tuple(losses))


def why_unreadable(path: str) -> str:
    """Why an image could not be read, for people."""
    if isinstance(path, Explained):
        return str(path)
    # Read again rather than carry the words through the workers: it also shows a disk that fails at times.
    try:
        read_image(path)
    except ImageError as error:
        return str(error)
    return f"{path}: it could not be read, but now it can; check the disk or network that it lies on"
