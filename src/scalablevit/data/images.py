"""Read any picture as plain RGB and any mask as labels, and find pictures in files, folders and globs."""

import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""Lower-case file name endings that count as pictures; compare with `path.suffix.lower()`."""

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


class UprightImage(NamedTuple):
    """A picture, and how it lay in its file.

    Fields:
        image: upright, mode RGB.
        orientation: the EXIF orientation that was applied, 1 (none) to 8.
        stored_size: (width, height) of the file's own pixel grid, before it was turned.
    """

    image: Image.Image
    orientation: int
    stored_size: tuple[int, int]


def read_upright(path: str | Path) -> UprightImage:
    """As `read_image`; also tells how the picture was turned, for boxes and masks that have to follow.

    Args:
        path: file of any format that Pillow reads.

    Raises:
        ImageError: as for `read_image`.
    """
    with _opened(path) as image:
        upright = _load_upright(image)
        return upright._replace(image=_rgb(Path(path), upright.image))


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
    with _opened(path) as image:
        raw_mode, maximum = _raw_mode_and_maximum(image)
        lossy = image.format in ("JPEG", "MPO")
        upright = _load_upright(image)
        palette = upright.image.getpalette("RGB") if upright.image.mode in ("P", "PA") else None
        labels = _labels(path, upright.image, raw_mode, maximum)
        colours = None if palette is None else tuple(zip(palette[::3], palette[1::3], palette[2::3], strict=True))
        return UprightMask(labels, upright.orientation, colours, lossy)


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels as `read_image` turns a picture of that EXIF orientation.

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


def as_paths(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """One path, or several, as an iterator; a string is one path, never its characters."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    return map(Path, paths)


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


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
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


def _load_upright(image: Image.Image) -> UprightImage:
    """Decode a picture and turn it; the image stays in its own mode."""
    # Pillow turns a TIFF while it decodes it, and forgets that it did.
    turned_on_load = _orientation(image) if image.format == "TIFF" else 1
    image.load()  # truncation is met here, so that below only the EXIF block can be at fault
    try:
        orientation = _orientation(image)
        upright = ImageOps.exif_transpose(image)
    # A damaged EXIF block (struct.error, SyntaxError, OverflowError, ...) says nothing against the pixels.
    except Exception:
        orientation, upright = 1, image.copy()
    if turned_on_load != 1:
        orientation = turned_on_load
    width, height = upright.size
    return UprightImage(upright, orientation, (height, width) if orientation >= 5 else (width, height))


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(2, 9) else 1


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


def _raw_mode_and_maximum(image: Image.Image) -> tuple[str, int | None]:
    """How a picture that is not decoded yet stores its pixels: Pillow's raw mode, and the PGM's own maximum."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    arguments = tiles[0][3] if tiles else ""
    if not isinstance(arguments, tuple):
        return str(arguments), None
    # Only those PGM whose maximum fills no whole number of bits hand over (raw mode, maximum).
    scaled = image.format == "PPM" and len(arguments) == 2
    return str(arguments[0]), int(arguments[1]) if scaled else None


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
