"""Open an image file safely: what goes wrong is an `ImageError`, and size has a limit."""

import functools
import importlib
import importlib.util
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from PIL import Image, UnidentifiedImageError

from scalablevit.data.png_metadata import without_large_metadata
from scalablevit.data.stored_path import StoredPath, as_path
from scalablevit.data.unread_formats import unread_format

FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Pillow's names of the formats that are opened, by a file's content; it reads others, and runs programs for some."""

PLUGINS = (
    ("pillow_heif", (".heic", ".heif"), "register_heif_opener"),
    ("pillow_jxl", (".jxl",), ""),
)
"""Packages that teach Pillow a format: name, lower-case file name endings, and the function that registers them."""

# Of the decoder and of what is made of its result, at the most.
_USUAL_BYTES_PER_PIXEL = 9
_BYTES_PER_PIXEL = {"JPEG2000": 24, "AVIF": 14, "HEIF": 14, "JXL": 24}

_IRREGULAR: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "pipe (FIFO)"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)

ImageErrorKind = Literal[
    "missing", "empty", "not-an-image", "truncated", "huge", "unreadable", "not-a-mask", "cache", "damaged-shard"
]


class ImageError(ValueError):
    """An image cannot be read.

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
    """Open an image file, to be decoded in the `with` block; whatever goes wrong in it becomes an `ImageError`.

    Only regular files of the formats in `FORMATS` are opened: a pipe would block, and Pillow starts other programs for
    some formats (Ghostscript for EPS), whatever the file is called.

    Args:
        path: of the file.

    Raises:
        ImageError: the file is missing, no regular file, empty, of no known format, damaged, too large or unreadable.
    """
    path = as_path(path)
    try:
        with shard_blamed(path), regular_file(path) as file, _identified(path, file) as image:
            _refuse_too_large(image)
            yield image
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(path, kind="missing", reason="there is no such file", remedy="check the path") from None
    except PermissionError:
        raise ImageError(
            path, kind="unreadable", reason="no permission to read it", remedy="change the file's permissions"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageError(
            path,
            kind="huge",
            reason=f"too many pixels to decode safely ({error})",
            remedy="scale the image down, or, if you trust it, raise the limit: --max-pixels of predict "
            "and app, or PIL.Image.MAX_IMAGE_PIXELS in Python",
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
def shard_blamed(path: Path) -> Iterator[None]:
    """Where a file in a shard cannot be decoded and the shard is not what was written, name the shard."""
    try:
        yield
    except Exception as error:
        blamed = path.source.damage_of(path.inside, error) if isinstance(path, StoredPath) else None
        if blamed is None:
            raise
        raise blamed from error


def _identified(path: Path, file: BinaryIO) -> Image.Image:
    """Open the image in a file, undecoded; where there is none, tell what there is."""
    try:
        return Image.open(without_large_metadata(file), formats=_formats())
    except UnidentifiedImageError:
        reason, remedy = unread_format(file) or (
            "this is not an image, is cut off near its start, or is of a format that is not read",
            "remove it, copy it again, or convert it to PNG or JPEG",
        )
        raise ImageError(path, kind="not-an-image", reason=reason, remedy=remedy) from None


@contextmanager
def regular_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file that is not empty, without waiting for whoever writes to a pipe; or one in shards."""
    if isinstance(path, StoredPath):
        content = path.read_bytes()
        if not content:
            raise _empty(path)
        yield BytesIO(content)
        return
    try:
        _refuse_irregular(path, path.stat())
        # By name, Pillow would map plain TIFF files into memory and get the turned ones wrong.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:  # a name that is too long, a loop of links, ...
        raise ImageError(
            path, kind="unreadable", reason=f"it cannot be opened ({error.strerror})", remedy="check the path"
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        _refuse_irregular(path, os.fstat(descriptor))  # again: another may stand in its place by now
        yield file


def _refuse_irregular(path: Path, status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(path, kind="not-an-image", reason="this is a folder", remedy="name an image in it")
    if not stat.S_ISREG(mode):
        what = next((name for is_kind, name in _IRREGULAR if is_kind(mode)), "special file")
        raise ImageError(
            path, kind="not-an-image", reason=f"this is a {what}, not a file", remedy="remove it, or name a file"
        )
    if status.st_size == 0:
        raise _empty(path)


def _empty(path: Path) -> ImageError:
    return ImageError(path, kind="empty", reason="the file is empty (0 bytes)", remedy="copy it again or remove it")


def _refuse_too_large(image: Image.Image) -> None:
    """Bound the memory that decoding and converting take: Pillow's own limit counts pixels alone."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is None:
        return
    pixels = image.width * image.height
    needed = pixels * _BYTES_PER_PIXEL.get(image.format or "", _USUAL_BYTES_PER_PIXEL)
    if needed > 2 * limit * _USUAL_BYTES_PER_PIXEL:
        raise Image.DecompressionBombError(f"{pixels:,} pixels take {needed / 2**30:.1f} GiB in {image.format}")


@functools.cache
def _formats() -> tuple[str, ...]:
    """List those of `FORMATS` that this installation reads, with those of the plugins that are installed."""
    for plugin, _, register in PLUGINS:
        if importlib.util.find_spec(plugin) is not None:
            module = importlib.import_module(plugin)
            if register:
                getattr(module, register)()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Let images have up to so many pixels in a `with` block, in the place of Pillow's limit (179 million).

    The limit keeps a small file that unpacks to a giant one from filling the memory. It is one for the whole process,
    and processes that are started in the block may or may not take it over.

    Args:
        pixels: height times width; at least 1.

    Raises:
        ValueError: `pixels` is below 1.
    """
    if pixels < 1:
        raise ValueError(f"the limit of an image must be at least 1 pixel, got {pixels}")
    earlier = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = -(-pixels // 2)  # Pillow warns above it, and refuses above twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = earlier
