"""Evaluate a segmenter: count pixels by class over a whole data set, at the images' original size."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import Metric

from scalablevit.data.class_report import class_report, confusion_as_json, macro_mean
from scalablevit.data.loaders import eval_loader
from scalablevit.data.not_a_number import other_than, warn_of_lost, watched
from scalablevit.moved import forward_moved_names
from scalablevit.segmentation.bands import most_likely_classes
from scalablevit.segmentation.dataset import SegmentationBatch, collate
from scalablevit.segmentation.inference import InferenceSettings


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
        """Count the pixels of an image.

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


@dataclass(frozen=True)
class Example:
    """An image of the set with what was predicted for it.

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
        count: images measured.
        unreadable: what could not be read: path, reason, remedy.
        examples: of the images that were asked for, as far as they could be read.
    """

    scores: Scores
    count: int
    unreadable: list[str]
    examples: list[Example] = field(default_factory=list)

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The figures, as JSON takes them: of all pixels, of each class, and the confusion matrix in pixels.

        A class has its `iou` (null where it is neither there nor predicted), `precision`, `recall` (`accuracy` is the
        same), `f1`, `support` (its true pixels, also `pixels`) and `predicted` pixels.
        """
        scores = self.scores
        confusion = scores.confusion.numpy()
        report = class_report(class_names, confusion)
        return {
            "miou": _number(scores.miou),
            "mean_accuracy": _number(scores.mean_accuracy),
            "accuracy": _number(scores.accuracy),
            "f1": macro_mean(report, "f1"),
            "count": self.count,
            "unreadable": self.unreadable,
            "classes": [
                {"class": row["class"], "iou": _number(iou), "accuracy": row["recall"], "pixels": row["support"], **row}
                for row, iou in zip(report, scores.iou.tolist(), strict=True)
            ],
            **confusion_as_json(confusion),
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
        dataset: images at their own size, normalised, with their masks.
        num_classes: K.
        settings: how the network is applied to an image.
        device: where to compute.
        num_workers: processes that load images.
        keep: indices of the images to hand out with their labels.

    Raises:
        ValueError: no image could be read.
    """
    network = network.eval().to(device)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    count, unreadable, examples = 0, [], []
    num_nan = 0
    for batch in eval_loader(dataset, batch_size=1, num_workers=num_workers, collate_fn=collate):
        assert isinstance(batch, SegmentationBatch)
        unreadable += batch.unreadable
        for image, mask, readable, index in zip(batch.images, batch.masks, batch.readable, batch.indices, strict=True):
            if not readable:
                continue
            with watched(network) as is_nan:
                labels = most_likely_classes(network, image.to(device), settings, num_classes=num_classes)
            if any(is_nan):
                num_nan += 1
                labels = other_than(mask.to(device), num_classes)
            confusion += count_pixels(labels, mask.to(device), num_classes=num_classes)
            count += 1
            if index in keep:
                examples.append(Example(index, image, mask.numpy(), labels.cpu().numpy()))
    if count == 0:
        raise ValueError(f"none of the {len(unreadable)} validation images can be read. The first: {unreadable[0]}")
    warn_of_lost(num_nan, count)
    return Evaluation(Scores(confusion.cpu()), count, unreadable, examples)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


forward_moved_names(__name__)
