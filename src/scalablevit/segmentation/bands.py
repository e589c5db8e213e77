"""Class probabilities and classes of large images, a few rows at a time."""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.segmentation.inference import InferenceSettings, segment

MOST_SCORES = 2**27
"""Class probabilities, K H W, that are worked on at once: half a gigabyte, a few times over."""


@torch.no_grad()
def probability_bands(
    network: nn.Module, image: Tensor, settings: InferenceSettings, *, num_classes: int
) -> Iterator[tuple[int, Tensor]]:
    """What `segment` gives, for a large image a few rows at a time.

    Where K H W is above `MOST_SCORES` and the network sees the image smaller than it is, what it says is kept at the
    size that it saw, for each pass, and enlarged band by band.

    Args:
        network: from images (1, C, h, w) to logits (1, K, h, w), in evaluation mode.
        image: (C, H, W), normalised, on the network's device.
        settings: how the network is applied.
        num_classes: K.

    Yields:
        top, class probabilities (K, h, W) of the rows from `top` on. The bands cover the image from top to bottom.
    """
    height, width = image.shape[1:]
    if not needs_bands(settings, height, width, num_classes=num_classes):
        yield 0, segment(network, image, settings)
        return
    passes = _passes(network, image, settings)
    for top, bottom in _bands(num_classes, height, width):
        total: Tensor | int = 0
        for logits in passes:
            total = _enlarged(logits, top, bottom, (height, width)).softmax(dim=0) + total
        assert isinstance(total, Tensor)
        yield top, total / len(passes)


@torch.no_grad()
def most_likely_classes(
    network: nn.Module,
    image: Tensor,
    settings: InferenceSettings,
    *,
    num_classes: int,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The likeliest class of every pixel: `segment(...).argmax(0)`, also of an image too large for that.

    Args:
        network, image, settings, num_classes: as for `probability_bands`.
        size: (H, W) of the labels, where the image was made smaller already; None: the image's.

    Returns:
        (H, W) uint8 class indices, or int32 where there are more than 255 classes, on the network's device.
    """
    height, width = image.shape[1:] if size is None else size
    dtype = torch.uint8 if num_classes <= 255 else torch.int32
    if (height, width) == image.shape[1:] and not needs_bands(settings, height, width, num_classes=num_classes):
        return segment(network, image, settings).argmax(0).to(dtype)
    passes = _passes(network, image, settings)
    labels = torch.empty(height, width, dtype=dtype, device=image.device)
    for top, bottom in _bands(num_classes, height, width):
        if len(passes) == 1:
            # the likeliest class needs no softmax, and few of the classes
            above, below, _ = _neighbours(top, bottom, passes[0].shape[1], height, image.device)
            able = _able_to_win(passes[0][:, above[0] : below[-1] + 1])
            best = _enlarged(passes[0], top, bottom, (height, width), classes=able).argmax(0)
            labels[top:bottom] = able[best].to(dtype)
        else:
            total = sum(_enlarged(logits, top, bottom, (height, width)).softmax(dim=0) for logits in passes)
            assert isinstance(total, Tensor)
            labels[top:bottom] = total.argmax(0).to(dtype)
    return labels


def needs_bands(settings: InferenceSettings, height: int, width: int, *, num_classes: int) -> bool:
    """Whether the probabilities of an image's pixels are too many to hold, and what the network sees is less."""
    return num_classes * height * width > MOST_SCORES and shown_pixels(settings, height, width) < height * width


def shown_pixels(settings: InferenceSettings, height: int, width: int) -> int:
    """How many pixels the network sees of an image of `height` by `width` pixels, all passes together."""
    sizes = [settings.resized(height, width, scale) for scale in settings.scales]
    return sum(h * w for h, w in sizes) * (2 if settings.flip else 1)


def _passes(network: nn.Module, image: Tensor, settings: InferenceSettings) -> list[Tensor]:
    """Of each pass the logits (K, h, w) at the size that the network saw."""
    once = replace(settings, short_side=None, long_side=None, scales=(1.0,), flip=False)
    passes = []
    for scale in settings.scales:
        size = settings.resized(image.shape[1], image.shape[2], scale)
        shown = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
        for flip in (False, True) if settings.flip else (False,):
            probabilities = segment(network, shown.flip(-1) if flip else shown, once)  # (K, h, w)
            # Logits but for a number that all classes of a pixel share, which softmax takes out again.
            logits = probabilities.clamp_(min=torch.finfo(torch.float32).tiny).log_()
            passes.append(logits.flip(-1) if flip else logits)
    return passes


def _bands(num_classes: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """(first row, row behind the last) of parts with so few probabilities that several copies do no harm."""
    rows = max(1, MOST_SCORES // (4 * num_classes * width))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _neighbours(top: int, bottom: int, h: int, height: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For rows `top` to `bottom` of `height`: the two of `h` rows between which each lies, and how near the second."""
    y = ((torch.arange(top, bottom, device=device) + 0.5) * (h / height) - 0.5).clamp(min=0)
    above = y.long()
    return above, (above + 1).clamp(max=h - 1), y - above


def _enlarged(x: Tensor, top: int, bottom: int, size: tuple[int, int], *, classes: Tensor | None = None) -> Tensor:
    """Rows `top` to `bottom` of x (K, h, w) at another size, bilinearly, as `F.interpolate` makes them."""
    above, below, weight = _neighbours(top, bottom, x.shape[1], size[0], x.device)
    first = int(above[0])
    x = x[:, first : int(below[-1]) + 1]
    x = x if classes is None else x[classes]
    band = x[:, above - first].lerp_(x[:, below - first], weight[:, None])  # (K, bottom - top, w)
    return F.interpolate(band[None], size=(bottom - top, size[1]), mode="bilinear", align_corners=False)[0]


def _able_to_win(logits: Tensor) -> Tensor:
    """Indices of the classes that may be the likeliest somewhere when logits (K, h, w) are enlarged bilinearly.

    Between four pixels a class stays below the highest of its four logits, and another above the lowest of its own.
    """
    corners = (min(2, logits.shape[1]), min(2, logits.shape[2]))
    highest = F.max_pool2d(logits, corners, stride=1)
    lowest = -F.max_pool2d(-logits, corners, stride=1)
    return (highest >= lowest.amax(0)).flatten(1).any(1).nonzero()[:, 0]
