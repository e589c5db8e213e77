"""Read an image and its mask so that their pixels lie on each other.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from scalablevit.data.bands import Pixels, read_bands
from scalablevit.data.images import read_upright
from scalablevit.data.masks import UprightMask, read_upright_mask
from scalablevit.data.orientation import turn_upright
from scalablevit.data.pixel_values import Loss, ValueRange
from scalablevit.segmentation.label_map import pack_colours

MaskFrame = Literal["auto", "stored", "upright"]
"""Whether masks follow the EXIF orientation of their images; see `read_pair`."""


PairErrorKind = Literal["other-size", "outside-classes"]


class PairError(ValueError):
    """A mask does not fit its image.

    Attributes:
        path: of the mask.
        kind: what is wrong, in one word that programs can sort by.
    """

    def __init__(self, path: str | Path, *, kind: PairErrorKind, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path = str(path)
        self.kind: PairErrorKind = kind


class ReadPair(NamedTuple):
    """An image and its mask, both upright and of the same size.

    Fields:
        image: mode RGB; of several bands, (H, W, C) uint8.
        labels: (H, W) integers as the mask file has them, or packed colours; turned as the image is.
        mask: the mask as it was read, before it was turned.
        unclear: the image has an EXIF orientation, and the sizes do not tell whether the mask follows it.
        image_losses: what the image's file holds and `image` does not.
    """

    image: Image.Image | Pixels
    labels: np.ndarray
    mask: UprightMask
    unclear: bool
    image_losses: tuple[Loss, ...]


def unclear_orientation(image: str, mask: str) -> str:
    """Tell that it is unclear whether a mask lies as its image's stored pixels do."""
    return (
        f"{mask}: its image {image} is turned by an EXIF orientation, and the size does not tell whether the mask is "
        "too; it is taken to lie as the stored pixels do: check the pair, and set mask_frame if it does not"
    )


def copied_image(image: str, mask: str) -> str:
    """Tell that a mask is a copy of its image."""
    return (
        f"{mask}: the mask has the very pixels of its image {image}, as a copy of the image has; put the mask there, "
        "or go on if the image is drawn in class indices"
    )


def is_copy(pair: ReadPair, *, in_colours: bool) -> bool:
    """Tell whether a mask has the pixels of its image, of more than one value.

    Args:
        pair: as it was read.
        in_colours: as for `read_pair`.
    """
    labels = pair.mask.labels
    pixels = np.asarray(pair.image)  # (H, W, C)
    if labels.shape != pixels.shape[:2] or labels.min() == labels.max():
        return False
    if in_colours:
        if pixels.shape[2] != 3:
            return False
        return bool((pixels[..., 0] == labels >> 16).all()) and bool((pack_colours(pixels) == labels).all())
    return all(bool((pixels[..., channel] == labels).all()) for channel in range(pixels.shape[2]))


def read_pair(
    image_path: str | Path,
    mask_path: str | Path,
    *,
    mask_frame: MaskFrame = "auto",
    in_colours: bool = False,
    value_range: ValueRange | None = None,
    num_bands: int | None = None,
) -> ReadPair:
    """Read an image and its mask so that their pixels lie on each other.

    A mask with an EXIF orientation of its own is turned by that. Otherwise, where the image has one, the mask may be
    drawn over the stored pixels or over the upright image. The size tells unless both have the same; then the mask
    is taken to be drawn over the stored pixels and is turned as the image is.

    Args:
        image_path: file of any format that Pillow reads.
        mask_path: see `scalablevit.data.masks.read_mask`.
        mask_frame: "auto" goes by the size, as above; "stored" always turns the mask as the image is, "upright" never.
        in_colours: labels are the mask's colours, packed as by `pack_colours`, not its numbers.
        value_range: of the image; see `read_image`.
        num_bands: of the image, which is read by `read_bands`; None: it is read as RGB.

    Raises:
        ImageError: the image or the mask cannot be read, or the mask has colours instead of labels.
        PairError: the mask has another size than the image.
    """
    image: Image.Image | Pixels
    if num_bands is None:
        image, orientation, stored_size, losses = read_upright(image_path, value_range=value_range)
        height, width = image.height, image.width
    else:
        image, losses = read_bands(image_path, num_bands, value_range=value_range)
        height, width = image.shape[:2]
        orientation, stored_size = 1, (width, height)
    mask = read_upright_mask(mask_path, in_colours=in_colours)
    labels, unclear = mask.labels, False
    if mask.orientation == 1 and orientation != 1:
        size = labels.shape[1], labels.shape[0]
        unclear = mask_frame == "auto" and size == (width, height) == stored_size
        if mask_frame == "stored" or (mask_frame == "auto" and size == stored_size):
            labels = turn_upright(labels, orientation)
    if labels.shape != (height, width):
        raise PairError(
            mask_path,
            kind="other-size",
            reason=f"the mask has {labels.shape[1]} x {labels.shape[0]} pixels, but its image {image_path} has "
            f"{width} x {height}",
            remedy="export it at the image's size, or resize it by nearest neighbour",
        )
    return ReadPair(image, labels, mask, unclear, losses)
