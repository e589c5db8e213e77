"""From the numbers that an image file stores to RGB of 8 bits a channel, with an account of what is lost on the way."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from scalablevit.data.image_file import ImageError

ValueRange = tuple[float, float]
"""Stored values that become black and white."""

LossKind = Literal[
    "dark-16-bit", "stretched", "not-finite", "unused-range", "extra-band", "transparent-band", "ink-colours", "pages"
]


class Loss(NamedTuple):
    """Something that an image file holds and the image that is read does not.

    Fields:
        kind: one word that programs can sort by.
        found: what the file holds, and what is done about it.
        remedy: what the user can do.
    """

    kind: LossKind
    found: str
    remedy: str


class Stored(NamedTuple):
    """How an image that is not decoded yet stores its pixels.

    Fields:
        raw_mode: Pillow's name for it.
        maximum: a PGM file's own value of white, where it fills no whole number of bits.
        white: largest value of grayscale of 9 to 16 bits.
        is_inverted: 0 is white, which Pillow does not undo for 16 bits.
        is_georeferenced: a file with a place on the earth.
        extra_bands: bands beside gray or RGB that are not tagged as transparency.
        has_pages: a TIFF file with further images, or an animation.
        may_have_bands: a last band may be near infrared as well as transparency, as in TIFF and JPEG 2000.
    """

    raw_mode: str
    maximum: int | None = None
    white: int = 65535
    is_inverted: bool = False
    is_georeferenced: bool = False
    extra_bands: int = 0
    has_pages: bool = False
    may_have_bands: bool = False


# Pixels that are converted at a time: a whole image as float64 would take eight times its size.
_PIXELS_AT_ONCE = 2**22
# Below a quarter of the range, a 16-bit file most likely holds 10, 12 or 14 bits.
_DARK_16_BIT = 65535 // 4
_BYTE = 255
_NO_TRANSPARENCY = "write the file with three bands if the last one is no transparency, such as near infrared"
_GEO_TAGS = (33550, 33922, 34264, 34735)
_GEO_JP2, _GML_JP2 = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"), b"gml.root-instance"
_NEW_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 0b101


def stored_pixels(image: Image.Image) -> Stored:
    """Describe the pixels of an image that is opened and not decoded."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    arguments = tiles[0][3] if tiles else ""
    if not isinstance(arguments, tuple):
        arguments = (arguments,)
    raw_mode = str(arguments[0])
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _stored_in_tiff(image, raw_mode)
    # Only those PGM whose maximum fills no whole number of bits hand over (raw mode, maximum).
    scaled = image.format == "PPM" and len(arguments) == 2
    if image.format == "JPEG2000":
        return Stored(raw_mode, is_georeferenced=_is_georeferenced_jp2(image), may_have_bands=True)
    animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    return Stored(raw_mode, int(arguments[1]) if scaled else None, has_pages=animated)


def stored_in_memory(image: Image.Image) -> Stored:
    """Describe the pixels of an image that may be decoded already, or come from no file."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return Stored(image.mode, may_have_bands=image.format == "JPEG2000")
    white, inverted = _gray_in_tiff(image)
    return Stored(image.mode, white=white, is_inverted=inverted, may_have_bands=True)


def _is_georeferenced_jp2(image: Image.Image) -> bool:
    """Tell whether a JPEG 2000 file has a box of GeoJP2 or GMLJP2 in front of its pixels."""
    file = image.fp if isinstance(image, ImageFile.ImageFile) else None
    if file is None:
        return False
    position = file.tell()
    file.seek(0)
    head = file.read(2**16)
    file.seek(position)
    return _GEO_JP2 in head or _GML_JP2 in head


def _stored_in_tiff(image: TiffImagePlugin.TiffImageFile, raw_mode: str) -> Stored:
    has_pages = _has_pages(image)
    tags = image.tag_v2
    white, inverted = _gray_in_tiff(image)
    is_georeferenced = any(tag in tags for tag in _GEO_TAGS)
    extra_bands = sum(1 for kind in tags.get(TiffImagePlugin.EXTRASAMPLES, ()) if kind not in (1, 2))
    if is_georeferenced and raw_mode in ("RGBa", "La"):
        # Divided by a band that is no transparency, colours would be lost for good.
        straight = {"RGBa": "RGBA", "La": "LA"}[raw_mode]
        image.tile = [tile._replace(args=(straight, *tile.args[1:])) for tile in image.tile]  # type: ignore[index]
        image._mode = straight
    return Stored(
        raw_mode,
        white=white,
        is_inverted=inverted,
        is_georeferenced=is_georeferenced,
        extra_bands=extra_bands,
        has_pages=has_pages,
        may_have_bands=True,
    )


def _gray_in_tiff(image: TiffImagePlugin.TiffImageFile) -> tuple[int, bool]:
    """Tell the largest value of grayscale of 9 to 16 bits, and whether 0 is white and Pillow does not undo it."""
    tags = image.tag_v2
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    inverted = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 and image.mode.startswith("I;16")
    return (1 << bits[0]) - 1 if 8 < bits[0] < 16 else 65535, inverted


def _has_pages(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Tell whether a second image follows that is no smaller copy and no mask of the first."""
    if not image.tag_v2.next:
        return False
    try:
        image.seek(1)
        return not image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED_OR_MASK
    # A damaged second image says nothing against the first.
    except Exception:
        return False
    finally:
        image.seek(0)


