"""Measuring a classifier on a set of images, in one process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.classification.data import ImageFolderDataset, LabelledImages, collate
from scalablevit.data.class_report import class_report, confusion_as_json, macro_mean
from scalablevit.data.loaders import eval_loader
from scalablevit.data.not_a_number import warn_of_lost, wrong_where_nan


@dataclass(frozen=True)
class Evaluation:
    """What a classifier does on a set.

    Attributes:
        probabilities: (N, K) float32, softmax of the logits, for the images that could be read.
        targets: (N,) int64.
        indices: (N,) int64, place of each image in the data set.
        unreadable: paths of the files that could not be read.
    """

    probabilities: Tensor
    targets: Tensor
    indices: Tensor
    unreadable: list[str]

    @property
    def count(self) -> int:
        """Images measured."""
        return len(self.targets)

    @property
    def top1(self) -> float:
        """Share of images whose likeliest class is right, in 0..1."""
        return (self.probabilities.argmax(1) == self.targets).double().mean().item()

    @property
    def top5(self) -> float | None:
        """Share of images with the right class among the five likeliest; None with up to five classes."""
        if self.probabilities.shape[1] <= 5:
            return None
        return (self.probabilities.topk(5).indices == self.targets[:, None]).any(1).double().mean().item()

    @property
    def confusion(self) -> Tensor:
        """(K, K) counts: true class by predicted class."""
        K = self.probabilities.shape[1]
        return torch.bincount(self.targets * K + self.probabilities.argmax(1), minlength=K * K).view(K, K)

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The figures, as JSON takes them: of all images, of each class, and the confusion matrix."""
        confusion = self.confusion.numpy()
        per_class = class_report(class_names, confusion)
        return {
            "top1": self.top1,
            "top5": self.top5,
            **{f"macro_{figure}": macro_mean(per_class, figure) for figure in ("precision", "recall", "f1")},
            "count": self.count,
            "unreadable": self.unreadable,
            "per_class": per_class,
            **confusion_as_json(confusion),
        }


class SetOutputs(NamedTuple):
    """What a classifier gives for the images of a set that could be read.

    Fields:
        logits: (N, K) float32.
        targets: (N,) or (N, K) int64.
        indices: (N,) int64, place of each image in the data set.
        unreadable: paths of the files that could not be read.
    """

    logits: Tensor
    targets: Tensor
    indices: Tensor
    unreadable: list[str]


def evaluate(
    network: nn.Module,
    dataset: ImageFolderDataset,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
) -> Evaluation:
    """Run a classifier over a data set.

    Args:
        network: from images (B, C, H, W) to logits (B, K).
        dataset: images with the transform that the network needs.
        batch_size: images at a time.
        device: where to compute.
        num_workers: processes that load images.

    Raises:
        ValueError: no image could be read.
    """
    found = outputs_of_set(network, dataset, batch_size=batch_size, device=device, num_workers=num_workers)
    probabilities, lost = wrong_where_nan(F.softmax(found.logits, dim=-1), found.targets)
    warn_of_lost(lost, len(probabilities))
    return Evaluation(probabilities, found.targets, found.indices, found.unreadable)


@torch.inference_mode()
def outputs_of_set(
    network: nn.Module,
    dataset: LabelledImages,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
) -> SetOutputs:
    """Compute the logits of a data set; arguments as for `evaluate`.

    Raises:
        ValueError: no image could be read.
    """
    network = network.eval().to(device)
    logits, targets, unreadable = [], [], []
    for batch in eval_loader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate):
        unreadable += batch.unreadable
        logits.append(network(batch.images.to(device)).float().cpu())
        targets.append(batch.targets)
    all_targets = torch.cat(targets)
    readable = (all_targets >= 0).reshape(len(all_targets), -1).all(dim=1)
    if not readable.any():
        raise ValueError(f"none of the {len(all_targets)} images of {dataset.folder} can be read")
    return SetOutputs(torch.cat(logits)[readable], all_targets[readable], readable.nonzero()[:, 0], unreadable)
