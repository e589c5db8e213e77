"""Images of a data set with the objects that are annotated in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from scalablevit.data.bands import Pixels
from scalablevit.explain.regions import box_around


@dataclass(frozen=True)
class AnnotatedObject:
    """An object in an image.

    Args:
        name: of its class.
        region: (H, W) bool, its pixels in the upright image: of its mask, else of its box.
    """

    name: str
    region: NDArray[Any]

    @property
    def box_xyxy(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the smallest box around the pixels; zeros where there is none."""
        return box_around(self.region) or (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its objects.

    Args:
        path: of the file.
        image: upright, RGB; or (H, W, C) for a network of C bands.
        objects: in it; None: it is not annotated.
    """

    path: Path
    image: Image.Image | Pixels
    objects: list[AnnotatedObject] | None
