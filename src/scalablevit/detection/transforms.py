"""From an upright image with boxes and masks to a training sample: crop, resize, flip, colours."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from scalablevit.data.input_settings import InputSettings, check_mean_std
from scalablevit.data.resizing import resized_size

_SLIVER = 1.0  # pixels of the image that has to be left of a box whose object was cut
_THINNEST = 1e-3  # pixels of the resized image; losses take the logarithm of widths


@dataclass(frozen=True)
class Preprocessing(InputSettings):
    """What a detector was trained to be fed; it travels with the weights. The detector applies it itself.

    Args:
        min_size: length of the resized image's shorter side, in pixels.
        max_size: what its longer side may not exceed; then the shorter one is shorter.
        mean: of red, green and blue, of pixels in 0..1.
        std: likewise.

    Raises:
        ValueError: a value is out of its range.
    """

    min_size: int = 800
    max_size: int = 1333
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_size < 1:
            raise ValueError(f"min_size must be at least 1 pixel, got {self.min_size}; 800 is usual")
        if self.max_size < self.min_size:
            raise ValueError(f"max_size must be at least min_size ({self.min_size}), got {self.max_size}")
        mean, std = tuple(self.mean), tuple(self.std)
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"mean and std need three values each (red, green, blue), got {mean} and {std}")
        check_mean_std(mean, std)
        # Lists come in from YAML and JSON; tuples make the settings hashable and comparable.
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def resized(self, height: int, width: int, *, min_size: int | None = None) -> tuple[int, int]:
        """(height, width) in pixels, each at least 1, of an image that is resized with its proportions.

        Args:
            height: of the image.
            width: likewise.
            min_size: in the place of `self.min_size`.
        """
        return resized_size(height, width, short_side=min_size or self.min_size, long_side=self.max_size)


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied. The defaults are those of the 1x schedule: a flip and nothing else.

    The crop is the one of DETR and Swin's 3x schedule: the shorter side is thought resized to one of
    `crop_resize`, a rectangle with sides within `crop_size` is cut out, and that is resized as usual.

    Args:
        sizes: lengths in pixels, one of which is drawn for the resized image's shorter side; None: always
            the preprocessing's `min_size`. 480, 512, ..., 800 is usual for the 3x schedule.
        hflip_prob: probability of a left-right flip.
        vflip_prob: probability of an upside-down flip, for images without an up, such as those from the air.
        crop_prob: probability of the crop; 0.5 is usual for the 3x schedule.
        crop_resize: lengths in pixels, one of which is drawn.
        crop_size: smallest and largest side of the rectangle, in pixels of the image resized by `crop_resize`.
        color_jitter: brightness, contrast and saturation change by a factor in 1 ± this; 0 for none.

    Raises:
        ValueError: a value is out of its range.

    Source: the crop: Carion et al., arXiv:2005.12872, appendix A.4.
    """

    sizes: tuple[int, ...] | None = None
    hflip_prob: float = 0.5
    vflip_prob: float = 0.0
    crop_prob: float = 0.0
    crop_resize: tuple[int, ...] = (400, 500, 600)
    crop_size: tuple[int, int] = (384, 600)
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("sizes", "crop_resize", "crop_size"):
            value = getattr(self, name)
            if value is None:
                continue
            object.__setattr__(self, name, tuple(value))
            if len(value) == 0 or min(value) < 1:
                raise ValueError(f"augmentation.{name} needs lengths of at least 1 pixel, got {list(value)}")
        if len(self.crop_size) != 2 or self.crop_size[0] > self.crop_size[1]:
            raise ValueError(f"augmentation.crop_size must be two lengths, the smaller first, got {self.crop_size}")
        for name in ("hflip_prob", "vflip_prob", "crop_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation.{name} must be between 0 and 1, got {getattr(self, name)}")
        if not 0 <= self.color_jitter <= 1:
            raise ValueError(f"augmentation.color_jitter must be between 0 and 1, got {self.color_jitter}")


