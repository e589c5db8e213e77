"""From an RGB image to the network's input: for evaluation, and with augmentation for training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import posterize as timm_posterize
from torch import Tensor, nn
from torchvision.transforms import v2

from scalablevit.data.input_settings import MOST_PIXELS, InputSettings, check_mean_std

Transform = Callable[[Image.Image], Tensor]

# A strip of 1 x 20,000 pixels would grow by 224 on its long side as well before the centre is cut out.
_MAX_ASPECT = 16.0


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied. The defaults are those of the paper's ImageNet-1K recipe.

    All of it is timm's, so each setting means what timm's flag of that name means.

    Args:
        scale: share of the image's area that the random crop keeps, smallest and largest, in (0, 1].
        ratio: width over height of the random crop, smallest and largest.
        hflip_prob: probability of a left-right flip.
        vflip_prob: probability of an upside-down flip.
        rand_augment: timm's policy string ("rand-m9-mstd0.5-inc1", "augmix-m3-w3", "original", ...), or
            None for none.
        color_jitter: strength of random brightness, contrast and saturation, or None for none. timm leaves
            it out wherever `rand_augment` is set, unless the policy's name has "3a" in it.
        grayscale_prob: probability of removing the colour.
        erasing_prob: probability of random erasing.
        erasing_mode: what erased rectangles are filled with: "pixel" (noise), "rand" (one random colour)
            or "const" (the mean colour).
        erasing_count: the most rectangles erased in one image.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip_prob: float = 0.5
    vflip_prob: float = 0.0
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float | None = 0.4
    grayscale_prob: float = 0.0
    erasing_prob: float = 0.25
    erasing_mode: str = "pixel"
    erasing_count: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _pair("scale", self.scale))
        object.__setattr__(self, "ratio", _pair("ratio", self.ratio))
        if self.scale[1] > 1:
            raise ValueError(f"augmentation.scale is a share of the image and ends at 1, got {self.scale}")
        for name in ("hflip_prob", "vflip_prob", "grayscale_prob", "erasing_prob"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"augmentation.{name} must be between 0 and 1, got {value}")
        if self.erasing_mode not in ("pixel", "rand", "const"):
            raise ValueError(f"augmentation.erasing_mode must be 'pixel', 'rand' or 'const', got {self.erasing_mode!r}")
        if self.erasing_count < 1:
            raise ValueError(
                f"augmentation.erasing_count must be at least 1, got {self.erasing_count}; "
                "erasing_prob=0 turns erasing off"
            )


@dataclass(frozen=True)
class Preprocessing(InputSettings):
    """What a network was trained to be fed; it travels with the weights.

    Args:
        image_size: height and width of the network's input, in pixels.
        crop_ratio: the centre crop's share of the resized image, in (0, 1]. 0.875 at 224 px means: shorter
            side to 256, then the middle 224.
        interpolation: "bicubic", "bilinear", "lanczos", "box", "hamming" or "nearest".
        mean: per channel, of pixels in 0..1. One value: the network takes grayscale; three: RGB.
        std: per channel, of pixels in 0..1.

    Raises:
        ValueError: a value is out of its range.
    """

    image_size: tuple[int, int]
    crop_ratio: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        size, mean, std = tuple(self.image_size), tuple(self.mean), tuple(self.std)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"image_size must be a height and a width of at least 1 pixel, got {size}")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must be above 0 and at most 1, got {self.crop_ratio}")
        if math.prod(size) / self.crop_ratio**2 > MOST_PIXELS:
            raise ValueError(
                f"image_size {size} with crop_ratio {self.crop_ratio} makes images of more than {MOST_PIXELS:,} "
                "pixels; take a smaller size, or a larger crop_ratio"
            )
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(_INTERPOLATIONS)}, got {self.interpolation!r}")
        check_mean_std(mean, std)
        # Lists come in from YAML and JSON; tuples make the settings hashable and comparable.
        object.__setattr__(self, "image_size", size)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @property
    def in_chans(self) -> int:
        """Channels of the network's input: 1 or 3."""
        return len(self.mean)

    @property
    def resize_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the resized image must at least have; rounded down, as in timm."""
        height, width = self.image_size
        return math.floor(height / self.crop_ratio), math.floor(width / self.crop_ratio)

    def reading_options(self) -> dict[str, Any]:
        """What a data set of images needs to know of the input beside its transform: `image_shape`, `value_range`."""
        return {"image_shape": (self.in_chans, *self.image_size), "value_range": self.value_range}

    def summary(self) -> str:
        """The line of a data module's summary."""
        height, width = self.image_size
        return f"input       {self.in_chans} x {height} x {width}, {self.interpolation}"

    def eval_transform(self) -> Transform:
        """RGB image to (in_chans, height, width) float32: resize, centre crop, normalise.

        For square inputs this is the usual `Resize(int)`, `CenterCrop` of torchvision and timm.
        """
        return v2.Compose([*self._fit(), v2.ToImage(), *self._normalize(), v2.ToPureTensor()])

    def fit_transform(self) -> Callable[[Image.Image], Image.Image]:
        """Image to one of `image_size`, 8 bits a channel: what `eval_transform` does first, in Pillow alone."""
        return v2.Compose(self._fit())

    def shown_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of an image that the network is shown: left, top, right, bottom in pixels of the image."""
        kept, resized = ResizeToCover(self.resize_size, interpolation=self.interpolation).sizes(height, width)
        box = []
        for side, middle, full, crop in zip((height, width), kept, resized, self.image_size, strict=True):
            start = _crop_start(side, middle)
            first = _crop_start(full, crop)
            box.append((start + first * middle / full, start + (first + crop) * middle / full))
        (top, bottom), (left, right) = box
        return left, top, right, bottom

    def batch_transform(self) -> Callable[[Sequence[Image.Image]], Tensor]:
        """Images of `fit_transform` to (B, in_chans, height, width) float32, the same as by `eval_transform`."""
        normalize = v2.Compose(self._normalize())
        return lambda images: normalize(torch.stack([v2.functional.pil_to_tensor(image) for image in images]))

    def _fit(self) -> list[nn.Module]:
        steps: list[nn.Module] = [
            ResizeToCover(self.resize_size, interpolation=self.interpolation),
            v2.CenterCrop(list(self.image_size)),
        ]
        return [*steps, v2.Grayscale(1)] if self.in_chans == 1 else steps

    def _normalize(self) -> list[nn.Module]:
        return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(self.mean), list(self.std))]

    def train_transform(self, augmentation: Augmentation | None) -> Transform:
        """RGB image to (in_chans, height, width) float32, varied at random as timm does it.

        Randomness comes from the global generators of `random`, `numpy` and `torch`.

        Args:
            augmentation: None means no augmentation, the evaluation transform.

        Raises:
            ValueError: timm does not know the `rand_augment` policy.
        """
        if augmentation is None:
            return self.eval_transform()
        # RandAugment fills with the mean colour of an RGB image, also where the network then takes gray.
        in_color = self._timm_stages(augmentation, self.mean * (3 // self.in_chans), self.std)
        if self.in_chans == 3:
            return v2.Compose(in_color)
        in_gray = self._timm_stages(augmentation, self.mean, self.std)
        return v2.Compose([*in_color[:2], v2.Grayscale(1), in_gray[2]])

    def _timm_stages(
        self, augmentation: Augmentation, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> tuple[Transform, Transform, Transform]:
        """timm's training transform as (geometry, colours, to tensor)."""
        try:
            stages = create_transform(
                (len(mean), *self.image_size),
                is_training=True,
                scale=augmentation.scale,
                ratio=augmentation.ratio,
                hflip=augmentation.hflip_prob,
                vflip=augmentation.vflip_prob,
                color_jitter=augmentation.color_jitter,
                grayscale_prob=augmentation.grayscale_prob,
                auto_augment=augmentation.rand_augment,
                interpolation=self.interpolation,
                mean=mean,
                std=std,
                re_prob=augmentation.erasing_prob,
                re_mode=augmentation.erasing_mode,
                re_count=augmentation.erasing_count,
                separate=True,
            )
        # timm checks the policy's text with assert and float().
        except (AssertionError, ValueError) as error:
            raise ValueError(
                f"augmentation.rand_augment={augmentation.rand_augment!r} is no policy that timm knows "
                f"({error}); an example is 'rand-m9-mstd0.5-inc1', and null turns it off"
            ) from error
        _posterize_to_black(stages[1])
        return stages


