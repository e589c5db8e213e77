"""COCO's run-length code of masks.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scalablevit.detection.coco.json_file import integer, shown


class MaskSizeError(ValueError):
    """A mask of another size than its image."""


def run_lengths(segmentation: Mapping[str, Any], *, width: int, height: int) -> np.ndarray:
    """Alternating lengths of the runs of 0 and 1 of a mask in COCO's run-length code, (n,) int64.

    Args:
        segmentation: {"size": [height, width], "counts": list of lengths, or COCO's string}.
        width: of the image, in pixels.
        height: likewise.

    Raises:
        ValueError: the mask is damaged or has another size; the message continues "the mask of ...".

    Source: the code's definition, as `maskApi.c` of https://github.com/cocodataset/cocoapi gives it.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, list | str):
        raise ValueError("lacks 'size' or 'counts'; export it again")
    if (integer(size[0]), integer(size[1])) != (height, width):
        swapped = (
            "; these are [width, height]: swap them" if (integer(size[1]), integer(size[0])) == (height, width) else ""
        )
        raise MaskSizeError(f"has the size [height, width] {shown(size)}, but its image has {[height, width]}{swapped}")
    if isinstance(counts, str):
        if counts[:2] in ("b'", 'b"'):
            raise ValueError(
                "has 'counts' that are bytes written by str(): write counts.decode('ascii') into the file instead"
            )
        runs = _decompress(counts)
    else:
        try:
            runs = np.array(counts)
        except (ValueError, OverflowError):
            runs = np.zeros((0, 0))
        if runs.ndim != 1 or runs.dtype.kind not in "iu":
            raise ValueError("has 'counts' that are no whole numbers; export it again")
    if (
        runs.size
        and runs.min() >= 0
        and runs.max() <= 255
        and runs.sum() != width * height
        and isinstance(counts, list)
    ):
        raise ValueError(
            f"has 'counts' that do not add up to {height} x {width} pixels; if they are bytes of Label Studio's brush, "
            "decode them by label_studio_sdk.converter.brush.decode_rle and write COCO's run lengths"
        )
    if runs.size == 0 or runs.min() < 0 or runs.max() > width * height or runs.sum() != width * height:
        raise ValueError(f"has 'counts' that do not add up to {height} x {width} pixels; export it again")
    return runs.astype(np.int64)


def decode_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) uint8 from alternating lengths of runs of 0 and 1, down the columns, that fill it exactly."""
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.repeat(values, runs).reshape(width, height).T


def run_bounds(runs: np.ndarray, length: int) -> tuple[int, int, int, int] | None:
    """Bounds of the runs of 1, half open: first and last line, first and last place in a line; None without a 1.

    Args:
        runs: alternating lengths of runs of 0 and 1.
        length: of a line; the lines are the columns of the mask, where its runs go down the columns.

    Returns:
        first line, first place, behind the last line, behind the last place.
    """
    ends = np.cumsum(runs, dtype=np.int64)
    starts, ends = (ends - runs)[1::2], ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(starts):
        return None
    is_long = starts // length != (ends - 1) // length
    low = np.where(is_long, 0, starts % length).min()
    high = np.where(is_long, length, (ends - 1) % length + 1).max()
    return int(starts[0] // length), int(low), int((ends[-1] - 1) // length + 1), int(high)


def _decompress(text: str) -> np.ndarray:
    """Run lengths from COCO's string: groups of 5 bits, and differences to the last run but one."""
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        codes = np.array([-1])
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("has 'counts' that are cut off or no run-length code; export it again")
    is_last = codes & 32 == 0
    number = np.concatenate([[0], np.cumsum(is_last)[:-1]])  # which number each group belongs to
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    place = np.arange(codes.size) - starts[number]
    if place.max() > 11:  # beyond 60 bits
        raise ValueError("has 'counts' that are no run-length code; export it again")
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    last = np.flatnonzero(is_last)
    values -= np.where(codes[last] & 16 != 0, np.int64(1) << (5 * (place[last] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
