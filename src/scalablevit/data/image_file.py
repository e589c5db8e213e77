"""Open an image file safely: what goes wrong is an `ImageError`, and size has a limit."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

ImageErrorKind = Literal["missing", "empty", "not-an-image", "truncated", "huge", "unreadable", "not-a-mask"]


class ImageError(ValueError):
    """A picture cannot be read.

    Attributes:
        path: the file, as it was given.
        kind: what is wrong, in one word that programs can sort by.
        reason: what is wrong, in words.
        remedy: what the user can do.
    """

    def __init__(self, path: str | Path, *, kind: ImageErrorKind, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path = str(path)
        self.kind: ImageErrorKind = kind
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by their positional arguments; ours has keyword ones, and crosses processes.
        return _rebuild_image_error, (self.path, self.kind, self.reason, self.remedy)


def _rebuild_image_error(path: str, kind: ImageErrorKind, reason: str, remedy: str) -> ImageError:
    return ImageError(path, kind=kind, reason=reason, remedy=remedy)


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open a picture; whatever goes wrong inside the `with` block becomes an ImageError."""
    path = Path(path)
    try:
        if path.stat().st_size == 0 and path.is_file():
            raise ImageError(
                path, kind="empty", reason="the file is empty (0 bytes)", remedy="copy it again or remove it"
            )
        # By name, Pillow would map plain TIFF files into memory and get the turned ones wrong.
        with path.open("rb") as file, Image.open(file) as image:
            yield image
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(path, kind="missing", reason="there is no such file", remedy="check the path") from None
    except IsADirectoryError:
        raise ImageError(path, kind="not-an-image", reason="this is a folder", remedy="name a picture in it") from None
    except PermissionError:
        raise ImageError(
            path, kind="unreadable", reason="no permission to read it", remedy="change the file's rights"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(
            path,
            kind="not-an-image",
            reason="this is not an image, is cut off near its start, or is of a kind that Pillow cannot read",
            remedy="remove it, copy it again, or convert it to PNG or JPEG",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageError(
            path,
            kind="huge",
            reason=f"too many pixels to decode safely ({error})",
            remedy="scale the picture down, or, if you trust it, raise the limit: predict --max-pixels, or "
            "PIL.Image.MAX_IMAGE_PIXELS in Python",
        ) from None
    # Pillow's format plugins meet broken data with almost any exception: OSError, SyntaxError, struct.error,
    # zlib.error, IndexError, TypeError, ...
    except Exception as error:
        raise ImageError(
            path,
            kind="truncated",
            reason=f"the file is truncated or damaged ({error})",
            remedy="copy or export it again, or remove it",
        ) from error


@contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """In a `with` block, let pictures have up to so many pixels, in the place of Pillow's limit (179 million).

    The limit keeps a small file that unpacks to a giant one from filling the memory. It is one for the whole process,
    and processes that are started in the block may or may not take it over.

    Args:
        pixels: height times width; at least 1.

    Raises:
        ValueError: `pixels` is below 1.
    """
    if pixels < 1:
        raise ValueError(f"a picture's limit must be at least 1 pixel, got {pixels}")
    earlier = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = -(-pixels // 2)  # Pillow warns above it, and refuses above twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = earlier