class ResizeToCover(nn.Module):
    """Resize an image, keeping its proportions, to the smallest that covers (height, width).

    For a square size this is torchvision's `Resize(side)`. Strips longer than 16 to 1 lose their ends first:
    the centre crop that follows would drop those anyway, and enlarging them would exhaust the memory.

    Args:
        size: height and width to cover, in pixels.
        interpolation: name of a torchvision interpolation mode; antialiased.
    """

    def __init__(self, size: tuple[int, int], *, interpolation: str) -> None:
        super().__init__()
        self.size = size
        self.interpolation = v2.InterpolationMode(interpolation)

    def forward(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        height, width = v2.functional.get_size(image)
        kept, new = self.sizes(height, width)
        if kept != (height, width):
            image = v2.functional.center_crop(image, list(kept))
        return v2.functional.resize(image, list(new), interpolation=self.interpolation, antialias=True)

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of the middle that is kept of an image, and of that after resizing."""
        longest = _MAX_ASPECT * max(self.size) / min(self.size)
        if max(height, width) > longest * min(height, width):
            keep = math.ceil(longest * min(height, width))
            height, width = min(height, keep), min(width, keep)
        # Integer arithmetic rounds as torchvision's Resize does: the covering side exact, the other down.
        cover_height, cover_width = self.size
        if cover_height * width >= cover_width * height:
            return (height, width), (cover_height, int(cover_height * width / height))
        return (height, width), (int(cover_width * height / width), cover_width)

    def extra_repr(self) -> str:
        return f"size={self.size}, interpolation={self.interpolation.value}"


def _crop_start(length: int, kept: int) -> int:
    """Where torchvision's centre crop begins."""
    return round((length - kept) / 2.0)


def _posterize_to_black(colors: v2.Compose) -> None:
    """Let timm's policies keep 0 bits: black before Pillow 13, an error since."""
    for step in colors.transforms:
        policies = [getattr(step, "ops", []), *getattr(step, "policy", [])]
        for operation in (operation for policy in policies for operation in policy):
            if operation.aug_fn is timm_posterize:
                operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    if bits_to_keep <= 0:
        return Image.new(image.mode, image.size)
    return timm_posterize(image, bits_to_keep, **options)


_INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "box", "hamming", "nearest")


def _pair(name: str, values: tuple[float, float]) -> tuple[float, float]:
    pair = tuple(values)
    if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
        raise ValueError(f"augmentation.{name} must be two numbers above 0, the smaller first, got {tuple(values)}")
    return pair
