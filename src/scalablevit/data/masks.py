"""Read any mask as labels, exactly as stored."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from scalablevit.data.image_file import ImageError, open_image, regular_file
from scalablevit.data.orientation import load_upright
from scalablevit.data.pixel_values import Loss, Stored, stored_pixels
from scalablevit.data.stored_path import as_path

_HEAD_BYTES = 2**20


class UprightMask(NamedTuple):
    """A mask of labels, and how it lay in its file.

    Fields:
        labels: (H, W) integers as the file has them, or its colours, packed; upright.
        orientation: the EXIF orientation of the mask's own file that was applied, 1 (none) to 8.
        palette: colour of each label as RGB in 0..255, where the file has a palette.
        lossy: name of the file's format if that is lossy, so that pixels near edges are not the labels that were drawn;
            else empty.
        losses: what the file holds beside the labels.
    """

    labels: np.ndarray
    orientation: int
    palette: tuple[tuple[int, int, int], ...] | None
    lossy: str
    losses: tuple[Loss, ...] = ()


def read_mask(path: str | Path) -> np.ndarray:
    """Read the labels of one mask, (H, W) integers exactly as stored: uint8, uint16 or int32.

    Read are grayscale of 1 to 32 bits, palettes (the indices, not the colours), floats that are whole numbers,
    and RGB whose three channels are equal. Transparency is ignored. EXIF orientation is applied. Of an
    animation, the first frame is taken.

    Args:
        path: file of any format that is read; lossy ones (JPEG, WebP, AVIF, ...) distort labels.

    Raises:
        ImageError: as for `read_image`; of kind "not-a-mask" if the image has colours and no palette, or
            fractions.
    """
    return read_upright_mask(path).labels


def read_upright_mask(path: str | Path, *, in_colours: bool = False) -> UprightMask:
    """Read a mask as `read_mask` does; also give the palette, and tell how it was turned and what was left out.

    Args:
        path: file of any format that is read.
        in_colours: read colours, packed as red * 65536 + green * 256 + blue: of RGB files, of palettes, and grays.

    Raises:
        ImageError: as for `read_mask`; with `in_colours` of kind "not-a-mask" if the file has more than 8 bits a
            channel.
    """
    path = as_path(path)
    with open_image(path) as image:
        stored = stored_pixels(image)
        lossy = lossy_format(path, image)
        upright = load_upright(image)
        turned = upright.image
        palette = turned.getpalette("RGB") if turned.mode in ("P", "PA") else None
        if in_colours:
            labels = _colours(path, turned, stored.raw_mode)
        else:
            labels = _labels(path, turned, stored.raw_mode, stored.maximum, lossy)
        colours = None if palette is None else tuple(zip(palette[::3], palette[1::3], palette[2::3], strict=True))
        return UprightMask(labels, upright.orientation, colours, lossy, tuple(_losses(turned, stored)))


def lossy_format(path: Path, image: Image.Image) -> str:
    """Name the format of an open image if it is lossy, by its content; else give an empty text.

    WebP and JPEG 2000 say how they were compressed. AVIF and HEIF are taken for lossy, as they nearly always are.
    """
    if image.format in ("JPEG", "MPO"):
        return "JPEG"
    if image.format in ("AVIF", "HEIF"):
        return image.format
    if image.format == "TIFF":
        compression = str(image.info.get("compression", ""))
        return f"TIFF with {compression.upper()} compression" if "jpeg" in compression or compression == "webp" else ""
    if image.format in ("WEBP", "JPEG2000"):
        head = _head(path)
        if image.format == "WEBP":
            return "lossy WebP" if _has_lossy_chunk(head) else ""
        marker = head.find(b"\xff\x52")  # coding style; its 12th byte names the wavelet, of which 0 is irreversible
        return "lossy JPEG 2000" if marker >= 0 and head[marker + 13 : marker + 14] == b"\0" else ""
    return ""


def _head(path: Path) -> bytes:
    with regular_file(path) as file:
        return file.read(_HEAD_BYTES)


def _has_lossy_chunk(data: bytes) -> bool:
    """Tell whether a WebP file has a lossily compressed image, "VP8 ", among its chunks."""
    place = 12
    while place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8 "
        place += 8 + (16 if name == b"ANMF" else size + size % 2)  # a frame's own chunks lie inside it
    return False


def _losses(image: Image.Image, stored: Stored) -> Iterator[Loss]:
    """What a mask's file holds beside the labels."""
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        low, high = image.getchannel(image.getbands()[-1]).getextrema()
        if (low, high) != (255, 255):
            yield Loss(
                "transparent-band",
                "it has a further band or transparency that varies, which is ignored; labels are read from the first",
                "export the mask with one band",
            )
    elif stored.extra_bands:
        yield Loss(
            "extra-band",
            f"it has {stored.extra_bands} further band(s), which are ignored; labels are read from the first",
            "export the mask with one band",
        )
    if stored.has_pages:
        yield Loss(
            "pages", "it has several frames or pages, of which the first is read", "save each as a file of its own"
        )


def _colours(path: Path, image: Image.Image, raw_mode: str) -> np.ndarray:
    """(H, W) int32 colours of an upright image, packed."""
    known = image.mode in ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1")
    if not known or ";16" in raw_mode:
        what = f"it is no image of 8-bit RGB colours, a palette or grays ({image.mode})"
        raise ImageError(
            path,
            kind="not-a-mask",
            reason=f"{what}, and the label map has colours",
            remedy="export it as RGB or palette PNG, or give a label_map of numbers",
        )
    pixels = np.asarray(image.convert("RGB"))
    # One channel at a time: three as integers of 32 bits would take twelve times the mask.
    packed = pixels[..., 0].astype(np.int32)
    for channel in (1, 2):
        packed <<= 8
        packed |= pixels[..., channel]
    return packed


def _labels(path: Path, image: Image.Image, raw_mode: str, maximum: int | None, lossy: str) -> np.ndarray:
    """(H, W) labels of an upright image in its own mode, undoing what Pillow scales."""
    in_colour = image.mode in ("RGB", "RGBA", "RGBX")
    if not (in_colour or image.mode in ("1", "L", "LA", "P", "PA", "I", "F") or image.mode.startswith("I;16")):
        raise _no_mask(path, f"it has colours ({image.mode})")
    values = np.asarray(image)
    if (";16" in raw_mode or (maximum or 0) > 255) and (in_colour or image.mode == "LA"):
        raise _no_mask(path, "it has 16 bits in each of several channels, of which only 8 can be read")
    if in_colour and not (values[..., :1] == values[..., 1:3]).all():
        raise _no_mask(path, f"it has colours ({image.mode}{f', saved as {lossy}' if lossy else ''})")
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
        remedy="say by label_map which colour is which class, or convert its colours to class indices and save it as "
        "grayscale or palette PNG",
    )
