"""Measuring a segmenter: pixels counted by class over a whole set, at the pictures' original size."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import Metric

from scalablevit.data.loaders import eval_loader
from scalablevit.segmentation.data import SegmentationBatch, collate
from scalablevit.segmentation.inference import InferenceSettings, segment

MOST_SCORES = 2**27
"""Class probabilities, K H W, that are worked on at once: half a gigabyte, a few times over."""


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says.

    A class that is in neither ground truth nor prediction has no IoU, and one that is not in the ground truth no
    accuracy: NaN, left out of the means. A class that is predicted where there is none of it has an IoU of 0, which
    counts, as in mmsegmentation.

    Attributes:
        confusion: (K, K) int64 pixels, true class by predicted class, summed over the set.
    """

    confusion: Tensor

    @property
    def iou(self) -> Tensor:
        """(K,) float64 in 0..1: intersection over union of each class."""
        right = self.confusion.diagonal()
        union = self.confusion.sum(0) + self.confusion.sum(1) - right
        return right.double() / union.double()  # 0 / 0 is NaN

    @property
    def class_accuracy(self) -> Tensor:
        """(K,) float64 in 0..1: of each class's pixels, the share that is found."""
        return self.confusion.diagonal().double() / self.confusion.sum(1).double()

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that have one; NaN where none has."""
        return self.iou.nanmean().item()

    @property
    def mean_accuracy(self) -> float:
        """Mean accuracy over the classes that are in the ground truth; NaN where there is no pixel."""
        return self.class_accuracy.nanmean().item()

    @property
    def accuracy(self) -> float:
        """Share of all pixels that are right; NaN where there is none."""
        return (self.confusion.diagonal().sum().double() / self.confusion.sum().double()).item()


class PixelConfusion(Metric):
    """Counts pixels by true and predicted class, exactly, over batches and over ranks.

    Args:
        num_classes: how many classes there are.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        # 64-bit integers: float32 sums lose pixels from 16 million on
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", default=counts, dist_reduce_fx="sum")

    def update(self, labels: Tensor, mask: Tensor) -> None:
        """Count the pixels of a picture.

        Args:
            labels: predicted class indices, of any shape.
            mask: true ones, of the same shape; what is not in 0..K - 1 is ignored.
        """
        self.counts += count_pixels(labels, mask, num_classes=self.num_classes)

    def compute(self) -> Tensor:
        """(K, K) int64 over all ranks; a number where K is 1."""
        return self.counts

    def scores(self) -> Scores:
        """The scores of all that was counted, over all ranks."""
        return Scores(self.compute().view(self.num_classes, self.num_classes).cpu())


def count_pixels(labels: Tensor, mask: Tensor, *, num_classes: int) -> Tensor:
    """Confusion matrix of a label map.

    Args:
        labels: predicted class indices in 0..K - 1, of any shape and integer type.
        mask: true class indices, of the same shape; what is not in 0..K - 1 is ignored.
        num_classes: K.

    Returns:
        (K, K) int64 counts, true class by predicted class.

    Raises:
        ValueError: the shapes differ.
    """
    if labels.shape != mask.shape:
        raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit a mask of shape {tuple(mask.shape)}")
    known = (mask >= 0) & (mask < num_classes)
    cells = mask[known].long() * num_classes + labels[known].long()
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


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
def label_map(
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


@dataclass(frozen=True)
class Example:
    """A picture of the set with what was predicted for it.

    Attributes:
        index: place in the set.
        image: (C, H, W) as the network got it, normalised.
        mask: (H, W) int64 true class indices.
        labels: (H, W) predicted class indices.
    """

    index: int
    image: Tensor
    mask: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """What a segmenter does on a set.

    Attributes:
        scores: over the whole set.
        count: pictures measured.
        unreadable: what could not be read: path, reason, remedy.
        examples: of the pictures that were asked for, as far as they could be read.
    """

    scores: Scores
    count: int
    unreadable: list[str]
    examples: list[Example] = field(default_factory=list)

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The figures, as JSON takes them; null for the IoU of a class that is neither there nor predicted."""
        scores = self.scores
        return {
            "miou": _number(scores.miou),
            "mean_accuracy": _number(scores.mean_accuracy),
            "accuracy": _number(scores.accuracy),
            "count": self.count,
            "unreadable": self.unreadable,
            "classes": [
                {"class": name, "iou": _number(iou), "accuracy": _number(accuracy), "pixels": pixels}
                for name, iou, accuracy, pixels in zip(
                    class_names,
                    scores.iou.tolist(),
                    scores.class_accuracy.tolist(),
                    scores.confusion.sum(1).tolist(),
                    strict=True,
                )
            ],
        }


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    dataset: Dataset[Any],
    *,
    num_classes: int,
    settings: InferenceSettings,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    keep: Collection[int] = (),
) -> Evaluation:
    """Run a segmenter over a data set, in this process.

    Args:
        network: from images (B, C, H, W) to logits (B, K, H, W).
        dataset: pictures at their own size, normalised, with their masks.
        num_classes: K.
        settings: how the network is applied to a picture.
        device: where to compute.
        num_workers: processes that load pictures.
        keep: indices of the pictures to hand out with their labels.

    Raises:
        ValueError: no picture could be read.
    """
    network = network.eval().to(device)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    count, unreadable, examples = 0, [], []
    for batch in eval_loader(dataset, batch_size=1, num_workers=num_workers, collate_fn=collate):
        assert isinstance(batch, SegmentationBatch)
        unreadable += batch.unreadable
        for image, mask, readable, index in zip(batch.images, batch.masks, batch.readable, batch.indices, strict=True):
            if not readable:
                continue
            labels = label_map(network, image.to(device), settings, num_classes=num_classes)
            confusion += count_pixels(labels, mask.to(device), num_classes=num_classes)
            count += 1
            if index in keep:
                examples.append(Example(index, image, mask.numpy(), labels.cpu().numpy()))
    if count == 0:
        raise ValueError(f"none of the {len(unreadable)} validation pictures can be read. The first: {unreadable[0]}")
    return Evaluation(Scores(confusion.cpu()), count, unreadable, examples)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
