"""From an image and its mask to the network's input: for evaluation, and with augmentation for training."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from scalablevit.data.bands import Pixels
from scalablevit.data.input_settings import InputSettings, check_mean_std
from scalablevit.data.resizing import resized_size
from scalablevit.segmentation.labels import IGNORED
from scalablevit.visualization.palette import class_colours

ImageTransform = Callable[[Image.Image | Pixels], Tensor]
"""RGB image, or (H, W, C) pixels of C bands -> (C, H, W) float32."""

PairTransform = Callable[[Image.Image | Pixels, NDArray[np.uint8]], tuple[Tensor, Tensor]]
"""RGB image, or pixels of several bands, and (H, W) class indices -> (C, h, w) float32 and (h, w) int64."""

_CROP_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """How training images and masks are varied. The defaults are those usual for ADE20K.

    Args:
        scale: smallest and largest factor on the resized image, above 0; drawn evenly between them.
        cat_max_ratio: a crop is drawn again, up to 10 times, while one class has this share of its pixels or more,
            ignored ones not counted; in (0, 1], where 1 takes the first crop.
        hflip_prob: probability of a left-right flip.
        vflip_prob: probability of an upside-down flip, such as for images from above.
        photometric_prob: probability of each of the four changes below; 0 turns them off.
        brightness: the most that is added to or taken from each pixel, of pixels in 0..1.
        contrast: smallest and largest factor on the pixels.
        saturation: smallest and largest factor on the colourfulness; 0 is gray.
        hue: the most that hues are turned, in circles, 0 to 0.5.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    hflip_prob: float = 0.5
    vflip_prob: float = 0.0
    photometric_prob: float = 0.5
    brightness: float = 32 / 255
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 0.1

    def __post_init__(self) -> None:
        for name in ("scale", "contrast", "saturation"):
            pair = tuple(getattr(self, name))
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1] or (name == "scale" and pair[0] == 0):
                raise ValueError(
                    f"augmentation.{name} must be two numbers above 0, the smaller first, got {list(pair)}"
                )
            object.__setattr__(self, name, pair)
        for name in ("hflip_prob", "vflip_prob", "photometric_prob", "brightness"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"augmentation.{name} must be between 0 and 1, got {value}")
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(f"augmentation.cat_max_ratio must be above 0 and at most 1, got {self.cat_max_ratio}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"augmentation.hue must be between 0 and 0.5 circles, got {self.hue}")


@dataclass(frozen=True)
class Preprocessing(InputSettings):
    """What a network was trained to be fed and how its classes are drawn; it travels with the weights.

    Args:
        mean: per channel, of pixels in 0..1. One value: the network takes grayscale; three: RGB; another number: that
            many bands.
        std: per channel, of pixels in 0..1.
        short_side: images were resized to this shorter side, in pixels, before they were varied; None: not at all.
        long_side: no more than this for the longer side, in pixels; None: no limit.
        palette: RGB colour in 0..255 of each class, to draw it with.

    Raises:
        ValueError: a value is out of its range.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    short_side: int | None = 512
    long_side: int | None = 2048
    palette: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        mean, std = tuple(self.mean), tuple(self.std)
        check_mean_std(mean, std, any_bands=True)
        for name in ("short_side", "long_side"):
            side = getattr(self, name)
            if side is not None and side < 1:
                raise ValueError(f"{name} must be at least 1 pixel or null, got {side}")
        palette = tuple(tuple(colour) for colour in self.palette)
        for colour in palette:
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise ValueError(f"palette needs three values in 0..255 for each class, got {colour}")
        # Lists come in from YAML and JSON; tuples make the settings hashable and comparable.
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        object.__setattr__(self, "palette", palette)

    @property
    def in_chans(self) -> int:
        """Channels of the network's input: 1 (grayscale), 3 (RGB) or a number of bands."""
        return len(self.mean)

    def colours(self, count: int) -> list[tuple[int, int, int]]:
        """RGB colour in 0..255 of each of `count` classes: the palette, or made up where that has fewer."""
        return list(self.palette[:count]) if len(self.palette) >= count else class_colours(count)

    def eval_transform(self) -> ImageTransform:
        """RGB image to (in_chans, H, W) float32 at its own size: only normalised."""
        return v2.Compose([v2.ToImage(), *self._input_steps(), v2.ToPureTensor()])

    def train_transform(self, augmentation: Augmentation | None, crop_size: tuple[int, int]) -> PairTransform:
        """RGB image and its mask to a crop of both, varied at random.

        Randomness comes from torch's global generator.

        Args:
            augmentation: None: the middle of the resized image, unvaried.
            crop_size: (height, width) of what comes out, in pixels; smaller images are filled up at the right and
                bottom with the mean colour, their masks with 255.

        Raises:
            ValueError: `crop_size` is below 1 pixel.
        """
        return TrainTransform(self, augmentation, crop_size)

    def _input_steps(self) -> list[nn.Module]:
        gray: list[nn.Module] = [v2.Grayscale(1)] if self.in_chans == 1 else []
        return [*gray, v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(self.mean), list(self.std))]