@dataclass(frozen=True)
class View:
    """What a training sample shows of its image.

    Args:
        crop: top, left, height and width in pixels of the part that is cut out; None: all of the image.
        size: (height, width) in pixels that this is resized to.
        hflip: flip left and right.
        vflip: flip upside down.
    """

    crop: tuple[int, int, int, int] | None
    size: tuple[int, int]
    hflip: bool = False
    vflip: bool = False


def as_input(pixels: Tensor) -> Tensor:
    """An image (3, H, W) uint8 as detectors take it: float32 in 0..1, on the same device."""
    return F.to_dtype(pixels, torch.float32, scale=True)


class TrainTransform:
    """From an upright image and its objects to a training sample, varied at random.

    Randomness comes from the global generators of `random` and `torch`.

    Args:
        preprocessing: tells the size.
        augmentation: None: only resize.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation | None) -> None:
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        strength = augmentation.color_jitter if augmentation is not None else 0.0
        self._jitter = v2.ColorJitter(strength, strength, strength) if strength else None

    def __call__(
        self,
        image: Image.Image,
        boxes_xyxy: np.ndarray,
        labels: np.ndarray,
        masks: Sequence[Callable[[], np.ndarray] | None] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A view of the image, and what is seen in it.

        Args:
            image: RGB, upright.
            boxes_xyxy: (R, 4) in pixels of the image.
            labels: (R,) classes.
            masks: gives the (H, W) mask of each object when called: decoded one by one, as a hundred of a large
                photograph's size would fill the memory. None: without masks.

        Returns:
            image: (3, h, w) float32 in 0..1, not normalised.
            target: boxes (R', 4) float32 xyxy in pixels of the view, labels (R',) int64 and, given masks,
                masks (R', h, w) uint8; R' objects are left in the view.
        """
        view = self.draw_view(image.height, image.width)
        target = view_objects(view, (image.height, image.width), boxes_xyxy, labels, masks)
        return self._view_image(view, image), target

    def draw_view(self, height: int, width: int) -> View:
        """Draw crop, size and flips for an image of that many pixels."""
        augmentation, crop = self.augmentation, None
        if augmentation is None:
            return View(None, self.preprocessing.resized(height, width))
        if random.random() < augmentation.crop_prob:
            scale = random.choice(augmentation.crop_resize) / min(height, width)
            smallest, largest = augmentation.crop_size
            crop_height, crop_width = (
                min(side, max(1, round(random.randint(smallest, largest) / scale))) for side in (height, width)
            )
            top, left = random.randint(0, height - crop_height), random.randint(0, width - crop_width)
            crop = top, left, crop_height, crop_width
            height, width = crop_height, crop_width
        min_size = random.choice(augmentation.sizes) if augmentation.sizes is not None else None
        return View(
            crop,
            self.preprocessing.resized(height, width, min_size=min_size),
            hflip=random.random() < augmentation.hflip_prob,
            vflip=random.random() < augmentation.vflip_prob,
        )

    def _view_image(self, view: View, image: Image.Image) -> Tensor:
        if view.crop is not None:
            image = F.crop(image, *view.crop)
        pixels = _resize_and_flip(F.to_image(image), view)
        if self._jitter is not None:
            pixels = self._jitter(pixels)
        return F.to_dtype(pixels, torch.float32, scale=True).as_subclass(Tensor)


