"""Read any picture a user may have as plain RGB, and find pictures in files, folders and globs."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""Lower-case file name endings that count as pictures; compare with `path.suffix.lower()`."""

ImageErrorKind = Literal["missing", "empty", "not-an-image", "truncated", "huge", "unreadable"]


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
    path = Path(path)
    try:
        if path.stat().st_size == 0 and path.is_file():
            raise ImageError(
                path, kind="empty", reason="the file is empty (0 bytes)", remedy="copy it again or remove it"
            )
        with Image.open(path) as image:
            return _upright_rgb(path, image)
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
            remedy="scale the picture down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it",
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


def find_images(inputs: Sequence[str | Path], *, recursive: bool = True) -> list[Path]:
    """List the pictures that files, folders and glob patterns stand for, sorted and without repeats.

    A file is taken whatever its name ends in; folders and patterns give the files whose ending is in
    `IMAGE_SUFFIXES`, hidden ones (name starts with a dot) left out. `~` is expanded.

    Args:
        inputs: paths of files or folders, or patterns with `*`, `?`, `[...]` and `**`.
        recursive: look into subfolders too, and let `**` in a pattern cross folders.

    Raises:
        ValueError: `inputs` is empty, or one of them matches no picture.
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    if len(inputs) == 0:
        raise ValueError("no input was given: name picture files, folders or glob patterns")
    found: dict[str, Path] = {}
    for given in inputs:
        matches = list(_matches(Path(given).expanduser(), recursive=recursive))
        if not matches:
            raise ValueError(_nothing_found(given, recursive=recursive))
        for path in matches:
            found.setdefault(os.path.abspath(path), path)
    return sorted(found.values())


def walk_images(folder: str | Path) -> Iterator[str]:
    """Relative paths of all pictures below a folder, in a stable order, links to folders followed.

    Strings, since data sets have millions of files and a `Path` for each is slow. Hidden files and folders
    are left out: macOS leaves `._name.jpg` files that are no pictures.
    """
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = os.path.relpath(directory, folder)
        for name in sorted(files):
            if has_image_suffix(name) and not name.startswith("."):
                yield name if prefix == "." else os.path.join(prefix, name)


def has_image_suffix(name: str) -> bool:
    """Whether a file name ends like a picture's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _matches(given: Path, *, recursive: bool) -> Iterable[Path]:
    if given.is_file():
        return [given]
    if given.is_dir():
        return _in_folder(given, recursive=recursive)
    # A name that exists was handled above, so that "photo[1].jpg" is a file before it is a pattern.
    paths = [Path(name) for name in glob.glob(str(given), recursive=recursive)]
    pictures = [path for path in paths if has_image_suffix(path.name) and path.is_file()]
    if recursive:
        for folder in paths:
            if folder.is_dir():
                pictures.extend(_in_folder(folder, recursive=True))
    return pictures


def _in_folder(folder: Path, *, recursive: bool) -> list[Path]:
    if recursive:
        return [folder / name for name in walk_images(folder)]
    children = (path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in children if has_image_suffix(path.name) and path.is_file()]


def _nothing_found(given: str | Path, *, recursive: bool) -> str:
    path = Path(given).expanduser()
    endings = " ".join(sorted(IMAGE_SUFFIXES))
    if path.is_dir():
        where = "in it or its subfolders" if recursive else "directly in it (subfolders were not searched)"
        return f"{given}: the folder has no pictures {where}; looked for names ending in {endings}"
    if glob.has_magic(str(given)):
        return f"{given}: the pattern matches no pictures; check it, and quote it so that the shell keeps it"
    return f"{given}: there is no such file or folder; check the path"


def _upright_rgb(path: Path, image: Image.Image) -> Image.Image:
    image.load()  # truncation is met here, so that below only the EXIF block can be at fault
    try:
        image = ImageOps.exif_transpose(image)
    # A damaged EXIF block (struct.error, SyntaxError, OverflowError, ...) says nothing against the pixels.
    except Exception:
        image = image.copy()
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