class TrainTransform(nn.Module):
    """See `Preprocessing.train_transform`."""

    def __init__(
        self, preprocessing: Preprocessing, augmentation: Augmentation | None, crop_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.crop = ScaledCrop(
            crop_size,
            short_side=preprocessing.short_side,
            long_side=preprocessing.long_side,
            scale=augmentation.scale if augmentation is not None else None,
            cat_max_ratio=augmentation.cat_max_ratio if augmentation is not None else 1.0,
        )
        varied: list[nn.Module] = []
        if augmentation is not None:
            varied = [
                v2.RandomHorizontalFlip(augmentation.hflip_prob),
                v2.RandomVerticalFlip(augmentation.vflip_prob),
                PhotometricDistortion(augmentation),
            ]
        self.vary = v2.Compose([*varied, v2.Identity()])
        self.to_input = v2.Compose(preprocessing._input_steps())
        self.crop_size = crop_size

    def forward(self, image: Image.Image | Pixels, mask: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        if isinstance(image, np.ndarray):
            image = F.to_image(image)  # (H, W, C) -> (C, H, W)
        pixels, labels = self.vary(*self.crop(image, tv_tensors.Mask(torch.from_numpy(mask))))
        pixels = self.to_input(pixels).as_subclass(Tensor)  # (C, h, w)
        labels = labels.as_subclass(Tensor).to(torch.int64)  # (h, w)
        missing = [0, self.crop_size[1] - pixels.shape[2], 0, self.crop_size[0] - pixels.shape[1]]
        # After normalisation, 0 is the mean colour.
        return pad(pixels, missing, value=0.0), pad(labels, missing, value=IGNORED)


class ScaledCrop(nn.Module):
    """Resize an image and its mask by a random factor and cut a random window out of both.

    The window is cut first and then resized, which gives the same but for rounding to whole pixels of the image, and
    takes little time and memory for large images too. Images are resized bilinearly with antialiasing, masks to the
    nearest pixel.

    Args:
        crop_size: (height, width) of the window in pixels; it is smaller where the resized image is.
        short_side: the shorter side before the random factor, in pixels; None: as it is.
        long_side: no more than this for the longer side before the random factor, in pixels; None: no limit.
        scale: smallest and largest random factor; None: factor 1 and the window in the middle.
        cat_max_ratio: see `Augmentation`.

    Raises:
        ValueError: `crop_size` is below 1 pixel.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        *,
        short_side: int | None,
        long_side: int | None,
        scale: tuple[float, float] | None,
        cat_max_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise ValueError(f"crop_size must be a height and a width of at least 1 pixel, got {tuple(crop_size)}")
        self.crop_size = crop_size
        self.short_side = short_side
        self.long_side = long_side
        self.scale = scale
        self.cat_max_ratio = cat_max_ratio

    def forward(
        self, image: Image.Image | tv_tensors.Image, mask: tv_tensors.Mask
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        height, width = mask.shape[-2:]
        factor = 1.0 if self.scale is None else float(torch.empty(()).uniform_(*self.scale))
        resized = resized_size(height, width, short_side=self.short_side, long_side=self.long_side, factor=factor)
        size = [min(self.crop_size[0], resized[0]), min(self.crop_size[1], resized[1])]
        # the window in pixels of the image as it is
        window = [
            min(height, max(1, round(height * size[0] / resized[0]))),
            min(width, max(1, round(width * size[1] / resized[1]))),
        ]
        place = [*self._choose(mask, window), *window]
        cut_image, cut_mask = F.to_image(F.crop(image, *place)), F.crop(mask, *place)
        return (
            F.resize(cut_image, size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
            # As an image: torchvision resizes masks by another rule, half a pixel beside what images show.
            tv_tensors.Mask(F.resize_image(cut_mask[None], size, interpolation=v2.InterpolationMode.NEAREST_EXACT)[0]),
        )

    def _choose(self, mask: Tensor, window: list[int]) -> tuple[int, int]:
        """Top and left of the window."""
        free = [mask.shape[-2] - window[0], mask.shape[-1] - window[1]]
        if self.scale is None:
            return free[0] // 2, free[1] // 2
        top = left = 0
        for _ in range(_CROP_TRIES):
            top, left = (int(torch.randint(spare + 1, ())) for spare in free)
            cut = mask[..., top : top + window[0], left : left + window[1]]
            if self.cat_max_ratio == 1 or not any(free) or _is_varied(cut, self.cat_max_ratio):
                break
        return top, left

    def extra_repr(self) -> str:
        return (
            f"crop_size={self.crop_size}, short_side={self.short_side}, long_side={self.long_side}, "
            f"scale={self.scale}, cat_max_ratio={self.cat_max_ratio}"
        )


class PhotometricDistortion(nn.Module):
    """Change brightness, contrast, saturation and hue of an image at random; a mask beside it stays as it is.

    Each change comes with the same probability; contrast at random before or after saturation and hue. Brightness is
    added and contrast is a factor on the pixels, as in SSD. Unlike there, saturation is blended with gray.

    Saturation and hue are those of RGB, and are left out for other bands.

    Source: SSD, arXiv:1512.02325, section 3.6, without its exchange of channels, which is not used for ADE20K.
    """

    def __init__(self, augmentation: Augmentation) -> None:
        super().__init__()
        self.augmentation = augmentation

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        settings = self.augmentation
        # drawn in full whatever is used, so that one setting does not change what another draws
        use = (torch.rand(4) < settings.photometric_prob).tolist()
        amount = torch.rand(4).tolist()
        contrast_first = bool(torch.rand(()) < 0.5)
        if image.shape[0] != 3:
            use[2:] = [False, False]
        if not any(use):
            return image, mask
        pixels = F.to_dtype(image, torch.float32, scale=True)  # (3, H, W)
        contrast = _between(settings.contrast, amount[1]) if use[1] else 1.0
        if use[0]:
            pixels = (pixels + settings.brightness * (2 * amount[0] - 1)).clamp(0, 1)
        if contrast_first:
            pixels = (pixels * contrast).clamp(0, 1)
        if use[2]:
            pixels = F.adjust_saturation(pixels, _between(settings.saturation, amount[2]))
        if use[3]:
            pixels = F.adjust_hue(pixels, settings.hue * (2 * amount[3] - 1))
        if not contrast_first:
            pixels = (pixels * contrast).clamp(0, 1)
        return tv_tensors.Image(pixels), mask

    def extra_repr(self) -> str:
        return f"{self.augmentation}"


def _is_varied(mask: Tensor, cat_max_ratio: float) -> bool:
    """Whether no class has `cat_max_ratio` of the pixels or more; ignored pixels do not count."""
    counts = torch.bincount(mask.as_subclass(Tensor).flatten(), minlength=IGNORED + 1)[:IGNORED]
    return int((counts > 0).sum()) > 1 and int(counts.max()) < cat_max_ratio * int(counts.sum())


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share