def view_objects(
    view: View,
    image_size: tuple[int, int],
    boxes_xyxy: np.ndarray,
    labels: np.ndarray,
    masks: Sequence[Callable[[], np.ndarray] | None] | None,
) -> dict[str, Tensor]:
    """What a view of an image shows of its objects; see `TrainTransform`.

    Objects of which the crop leaves less than a pixel in either direction, or nothing of the mask, are left out.
    None is lost by resizing: a mask that vanishes in a smaller image keeps the pixels of its box. An object whose mask
    has no pixel is one without a mask: its box is learnt.

    Args:
        view: of the image.
        image_size: (height, width) of the image.
        boxes_xyxy: (R, 4) in pixels of the image.
        labels: (R,) classes.
        masks: as for `TrainTransform`.
    """
    boxes = tv_tensors.BoundingBoxes(
        torch.from_numpy(np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)), format="XYXY", canvas_size=image_size
    )
    kept = torch.arange(len(boxes))
    if view.crop is not None:
        # Where nothing is cut off, boxes below a pixel are small objects and no slivers.
        whole = _within(boxes, view.crop)
        boxes = F.crop(boxes, *view.crop)
        _, left_over = F.sanitize_bounding_boxes(boxes, min_size=_SLIVER)
        kept = kept[left_over | whole]
        boxes = _boxes_like(boxes, boxes[kept])
    boxes = F.clamp_bounding_boxes(_resize_and_flip(boxes, view))
    _, valid = F.sanitize_bounding_boxes(boxes, min_size=_THINNEST, min_area=_THINNEST**2)
    boxes, kept = boxes[valid].as_subclass(Tensor), kept[valid]
    target = {"labels": torch.from_numpy(np.asarray(labels, np.int64))[kept]}
    if masks is not None:
        decode = [masks[i] for i in kept.tolist()]
        seen = [_view_mask(view, mask, box) for mask, box in zip(decode, boxes, strict=True)]
        there = torch.tensor([mask is not None for mask in seen], dtype=torch.bool)
        boxes, target["labels"] = boxes[there], target["labels"][there]
        visible = [mask for mask in seen if mask is not None]
        target["masks"] = torch.cat(visible) if visible else torch.zeros((0, *view.size), dtype=torch.uint8)
        target["has_mask"] = target["masks"].flatten(1).any(1) if visible else torch.zeros(0, dtype=torch.bool)
    return {"boxes": boxes, **target}


def _view_mask(view: View, decode: Callable[[], np.ndarray] | None, box: Tensor) -> Tensor | None:
    """(1, h, w) uint8, all 0 without a mask or with an empty one; None where the view cuts all of the mask off."""
    whole = None if decode is None else torch.from_numpy(np.ascontiguousarray(decode(), dtype=np.uint8))
    if whole is None or not whole.any():
        return torch.zeros((1, *view.size), dtype=torch.uint8)
    mask = tv_tensors.Mask(whole[None])
    if view.crop is not None:
        mask = F.crop(mask, *view.crop)
    if not mask.any():
        return None
    mask = _resize_and_flip(mask, view).as_subclass(Tensor)
    if not mask.any():
        height, width = view.size
        left, top, right, bottom = (int(side) for side in box)
        mask[:, min(top, height - 1) : bottom + 1, min(left, width - 1) : right + 1] = 1
    return mask


def _resize_and_flip(inputs: Any, view: View) -> Any:
    """As `view` says, of an image, boxes or a mask; images bilinearly, masks to the nearest pixel."""
    inputs = F.resize(inputs, list(view.size), antialias=True)
    if view.hflip:
        inputs = F.horizontal_flip(inputs)
    return F.vertical_flip(inputs) if view.vflip else inputs


def _within(boxes: Tensor, crop: tuple[int, int, int, int]) -> Tensor:
    """Which boxes lie wholly in the crop, (R,) bool."""
    top, left, height, width = crop
    x1, y1, x2, y2 = boxes.as_subclass(Tensor).unbind(1)
    return (x1 >= left) & (y1 >= top) & (x2 <= left + width) & (y2 <= top + height)


def _boxes_like(boxes: tv_tensors.BoundingBoxes, chosen: Tensor) -> tv_tensors.BoundingBoxes:
    # Indexing gives a plain tensor, which F would take for an image.
    return tv_tensors.wrap(chosen, like=boxes)
