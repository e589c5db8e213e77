"""Measuring a classifier of several labels an image on a set of images, in one process."""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multilabel_average_precision

from scalablevit.classification.data import LabelledImages
from scalablevit.classification.evaluate import outputs_of_set
from scalablevit.data.class_report import class_figures, macro_mean
from scalablevit.data.not_a_number import warn_of_lost, wrong_labels_where_nan

THRESHOLD = 0.5
"""Probability above which a label counts as predicted."""


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """What a classifier does on a set.

    Attributes:
        probabilities: (N, K) float32, sigmoid of the logits, for the images that could be read.
        targets: (N, K) int64 of 0 and 1.
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
    def average_precisions(self) -> np.ndarray:
        """(K,) area below precision over recall of each class, in 0..1; NaN for a class that no image shows."""
        K = self.targets.shape[1]
        with quiet_of_missing_classes():
            found = multilabel_average_precision(self.probabilities, self.targets, num_labels=K, average=None)
        shown = (self.targets > 0).any(dim=0)
        values: np.ndarray = torch.where(shown, found, torch.nan).numpy()
        return values

    def summary(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The figures, as JSON takes them: of all images and of each class."""
        said = self.probabilities > THRESHOLD
        shown = self.targets > 0
        precisions = self.average_precisions
        support = shown.sum(0).numpy()
        found = figures_of(
            class_names,
            hits=(said & shown).sum(0).numpy(),
            predicted=said.sum(0).numpy(),
            support=support,
        )
        for row, value in zip(found["per_class"], precisions.tolist(), strict=True):
            row["average_precision"] = None if np.isnan(value) else value
        per_class = found.pop("per_class")
        mean = mean_average_precision(precisions, support)
        return {
            "mAP": None if np.isnan(mean) else mean,
            **found,
            "threshold": THRESHOLD,
            "exact_match": (said == shown).all(dim=1).double().mean().item(),
            "count": self.count,
            "unreadable": self.unreadable,
            "per_class": per_class,
        }


def figures_of(
    class_names: Sequence[str], *, hits: np.ndarray, predicted: np.ndarray, support: np.ndarray
) -> dict[str, Any]:
    """Compute precision, recall and F1 from counts.

    Args:
        class_names: by class index.
        hits: (K,) images that show a class and are said to.
        predicted: (K,) images that are said to show it.
        support: (K,) images that show it.

    Returns:
        `macro_*`, means over the classes that occur; `micro_*`, of all labels together; and `per_class`, as
        `class_report` has it.
    """
    per_class = [
        class_figures(name, hits=int(hits[k]), support=int(support[k]), predicted=int(predicted[k]))
        for k, name in enumerate(class_names)
    ]
    together = class_figures("", hits=int(hits.sum()), support=int(support.sum()), predicted=int(predicted.sum()))
    figures = ("precision", "recall", "f1")
    return {
        **{f"macro_{figure}": macro_mean(per_class, figure) for figure in figures},
        **{f"micro_{figure}": together[figure] for figure in figures},
        "per_class": per_class,
    }


def mean_average_precision(precisions: np.ndarray, support: np.ndarray) -> float:
    """Mean over the classes that an image shows; NaN where no image shows any."""
    values = precisions[support > 0]
    return float(values.mean()) if len(values) else float("nan")


def quiet_of_missing_classes() -> AbstractContextManager[Any]:
    """Keep torchmetrics from warning of classes that no image shows: they have no average precision here."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def evaluate(
    network: nn.Module,
    dataset: LabelledImages,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
) -> MultiLabelEvaluation:
    """Run a classifier over a data set; arguments and errors as in `scalablevit.classification.evaluate`."""
    found = outputs_of_set(network, dataset, batch_size=batch_size, device=device, num_workers=num_workers)
    probabilities, lost = wrong_labels_where_nan(found.logits.sigmoid(), found.targets)
    warn_of_lost(lost, len(probabilities))
    return MultiLabelEvaluation(probabilities, found.targets, found.indices, found.unreadable)
