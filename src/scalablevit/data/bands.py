"""Read images of any number of bands, such as those of satellites, with rasterio.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scalablevit.data.image_file import ImageError, regular_file, shard_blamed
from scalablevit.data.pixel_values import Loss, ValueRange
from scalablevit.data.stored_path import StoredPath, as_path

Pixels = NDArray[np.uint8]
"""An image of any number of bands: (H, W, C), 8 bits a band."""

MOST_BANDS = 256
"""Channels of a network's input are at most this."""

_DRIVER = "GTiff"  # GDAL reads some hundred formats, and follows links to the network from a few of them
_ROWS_AT_ONCE = 512
_USUAL_BANDS = 9
_DARK_16_BIT = 65535 // 4


def reads_bands(in_chans: int) -> bool:
    """Tell whether a network's input is more than gray or RGB, so that its images are read by `read_bands`.

    Raises:
        ValueError: rasterio, which reads them, is not installed.
    """
    if in_chans in (1, 3):
        return False
    if find_spec("rasterio") is None:
        raise ValueError(f"in_chans {in_chans} needs rasterio: pip install 'scalablevit[geo]'")
    return True


def read_bands(
    path: str | Path,
    count: int,
    *,
    value_range: ValueRange | None = None,
    admit: Callable[[int], None] | None = None,
) -> tuple[Pixels, tuple[Loss, ...]]:
    """Read the first bands of a TIFF file, with 8 bits a band.

    Bands of 8 bits stay as they are. Of others, `value_range` becomes 0 to 255; without it 0 to 65535 does, which is
    right for 16 bits alone.

    Args:
        path: a TIFF file of at least `count` bands.
        count: C, bands that are read.
        value_range: values that become 0 and 255, in bands of more than 8 bits.
        admit: called with the number of pixels before they are decoded, to wait until there is memory for them.

    Returns:
        pixels (H, W, C), and what the file holds and they do not.

    Raises:
        ImageError: the file is missing, no TIFF, damaged, too large, of too few bands, or of values without a range.
    """
    path = as_path(path)
    try:
        with regular_file(path):
            pass  # no pipe, no folder, not empty
        with shard_blamed(path):
            return _read(path, count, value_range, admit)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(path, kind="missing", reason="there is no such file", remedy="check the path") from None
    except PermissionError:
        remedy = "change the file's permissions"
        raise ImageError(path, kind="unreadable", reason="no permission to read it", remedy=remedy) from None
    # GDAL's errors have many classes.
    except Exception as error:
        raise ImageError(
            path,
            kind="not-an-image",
            reason=f"this is no TIFF of {count} bands that can be read ({str(error)[:200]})",
            remedy="export it as GeoTIFF, or set in_chans to 3",
        ) from None


def _read(
    path: Path, count: int, value_range: ValueRange | None, admit: Callable[[int], None] | None
) -> tuple[Pixels, tuple[Loss, ...]]:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.windows import Window

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    stored = BytesIO(path.read_bytes()) if isinstance(path, StoredPath) else path
    with rasterio.open(stored, driver=_DRIVER) as file:
        if file.count < count:
            raise ImageError(
                path,
                kind="unreadable",
                reason=f"it has {file.count} band(s), but in_chans is {count}",
                remedy="export all bands, or lower in_chans",
            )
        limit = Image.MAX_IMAGE_PIXELS
        # As many bytes as other formats may take, see `open_image`.
        if limit is not None and file.width * file.height * max(1.0, count / _USUAL_BANDS) > 2 * limit:
            raise ImageError(
                path,
                kind="huge",
                reason=f"too many pixels to decode safely ({file.width} x {file.height}, {count} bands)",
                remedy="cut it, or, if you trust it, raise the limit: predict --max-pixels",
            )
        dtypes = set(file.dtypes[:count])
        low, high = _range_of(path, dtypes, value_range)
        if admit is not None:
            admit(file.width * file.height * -(-count // 3))
        pixels = np.empty((file.height, file.width, count), np.uint8)
        brightest = 0.0
        for top in range(0, file.height, _ROWS_AT_ONCE):
            rows = min(_ROWS_AT_ONCE, file.height - top)
            values = file.read(list(range(1, count + 1)), window=Window(0, top, file.width, rows))  # (C, h, W)
            if dtypes != {"uint8"}:
                values = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low)
                brightest = max(brightest, float(values.max()))
                values = np.rint((values.clip(low, high) - low) * (255.0 / (high - low)))
            pixels[top : top + rows] = np.moveaxis(values, 0, -1)
        losses = list(_losses(file, count, dtypes, value_range, brightest))
    return pixels, tuple(losses)


def _range_of(path: Path, dtypes: set[str], value_range: ValueRange | None) -> ValueRange:
    """Values that become 0 and 255."""
    if value_range is not None:
        return value_range
    if dtypes <= {"uint8", "uint16"}:
        return (0.0, 255.0) if dtypes == {"uint8"} else (0.0, 65535.0)
    raise ImageError(
        path,
        kind="unreadable",
        reason=f"its bands are {', '.join(sorted(dtypes))}, of which nobody knows what is black and white",
        remedy="set data.value_range, such as [0, 10000]",
    )


def _losses(file: Any, count: int, dtypes: set[str], value_range: ValueRange | None, brightest: float) -> list[Loss]:
    losses = []
    if file.count > count:
        what = f"{file.count} bands, of which the first {count} are read"
        losses.append(Loss("extra-band", what, f"set in_chans {file.count} to use them"))
    if dtypes == {"uint8"} and value_range is not None:
        what = "8 bits a band, to which value_range does not apply"
        losses.append(Loss("unused-range", what, "leave value_range out where all images are like this"))
    if value_range is None and dtypes != {"uint8"} and 0 < brightest <= _DARK_16_BIT:
        what = (
            f"16 bits a band with values up to {brightest:,.0f} of 65,535, of which {brightest // 257 + 1:.0f} shades"
        )
        losses.append(Loss("dark-16-bit", f"{what} are left", f"set data.value_range, such as [0, {brightest:.0f}]"))
    return losses


def resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize each band bilinearly, with antialiasing."""
    bands = [Image.fromarray(np.ascontiguousarray(pixels[..., band])) for band in range(pixels.shape[2])]
    return np.stack([np.asarray(band.resize((width, height), Image.Resampling.BILINEAR)) for band in bands], axis=-1)


def in_colour(pixels: Pixels) -> Image.Image:
    """RGB image of the first three bands, or of the first where there are fewer, to look at."""
    shown = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., :1].repeat(3, axis=2)
    return Image.fromarray(np.ascontiguousarray(shown))