def to_rgb(
    path: Path, image: Image.Image, stored: Stored, value_range: ValueRange | None = None
) -> tuple[Image.Image, list[Loss]]:
    """Convert a decoded image to RGB of 8 bits a channel.

    Args:
        path: of the file, for the error.
        image: decoded, in its own mode.
        stored: how the file stored it.
        value_range: grayscale values of more than 8 bits that become black and white; None: chosen by the values, as
            `read_image` says.

    Returns:
        the image in mode RGB, and what was lost.

    Raises:
        ImageError: no pixel has a finite value.
    """
    losses: list[Loss] = []
    if stored.has_pages:
        what = "several pages or frames, of which the first is read"
        losses.append(Loss("pages", what, "save each as a file of its own if all are meant"))
    if stored.extra_bands:
        what = f"{stored.extra_bands} band(s) beside gray or RGB, which are left out"
        losses.append(Loss("extra-band", what, "choose the three bands that the network shall see"))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        gray, more = _gray_to_8_bits(path, image, stored, value_range)
        return gray.convert("RGB"), losses + more
    if value_range is not None:
        what = "8 bits a channel, to which value_range does not apply"
        losses.append(Loss("unused-range", what, "leave value_range out where all images are like this"))
    if ";16" in stored.raw_mode or (stored.maximum or 0) > _BYTE:
        losses += _losses_of_16_bit_colours(image)
        _keep_8_bits_of_transparent_colour(image)
    if image.mode in ("CMYK", "LAB"):
        what = f"{image.mode} colours, which are converted without a colour profile"
        losses.append(Loss("ink-colours", what, "export it as sRGB if shades matter"))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB"), losses
    if stored.may_have_bands:
        return _without_fourth_band(image, stored, losses)
    if image.mode in ("LA", "RGBA") and _is_graded(image.getchannel("A")):
        what = "a last band that is tagged as transparency and is neither transparent nor opaque in most pixels"
        losses.append(Loss("transparent-band", f"{what}: laid on white", _NO_TRANSPARENCY))
    return _on_white(image), losses


def _losses_of_16_bit_colours(image: Image.Image) -> list[Loss]:
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    colours = bands[: 1 if image.mode in ("LA", "La") else 3]
    brightest = max(int(high) for _, high in colours)
    if brightest >= 64:
        return []
    what = f"16 bits a channel, of which a quarter at most is used: 8 are kept, and the brightest is {brightest} of 255"
    return [Loss("dark-16-bit", what, "scale it to 8 bits a channel before")]


def _keep_8_bits_of_transparent_colour(image: Image.Image) -> None:
    """Cut the colour that a PNG file names transparent to the 8 bits of the pixels; Pillow keeps 16 of it."""
    colour = image.info.get("transparency")
    if isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _without_fourth_band(image: Image.Image, stored: Stored, losses: list[Loss]) -> tuple[Image.Image, list[Loss]]:
    """Lay the transparency of a TIFF or JPEG 2000 file on white, unless it looks like a band of a sensor."""
    if image.mode in ("LA", "RGBA") and stored.is_georeferenced:
        shades = sum(count > 0 for count in image.getchannel("A").histogram())
        if shades > 2:
            what = f"a last band that is tagged as transparency, but has {shades} shades in a georeferenced image"
            remedy = "write the file with three bands to be sure"
            losses.append(Loss("extra-band", f"{what}: taken for a band such as near infrared and left out", remedy))
            return image.convert("L" if image.mode == "LA" else "RGB").convert("RGB"), losses
    what = "a last band, which is taken for transparency and laid on white"
    losses.append(Loss("transparent-band", what, _NO_TRANSPARENCY))
    return _on_white(image), losses


def _is_graded(alpha: Image.Image) -> bool:
    """Whether most pixels are between transparent and opaque, as those of a sensor are and soft edges are not."""
    counts = alpha.histogram()
    return sum(counts[1:255]) * 2 > sum(counts)


