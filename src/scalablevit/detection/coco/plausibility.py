"""What boxes as a whole look like: fractions of the image, corners, and other mistakes that no single box gives away.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from scalablevit.detection.coco.json_file import BoxForm

_FEW = 4  # boxes that a pattern must hold for
_OVER_THE_EDGE = 0.05  # share of boxes that must not fit as they are read before they are taken for corners
_ROUNDING = 1.0  # pixels
_TINY = 2.0  # pixels

_IN_PIXELS: dict[BoxForm, str] = {
    "sizes": "COCO's are [left, top, width, height] in pixels; multiply left and width by the width of the image, top "
    "and height by its height",
    "corners": "corners are in pixels here; multiply x by the width of the image, y by its height",
    "centres": "they are too small by the size of the image; export them again",
}


def negative_boxes(boxes_xywh: np.ndarray, form: BoxForm) -> str:
    """Say what a file looks like of which many boxes have a negative width or height.

    Args:
        boxes_xywh: (A, 4) finite.
        form: what boxes are in the format of the file.
    """
    share = (boxes_xywh[:, 2:] < 0).any(axis=1).mean()
    words = f"{share:.0%} of the boxes have a negative width or height"
    if form != "corners":
        return f"{words}; export them again"
    if (boxes_xywh[:, 2:] < 0).all():
        return f"{words}: swap the corners, or add left and top if the second pair is width and height"
    return f"{words}, as if the second pair were width and height: write left, top, right and bottom"


def strange_boxes(boxes_xywh: np.ndarray, sizes: np.ndarray, form: BoxForm = "sizes") -> Iterator[tuple[str, str]]:
    """Say what all boxes of a file together look like, where that is not boxes in pixels.

    Args:
        boxes_xywh: (A, 4) finite, as the file has them.
        sizes: (A, 2) width and height of their images, in pixels.
        form: what boxes are in the format of the file, for the remedy.

    Yields:
        kind of problem, and a message to stand behind the path of the file.
    """
    if len(boxes_xywh) < _FEW:
        return
    low, length = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    high = low + length
    if length.max() <= 1 + 1e-6 and high.max() <= 1.5 and low.min() >= -0.5 and sizes.min() >= 8:
        yield (
            "fraction-boxes",
            f"all {len(length):,} boxes lie between 0 and {high.max():.2f}, as fractions of the image: "
            f"{_IN_PIXELS[form]}",
        )
        return
    over = ((high - sizes) > _ROUNDING).any(axis=1).mean()
    # As corners, all would be in order: the lower right one beyond the upper left one, and within the image.
    as_corners = (length > low).all() and (length <= sizes + _ROUNDING).all() and low.min() >= -_ROUNDING
    if form == "sizes" and as_corners and over > _OVER_THE_EDGE:
        yield (
            "corner-boxes",
            f"{over:.0%} of the boxes reach over the edge of their images, and all of them would fit as corners [left, "
            "top, right, bottom]: COCO's are [left, top, width, height]; subtract left from the third number and top "
            "from the fourth",
        )
    elif high.max() <= 100 + 1e-6 and sizes.min() > 200 and high.max(axis=0).min() > 90:
        yield (
            "percent-boxes",
            "all boxes end at 100 or before, in images of more than 200 pixels: they look like percentages of the "
            "image; COCO's are in pixels",
        )
    if len(np.unique(boxes_xywh, axis=0)) == 1 and len(boxes_xywh) >= 10:
        yield "same-boxes", f"all {len(length):,} boxes are the same, {boxes_xywh[0].tolist()}; export them again"
    elif np.median(length.max(axis=1)) < _TINY:
        yield (
            "tiny-boxes",
            f"half of the boxes are smaller than {_TINY:g} pixels: do they belong to images of this size? No detector "
            "finds such objects; check some of them",
        )
    elif len(boxes_xywh) >= 10 and (np.abs(length - sizes) <= _ROUNDING).all():
        yield (
            "whole-boxes",
            "every box covers its whole image: these look like labels of images, not of objects; train a "
            "classifier, or export the boxes again",
        )


def strange_sizes(annotated: np.ndarray, stored: np.ndarray) -> str:
    """Say what the sizes of all looked-at images have to do with those that the annotations give; "" where one fits.

    Args:
        annotated: (n, 2) width and height as the annotations give them.
        stored: (n, 2) of the files, of images that EXIF does not turn.
    """
    if len(annotated) < _FEW or (annotated == stored).all(axis=1).any():
        return ""
    if (annotated == stored[:, ::-1]).all():
        return "width and height are swapped in the annotations: swap them"
    factors = stored / annotated
    if np.ptp(factors) < 0.02 * factors.mean():
        return (
            f"the images were resized by {factors.mean():.3g} after they were annotated: resize boxes and masks with "
            "them, or put the original images back"
        )
    return "annotations and images do not belong together: name the right folder, or export the annotations again"


def shifted_ids(used: Iterable[Any], known: Iterable[Any]) -> str:
    """Say so where the ids in annotations are those of a list, moved by one; otherwise "".

    Args:
        used: ids in the annotations.
        known: ids of the list.
    """
    named = {value for value in used if isinstance(value, int)}
    listed = {value for value in known if isinstance(value, int)}
    if not named or len(listed) < 2:
        return ""
    for shift, words in ((1, "start at 0, those of the list at 1"), (-1, "start at 1, those of the list at 0")):
        edge, opposite = (min(listed), max(listed)) if shift == 1 else (max(listed), min(listed))
        if named - listed == {edge - shift} and opposite not in named:
            return f"the ids of the annotations seem to {words}: move one of the two, or all are one off"
    return ""
