"""Training and validating a classifier of which each class is a yes or no of its own: any number of labels an image."""

import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelStatScores
from torchvision.transforms import v2

from scalablevit.classification.data import ClassificationBatch
from scalablevit.classification.losses import binary_cross_entropy
from scalablevit.classification.multi_label_evaluate import (
    THRESHOLD,
    figures_of,
    mean_average_precision,
    quiet_of_missing_classes,
)
from scalablevit.classification.task import ClassificationTask
from scalablevit.data.not_a_number import warn_of_lost, wrong_labels_where_nan
from scalablevit.training.class_weights import weights_of_classes
from scalablevit.training.module import Evaluation

_MOST_POSITIVE_WEIGHT = 100.0
"""Highest weight that "balanced" gives: of a class with a handful of images every one would be a jolt otherwise."""


class MultiLabelTask(ClassificationTask):
    """A classifier whose classes exclude each other no more: sigmoid in the place of softmax, binary cross-entropy.

    Mixup and CutMix mix images and labels as in `ClassificationTask`: a label of one of two images becomes its share.
    A teacher must be of several labels too, or teach features alone; logits are compared class by class.

    Args:
        variant: name of the network: of `scalablevit.backbone.VARIANTS`, or of timm's registry.
        class_names: names of the classes by index; the command line takes them from the data.
        preprocessing: how an image becomes the network's input, as `Preprocessing.to_dict` gives it; the
            command line takes it from the data.
        label_smoothing: targets of 1 and 0 become 1 - s / 2 and s / 2, in [0, 1).
        positive_weights: factor on the loss of images that show a class: "balanced" (images without by images with
            it, 100 at most), factors by class index, or by class name; null: 1.
        settings: further arguments of `ClassificationSettings`; `class_weights` are factors on all of a class,
            and not "balanced".

    Raises:
        ValueError: no such variant, weights that do not fit, or an argument out of range.
    """

    monitor = ("val/mAP", "max")
    metric_name: ClassVar[str] = "mAP"
    multi_label: ClassVar[bool] = True

    def __init__(
        self,
        variant: str,
        *,
        class_names: list[str],
        preprocessing: dict[str, Any],
        label_smoothing: float = 0.0,
        positive_weights: Literal["balanced"] | list[float] | dict[str, float] | None = None,
        **settings: Any,
    ) -> None:
        if settings.get("class_weights") == "balanced":
            raise ValueError(
                "model.class_weights 'balanced' would weigh the images without a label as well, and rare labels would "
                "gain nothing by it: set model.positive_weights to balanced, or give weights by class"
            )
        super().__init__(
            variant,
            class_names=class_names,
            preprocessing=preprocessing,
            label_smoothing=label_smoothing,
            **settings,
        )
        self._given_positive_weights = positive_weights
        self._positive_weights: Tensor | None = None  # setup() asks the data how many images show each class

    def _build_metrics(self, num_classes: int) -> None:
        self.val_precision = MultilabelAveragePrecision(num_labels=num_classes, average=None)
        self.val_counts = MultilabelStatScores(num_labels=num_classes, average=None, threshold=THRESHOLD)

    def _build_mixup(self, num_classes: int) -> Any:
        """torchvision's Mixup and CutMix, which take targets of several labels."""
        mixup = self.settings.mixup
        if mixup is None:
            return None
        kinds: list[Any] = [v2.MixUp(alpha=mixup.mixup_alpha)] if mixup.mixup_alpha > 0 else []
        kinds += [v2.CutMix(alpha=mixup.cutmix_alpha)] if mixup.cutmix_alpha > 0 else []
        shares = [1.0 - mixup.switch_prob, mixup.switch_prob] if len(kinds) == 2 else None
        return v2.RandomApply([v2.RandomChoice(kinds, p=shares)], p=mixup.prob)

    def setup(self, stage: str) -> None:
        """Weigh labels by the training images, too."""
        super().setup(stage)
        given = self._given_positive_weights
        if stage != "fit" or given is None:
            return
        targets = self._train_targets("model.positive_weights")
        self._positive_weights = positive_weights_of(given, self.class_names, self._class_counts(targets), len(targets))

    def _class_counts(self, targets: np.ndarray) -> list[int]:
        counts: list[int] = targets.sum(axis=0, dtype=np.int64).tolist()
        return counts

    def _label_loss(self, logits: Tensor, targets: Tensor, spread: Tensor | None) -> Tensor:
        """The loss of (B, K) logits and labels; `spread` are the (B, K) targets of mixed images."""
        aims = self._smoothed(targets.float()) if spread is None else spread
        weights, positive = self._class_weights, self._positive_weights
        gamma = self.settings.focal_gamma
        if weights is None and positive is None and gamma is None:
            return F.binary_cross_entropy_with_logits(logits, aims)
        return binary_cross_entropy(
            logits,
            aims,
            class_weights=None if weights is None else weights.to(logits.device),
            positive_weights=None if positive is None else positive.to(logits.device),
            focal_gamma=gamma,
        )

    def _smoothed(self, targets: Tensor) -> Tensor:
        smoothing = self.settings.label_smoothing
        return targets * (1.0 - smoothing) + smoothing / 2 if smoothing else targets

    def _mixed(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images and targets with those of the batch's next image."""
        mixed, spread = self.mixup(images, self._smoothed(targets.float()))
        return mixed, spread

    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> None:
        """Collect probabilities and count labels; images that could not be read do not count."""
        self.unreadable.collect(batch.unreadable)
        readable = (batch.targets >= 0).all(dim=1)
        if not readable.any():
            # Processes gather what they collected, and one with nothing at all would leave the others waiting.
            nothing = torch.zeros(0, len(self.class_names), device=batch.images.device)
            self.val_precision.update(nothing, nothing.long())
            return
        images, targets = batch.images[readable], batch.targets[readable]
        logits = self.network(images).float()
        self.val_loss.update(F.binary_cross_entropy_with_logits(logits, targets.float()), weight=len(targets))
        probabilities, lost = wrong_labels_where_nan(logits.sigmoid(), targets)
        warn_of_lost(lost, len(targets))
        self.val_precision.update(probabilities, targets)
        self.val_counts.update(probabilities, targets)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole set."""
        # compute() before log(): it talks to the other ranks, which may differ in batches.
        with quiet_of_missing_classes():
            counts = self.val_counts.compute().cpu().numpy()
            is_measured = counts[:, 4].any()  # else no image could be read, or none shows a class
            precisions = self.val_precision.compute().cpu().numpy() if is_measured else counts[:, 4]
        figures = figures_of(self.class_names, hits=counts[:, 0], predicted=counts[:, :2].sum(1), support=counts[:, 4])
        found = {
            "val/loss": self.val_loss.compute(),
            "val/mAP": mean_average_precision(precisions, counts[:, 4]),
            "val/macro_f1": figures["macro_f1"] or 0.0,
            "val/micro_f1": figures["micro_f1"] or 0.0,
        }
        for name, value in found.items():
            self.log(name, value, prog_bar=name == "val/mAP", sync_dist=False)
        for metric in (self.val_loss, self.val_precision, self.val_counts):
            metric.reset()

    def _shared_metadata(self) -> dict[str, Any]:
        return {**super()._shared_metadata(), "multi_label": True}

    def evaluate_weights(self, folder: Path) -> Evaluation:
        """Average precision of the weights in `folder`; draws `average_precision.png` and `predictions.png`."""
        from scalablevit.classification.multi_label_draw import draw_average_precision, draw_predictions
        from scalablevit.classification.multi_label_evaluate import evaluate

        result, dataset = self._on_validation_set(evaluate, folder)
        summary = result.summary(self.class_names)

        def draw() -> None:
            draw_average_precision(summary["per_class"], folder / "average_precision.png")
            draw_predictions(result, dataset, self.class_names, folder / "predictions.png")

        figures = f"mAP {summary['mAP'] or 0:.2%}, macro F1 {summary['macro_f1'] or 0:.2%}"
        return Evaluation(summary, figures, result.count, draw)


def positive_weights_of(
    given: str | list[float] | dict[str, float], class_names: list[str], counts: list[int], num_images: int
) -> Tensor:
    """Turn the recipe's positive weights into a factor for each class.

    Args:
        given: see `MultiLabelTask`.
        class_names: by class index.
        counts: training images that show each class.
        num_images: training images.

    Returns:
        (K,) float32.

    Raises:
        ValueError: names no class, another number of weights, or one that is not above 0.
    """
    if given == "balanced":
        shown = torch.tensor(counts, dtype=torch.float64)
        weights = (num_images - shown) / shown.clamp(min=1)
        return weights.clamp(1 / _MOST_POSITIVE_WEIGHT, _MOST_POSITIVE_WEIGHT).float()
    if isinstance(given, str):
        raise ValueError(f"model.positive_weights must be 'balanced', a list, an object or null, got {given!r}")
    values = list(given.values()) if isinstance(given, dict) else list(given)
    if any(not (math.isfinite(value) and value > 0) for value in values):
        raise ValueError(f"model.positive_weights must be above 0, got {given}")
    # checks names and number; the mean, by which it divides, is not wanted here
    scaled = weights_of_classes(given, class_names, [1] * len(class_names), key="model.positive_weights")
    mean = (sum(values) + len(class_names) - len(values)) / len(class_names)
    return scaled * mean