def _on_white(image: Image.Image) -> Image.Image:
    """Lay an image with transparency on white, a few rows at a time."""
    # Premultiplied and gray alpha modes reach RGBA in one or two steps.
    straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
    result = Image.new("RGB", image.size)
    for top, bottom in _strips(image):
        rgba = image.crop((0, top, image.width, bottom)).convert(straight).convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        result.paste(Image.alpha_composite(white, rgba).convert("RGB"), (0, top))
    return result


def _gray_to_8_bits(
    path: Path, image: Image.Image, stored: Stored, value_range: ValueRange | None
) -> tuple[Image.Image, list[Loss]]:
    """Scale 16-bit, 32-bit or float grayscale to mode L; see `read_image` for the range."""
    losses: list[Loss] = []
    lowest, highest, is_finite = _extremes(image)
    if lowest > highest:
        raise ImageError(path, kind="unreadable", reason="it has no finite pixel value", remedy="export it again")
    if not is_finite:
        what = "values that are not finite numbers, which count as the lowest or highest value"
        losses.append(Loss("not-finite", what, "fill the gaps before"))
    if value_range is not None:
        low, high = value_range
    elif image.mode.startswith("I;16"):
        low, high = 0.0, float(stored.white)
        if 0 < highest <= _DARK_16_BIT and stored.white == 65535 and not stored.is_inverted:
            bits = int(highest).bit_length()
            what = f"16-bit grayscale with values up to {highest:,.0f} of 65,535, "
            what += f"of which {highest // 257 + 1:.0f} shades are left"
            losses.append(
                Loss("dark-16-bit", what, f"if it holds {bits} bits, set data.value_range [0, {2**bits - 1}]")
            )
    else:
        ranges = [1.0, 255.0, 65535.0] if image.mode == "F" else [255.0, 65535.0]
        white = next((white for white in ranges if lowest >= 0 and highest <= white), None)
        low, high = (lowest, highest) if white is None else (0.0, white)
        if white is not None and 0 < highest <= white / 4 and (image.mode == "F" or white > _BYTE):
            what = f"grayscale of more than 8 bits with values up to {highest:g}, taken as 0 to {white:g}, of which "
            what += f"{highest * 255 // white + 1:.0f} shades are left"
            losses.append(Loss("dark-16-bit", what, f"set data.value_range, such as [0, {highest:g}], for all images"))
        if white is None:
            what = f"grayscale of 32 bits with values from {lowest:g} to {highest:g}, which are stretched to 0..255 in "
            what += "each image by itself: the same value has another shade in the next"
            losses.append(Loss("stretched", what, f"set data.value_range, such as [{lowest:g}, {highest:g}], for all"))
    result = Image.new("L", image.size)
    for top, bottom in _strips(image):
        values = np.asarray(image.crop((0, top, image.width, bottom))).astype(np.float64)
        is_transparent = values == image.info.get("transparency")
        values = np.nan_to_num(values, nan=lowest, posinf=highest, neginf=lowest)
        shades = np.rint((values.clip(low, high) - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8)
        shades = 255 - shades if stored.is_inverted else shades
        shades[is_transparent] = 255  # on white
        result.paste(Image.fromarray(shades), (0, top))
    return result, losses


def _extremes(image: Image.Image) -> tuple[float, float, bool]:
    """(lowest, highest) finite value, and whether all are finite; lowest > highest where none is."""
    lowest, highest, all_finite = np.inf, -np.inf, True
    for top, bottom in _strips(image):
        values = np.asarray(image.crop((0, top, image.width, bottom)))
        if values.dtype.kind == "f":
            finite = values[np.isfinite(values)]
            all_finite &= finite.size == values.size
            values = finite
        if values.size:
            lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
    return lowest, highest, all_finite


def _strips(image: Image.Image) -> Iterator[tuple[int, int]]:
    """Cut an image's rows into strips: (top, bottom)."""
    rows = max(1, _PIXELS_AT_ONCE // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


def checked_value_range(value_range: Sequence[float] | None) -> tuple[float, float] | None:
    """Check a range of stored values, and make a tuple of it.

    Raises:
        ValueError: it is not two finite numbers, the smaller first.
    """
    if value_range is None:
        return None
    if len(value_range) != 2 or not all(map(math.isfinite, value_range)) or value_range[0] >= value_range[1]:
        raise ValueError(
            f"value_range must be the values of black and white, the smaller first, such as [0, 4095], got "
            f"{list(value_range)}"
        )
    return float(value_range[0]), float(value_range[1])
