"""Boxes and masks that follow the EXIF orientation of their image.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from typing import Literal

import numpy as np

from scalablevit.data.orientation import orient_boxes, turn_upright

__all__ = ["AnnotationFrame", "applied_orientation", "orient_boxes", "orient_mask"]

AnnotationFrame = Literal["auto", "stored", "upright"]
"""Which pixels boxes and masks count in: the file's own ("stored") or those after EXIF's turn ("upright")."""


def applied_orientation(
    annotated_size: tuple[int, int],
    stored_size: tuple[int, int],
    orientation: int,
    *,
    frame: AnnotationFrame = "auto",
) -> int | None:
    """By which EXIF orientation boxes and masks have to be turned to fit the upright image.

    Args:
        annotated_size: (width, height) that the annotations give.
        stored_size: (width, height) of the file's own pixel grid.
        orientation: EXIF's, 1 to 8, that turns the stored image upright.
        frame: "auto" goes by the size, and takes stored pixels, as COCO does, where it does not tell (a half turn,
            a mirror image, a square).

    Returns:
        1 to 8; None if the sizes contradict.
    """
    upright_size = stored_size[::-1] if orientation >= 5 else stored_size
    if frame != "upright" and annotated_size == stored_size:
        return orientation
    if frame != "stored" and annotated_size == upright_size:
        return 1
    return None


def orient_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """A mask (H, W) of the stored image, turned upright by EXIF's orientation, 1 to 8."""
    return np.ascontiguousarray(turn_upright(mask, orientation))
