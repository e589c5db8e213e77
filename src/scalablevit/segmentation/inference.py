"""Apply a segmentation network to an image: at one size or several, whole or through sliding windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.data.resizing import resized_size
from scalablevit.moved import forward_moved_names

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""What papers mean by "multi-scale with flips" on ADE20K."""

_COARSEST_STRIDE = 32  # pixels per token of the coarsest map


@dataclass(frozen=True)
class InferenceSettings:
    """How an image is shown to the network.

    Attributes:
        short_side: the image is first resized to this short side, in pixels, its shape kept; None: it keeps its size.
        long_side: no more than this for the resized long side, in pixels, whatever `short_side` asks; None: no limit.
        mode: "whole" shows the image at once; "slide" shows windows and averages their logits where they overlap.
        crop: side of a window, in pixels; smaller where the image is.
        stride: step from a window to the next, in pixels, 1..crop; the last ones are shifted inwards to fit.
        scales: factors on the size above, one pass each. Several passes are averaged as probabilities.
        flip: a second pass for each scale, mirrored left to right.

    Raises:
        ValueError: a value out of range.
    """

    short_side: int | None = None
    long_side: int | None = None
    mode: Literal["whole", "slide"] = "whole"
    crop: int = 512
    stride: int = 341
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        for name in ("short_side", "long_side", "crop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 pixel, got {value}")
        if self.mode not in ("whole", "slide"):
            raise ValueError(f"mode must be 'whole' or 'slide', got {self.mode!r}")
        if not 1 <= self.stride <= self.crop:
            raise ValueError(f"stride must be in 1..crop ({self.crop}) to leave no gaps, got {self.stride}")
        _check_scales(self.scales)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "scales": list(self.scales)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InferenceSettings:
        """The reverse of `to_dict`.

        Raises:
            ValueError: an unknown setting, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"no inference setting {', '.join(unknown)}; they are {', '.join(known)}")
        return cls(**values)

    def resized(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Height and width at which an image of `height` by `width` pixels is shown at a scale; at least 1 pixel."""
        return resized_size(height, width, short_side=self.short_side, long_side=self.long_side, factor=scale)


@torch.no_grad()
def segment(network: nn.Module, image: Tensor, settings: InferenceSettings | None = None) -> Tensor:
    """Class probabilities of every pixel of an image.

    In every pass the image is resized (bilinearly, antialiased), its logits are resized back (bilinearly), and their
    softmax is taken. For K classes this holds a few times 4 K H W bytes; for images where that is too much there is
    `segment_large`.

    Args:
        network: from images (1, C, h, w) to logits (1, K, h, w), in evaluation mode.
        image: (C, H, W), normalised, on the network's device.
        settings: sizes and passes; None: one pass over the whole image at its own size.

    Returns:
        (K, H, W) float32, which sum to 1 over K: the mean of the passes' probabilities.

    Raises:
        ValueError: the image is not (C, H, W), or the network's logits are not of the image's size.
    """
    settings = settings or InferenceSettings()
    if image.ndim != 3 or min(image.shape) < 1:
        raise ValueError(f"an image must be (C, H, W) with at least 1 pixel, got {tuple(image.shape)}")
    height, width = image.shape[1:]
    passes = [(scale, flip) for scale in settings.scales for flip in ((False, True) if settings.flip else (False,))]
    total: Tensor | None = None
    for scale, flip in passes:
        shown = _resized(image[None], settings.resized(height, width, scale), antialias=True)
        shown = shown.flip(-1) if flip else shown
        logits = padded_logits(network, shown) if settings.mode == "whole" else _slide(network, shown, settings)
        logits = _resized(logits.flip(-1) if flip else logits, (height, width), antialias=False)
        probabilities = logits[0].softmax(dim=0)  # (K, H, W)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total if len(passes) == 1 else total.div_(len(passes))


def padded_logits(network: nn.Module, images: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, K, h, w), in float32 also where the network computes in less.

    The network sees images whose sides are multiples of its coarsest stride, as in training, their last rows and
    columns repeated: the zeros that its convolutions would fill up with are the mean colour, and an edge to it that
    no training crop had was taken for objects.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % _COARSEST_STRIDE, 0, -height % _COARSEST_STRIDE), mode="replicate")
    logits = network(padded)
    if logits.ndim != 4 or logits.shape[2:] != padded.shape[2:] or len(logits) != len(images):
        raise ValueError(
            f"the network must return logits (B, K, h, w) of its images' size {tuple(padded.shape)}, "
            f"got {tuple(logits.shape)}"
        )
    return logits[:, :, :height, :width].float()


def _slide(network: nn.Module, images: Tensor, settings: InferenceSettings) -> Tensor:
    """(1, C, h, w) -> (1, K, h, w): the mean of the logits of all windows over a pixel."""
    height, width = images.shape[2:]
    total: Tensor | None = None
    count = images.new_zeros(1, 1, height, width, dtype=torch.float32)
    size = (min(settings.crop, height), min(settings.crop, width))
    for top in _starts(height, settings):
        for left in _starts(width, settings):
            window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
            logits = padded_logits(network, images[window])
            if total is None:
                total = logits.new_zeros(1, logits.shape[1], height, width)
            total[window] += logits
            count[window] += 1
    assert total is not None
    return total.div_(count)


def _starts(length: int, settings: InferenceSettings) -> list[int]:
    """Where windows start along an axis of `length` pixels."""
    last = max(length - settings.crop, 0)
    return [min(i * settings.stride, last) for i in range(math.ceil(last / settings.stride) + 1)]


def _resized(x: Tensor, size: tuple[int, int], *, antialias: bool) -> Tensor:
    """(1, C, h, w) -> (1, C, *size), bilinearly."""
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=antialias)


def _check_scales(scales: Sequence[float]) -> None:
    if not scales or min(scales) <= 0 or not all(map(math.isfinite, scales)):
        raise ValueError(f"scales must be one or more factors above 0, such as (0.5, 1.0), got {list(scales)}")


forward_moved_names(__name__)
