"""Training and validating a classifier."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from scalablevit.classification.data import NOTHING_READABLE_TARGET, ClassificationBatch
from scalablevit.classification.losses import soft_cross_entropy, soft_targets
from scalablevit.data.image_transforms import Preprocessing
from scalablevit.data.images import why_unreadable
from scalablevit.data.not_a_number import warn_of_lost, wrong_where_nan
from scalablevit.networks import build_classifier, check_logits, own_settings, recompute_blocks, size_options
from scalablevit.training.class_weights import weights_of_classes
from scalablevit.training.distillation import Distillation, without_distillation
from scalablevit.training.mesa import Mesa, MesaSettings
from scalablevit.training.module import Evaluation, TrainingModule, check_variant
from scalablevit.training.settings import TrainingSettings
from scalablevit.training.teacher import Outputs, Teacher, TeacherSettings, check_identity
from scalablevit.weights import load_model, load_weights, save_model

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class MixupSettings:
    """Mixing images of a batch, and their targets; timm's.

    Args:
        mixup_alpha: of the Beta distribution of Mixup (arXiv:1710.09412); 0: none.
        cutmix_alpha: of the Beta distribution of CutMix (arXiv:1905.04899); 0: none.
        prob: probability that a batch is mixed at all.
        switch_prob: probability of CutMix where both are on.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, name) < 0:
                raise ValueError(f"mixup.{name} must be at least 0, got {getattr(self, name)}")
        for name in ("prob", "switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"mixup.{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.mixup_alpha == self.cutmix_alpha == 0:
            raise ValueError("mixup needs mixup_alpha or cutmix_alpha above 0; leave mixup out to mix nothing")
        if self.prob == 0:
            raise ValueError("mixup.prob 0 mixes nothing: raise it, or leave mixup out")


@dataclass(frozen=True)
class ClassificationSettings(TrainingSettings):
    """How a classifier is built and trained.

    Args:
        weights: where to start from: anything `load_weights` reads; null: from scratch. A head for other
            classes is replaced.
        head: of ScalableViT: "published" or "plain"; "auto": what the variant has.
        drop_path_rate: drop-path probability of the last block, in [0, 1).
        window_size: side of IWSA's windows in tokens, or a list of one (or [rows, columns]) per stage: maps of small
            images are smaller than a window of 7, which then pads in vain.
        scale_value: scaled-value form of SSA.
        grad_checkpointing: recompute blocks in the backward pass, for less memory.
        compile: train through torch.compile.
        network_options: further arguments of the network: of `ScalableViT`, such as {lim: false}, or of timm's.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        mixup: mixing of images; null: none.
        class_weights: "balanced" (each class counts the same in total), weights by class index, or by class name;
            scaled to mean 1 over the training images; null: every image counts the same.
        focal_gamma: exponent of the focal loss, above 0; null: cross-entropy.
        teacher: a trained network to learn from; null: none.
        mesa: learning from the moving average of one's own weights, which needs `ema_decay`; null: none.

    Raises:
        ValueError: a value is out of its range.
    """

    weights: str | None = None
    head: Literal["auto", "published", "plain"] = "auto"
    drop_path_rate: float = 0.0
    window_size: int | list[int] | list[list[int]] = 7
    scale_value: bool = False
    grad_checkpointing: bool = False
    compile: bool = False
    network_options: dict[str, Any] | None = None
    label_smoothing: float = 0.1
    mixup: MixupSettings | None = None
    class_weights: Literal["balanced"] | list[float] | dict[str, float] | None = None
    focal_gamma: float | None = None
    teacher: TeacherSettings | None = None
    mesa: MesaSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"model.label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.focal_gamma is not None and not (math.isfinite(self.focal_gamma) and self.focal_gamma > 0):
            raise ValueError(f"model.focal_gamma must be above 0 or null, got {self.focal_gamma}; 2 is usual")
        if self.mesa is not None and self.ema_decay is None:
            raise ValueError(
                "model.mesa learns from the moving average of the weights, and model.ema_decay is null: set it, for "
                "example to 0.9998, or set model.mesa to null"
            )


class ClassificationTask(TrainingModule):
    """A classifier with its loss and its metrics.

    Args:
        variant: name of the network: of `scalablevit.backbone.VARIANTS`, or of timm's registry.
        class_names: names of the classes by index; the command line takes them from the data.
        preprocessing: how an image becomes the network's input, as `Preprocessing.to_dict` gives it; the
            command line takes it from the data.
        settings: arguments of `ClassificationSettings`.

    Raises:
        ValueError: no such variant, weights that do not fit, or an argument out of range.
    """

    task = "classification"
    monitor = ("val/top1", "max")
    multi_label: ClassVar[bool] = False
    network: nn.Module
    settings: ClassificationSettings

    def __init__(self, variant: str, *, class_names: list[str], preprocessing: dict[str, Any], **settings: Any) -> None:
        own = ClassificationSettings(**settings)
        super().__init__(**own.training())
        check_variant(variant)
        self.settings = own
        self.variant = variant
        self.class_names = class_names
        self.preprocessing = Preprocessing.from_dict(preprocessing)
        self.network = self._build_network()
        if own.grad_checkpointing:
            recompute_blocks(self.network, variant)
        self.load_report = (
            None if own.weights is None else load_weights(self.network, own.weights, class_names=class_names)
        )
        self.distillation = None if own.teacher is None else self._build_distillation(own.teacher)
        if own.compile:
            self.network.compile()
        self.mixup = self._build_mixup(len(class_names))
        self._mesa: Mesa | None = None  # on_train_start knows the run's length
        self._class_weights: Tensor | None = None  # setup() asks the data how many images each class has
        self.unreadable.explain = why_unreadable
        self.val_loss = MeanMetric(nan_strategy=math.inf)  # a NaN is to be seen in the mean
        self._build_metrics(len(class_names))

    def _build_metrics(self, num_classes: int) -> None:
        """Add the metrics of validation beside its loss."""
        self.val_top1 = MulticlassAccuracy(num_classes=num_classes, top_k=1, average="micro")
        self.val_top5 = (
            MulticlassAccuracy(num_classes=num_classes, top_k=5, average="micro") if num_classes > 5 else None
        )

    def _build_network(self) -> nn.Module:
        settings, size = self.settings, self.preprocessing.image_size
        options = settings.network_options or {}
        head = {} if settings.head == "auto" else {"head": settings.head}
        self.model_args: dict[str, Any] = {
            "num_classes": len(self.class_names),
            "in_chans": self.preprocessing.in_chans,
            **own_settings(self.variant, window_size=settings.window_size, scale_value=settings.scale_value, **head),
            **size_options(self.variant, options, size),
            **options,
        }
        # Initialisation is part of the run's seed, wherever the task is built.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = build_classifier(self.variant, drop_path_rate=settings.drop_path_rate, **self.model_args)
        numbers = {"in_chans": self.preprocessing.in_chans, "num_classes": len(self.class_names)}
        check_logits(network, self.variant, size=size, **numbers)
        return network

    def _build_distillation(self, settings: TeacherSettings) -> Distillation:
        own = self.preprocessing
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            teacher = Teacher(
                settings, class_names=self.class_names, mean=own.mean, std=own.std, multi_label=self.multi_label
            )
            distillation = Distillation(teacher, self.network, (own.in_chans, *own.image_size))
        if self.settings.compile and distillation.needs_features:
            log.warning(
                "model.compile does nothing where features are learned from a teacher: the network runs eagerly"
            )
        if settings.weight == settings.label_weight == 0:
            log.warning(
                "model.teacher.weight and label_weight are 0: nothing trains the head, so that accuracies are those of "
                "chance; use the run's backbone by --model.weights of another run, or raise one of them"
            )
        return distillation

    def trained_beside_network(self) -> list[nn.Module]:
        """The projections to a teacher's features, if there are any."""
        has_parameters = self.distillation is not None and self.distillation.needs_features
        return [self.distillation] if has_parameters and self.distillation is not None else []

    def _build_mixup(self, num_classes: int) -> Any:
        mixup = self.settings.mixup
        if mixup is None:
            return None
        return Mixup(
            mixup.mixup_alpha,
            mixup.cutmix_alpha,
            prob=mixup.prob,
            switch_prob=mixup.switch_prob,
            label_smoothing=self.settings.label_smoothing,
            num_classes=num_classes,
        )

    def setup(self, stage: str) -> None:
        """Weigh the classes by the training images, and refuse settings that would do nothing."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        self._check_kind_of_data(data)
        if stage != "fit":
            return
        if self.mixup is not None and getattr(data, "batch_size", None) == 1:
            raise ValueError(
                "model.mixup mixes images of a batch in pairs, and data.batch_size is 1: raise it, or set "
                "model.mixup to null"
            )
        given = self.settings.class_weights
        if given is None:
            return
        counts = self._class_counts(self._train_targets("model.class_weights"))
        self._class_weights = weights_of_classes(given, self.class_names, counts)
        if given == "balanced" and getattr(getattr(data, "settings", None), "sampling", "all") == "balanced":
            log.warning(
                "model.class_weights balanced beside data.sampling balanced corrects twice for rare classes: keep one"
            )

    def _check_kind_of_data(self, data: Any) -> None:
        """Refuse data with several labels an image where one class is learned, and the other way round."""
        given = getattr(data, "multi_label", self.multi_label)
        if given != self.multi_label:
            is_multi, is_single = "any number of labels an image", "one class an image"
            wanted, found = (is_single, is_multi) if given else (is_multi, is_single)
            remedy = (
                "set model.class_path to scalablevit.classification.MultiLabelTask"
                if given
                else "set data.class_path to scalablevit.classification.ImageTableData"
            )
            raise ValueError(
                f"{type(self).__name__} learns {wanted}, and {type(data).__name__} gives {found}: {remedy} (recipe "
                "train_multi_label has both)"
            )

    def _train_targets(self, key: str) -> np.ndarray:
        """Targets of the training images.

        Raises:
            ValueError: the data do not tell them; `key` needs them.
        """
        dataset = getattr(self.trainer.datamodule, "train_dataset", None)  # type: ignore[attr-defined]
        targets = getattr(dataset, "targets", None)
        if targets is None:
            raise ValueError(f"{key} needs data whose train_dataset has targets; set it to null")
        return np.asarray(targets)

    def _class_counts(self, targets: np.ndarray) -> list[int]:
        """How many of the targets there are of each class."""
        counts: list[int] = np.bincount(targets, minlength=len(self.class_names)).tolist()
        return counts

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Mean loss of a batch."""
        if batch.unreadable:  # seldom: to look at the targets waits for a GPU
            least = int(batch.targets.min())
            self.unreadable.collect(batch.unreadable, nothing_left=least == NOTHING_READABLE_TARGET, has_gap=least < 0)
        loss, parts = self._loss(batch.images, batch.targets)
        self.log_train_loss(loss, len(batch.images), parts)
        return loss

    def _loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the parts that it is made of where it is made of several."""
        spread = None
        if self.mixup is not None:
            images, spread = self._mixed(images, targets)
        if self.distillation is None:
            outputs = Outputs(self.network(images))
        else:
            outputs = self.distillation.outputs(self.network, images)
        loss = self._label_loss(outputs.logits.float(), targets, spread)
        parts: dict[str, Tensor] = {}
        if self.distillation is not None:
            parts = self.distillation(outputs, images)
            label_weight = self.distillation.teacher.settings.label_weight
            loss = label_weight * loss + torch.stack(list(parts.values())).sum()
        if self._mesa is not None:
            taught = self._mesa.loss(outputs.logits, images, step=self.trainer.global_step)
            if taught is not None:
                loss, parts["mesa"] = loss + taught, taught
        return loss, parts

    def _label_loss(self, logits: Tensor, targets: Tensor, spread: Tensor | None) -> Tensor:
        """The loss of (B, K) logits and labels; `spread` are the (B, K) targets of mixed images."""
        settings, weights = self.settings, self._class_weights
        if spread is None:
            if weights is None and settings.focal_gamma is None:
                return F.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
            spread = soft_targets(targets, len(self.class_names), settings.label_smoothing)
        return soft_cross_entropy(
            logits,
            spread,
            class_weights=None if weights is None else weights.to(logits.device),
            focal_gamma=settings.focal_gamma,
        )

    def _mixed(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images and targets in pairs; of an odd number the last stays as it is."""
        assert self.mixup is not None
        paired = len(images) - len(images) % 2  # timm pairs a batch with its own mirror image
        alone = soft_targets(targets[paired:], len(self.class_names), self.settings.label_smoothing)
        if paired == 0:
            return images, alone
        mixed, spread = self.mixup(images[:paired], targets[:paired])
        if paired == len(images):
            return mixed, spread
        return torch.cat([mixed, images[paired:]]), torch.cat([spread, alone.to(spread)])

    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> None:
        """Count hits; images that could not be read do not count."""
        self.unreadable.collect(batch.unreadable)
        readable = batch.targets >= 0
        if not readable.any():
            return
        images, targets = batch.images[readable], batch.targets[readable]
        logits = self.network(images).float()
        self.val_loss.update(F.cross_entropy(logits, targets), weight=len(targets))
        logits, lost = wrong_where_nan(logits, targets)
        warn_of_lost(lost, len(targets))
        self.val_top1.update(logits, targets)
        if self.val_top5 is not None:
            self.val_top5.update(logits, targets)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole set."""
        metrics = {"val/loss": self.val_loss, "val/top1": self.val_top1}
        if self.val_top5 is not None:
            metrics["val/top5"] = self.val_top5
        for name, metric in metrics.items():
            # compute() before log(): it talks to the other ranks, which may differ in batches.
            self.log(name, metric.compute(), prog_bar=name == "val/top1", sync_dist=False)
            metric.reset()

    def announcement(self, data: Any) -> list[str]:
        """Lines about what is frozen, and about whom the network learns from."""
        lines = super().announcement(data)
        lines += [] if self.distillation is None else self.distillation.teacher.announcement()
        mesa = self.settings.mesa
        if mesa is not None:
            lines.append(
                f"mesa        from {mesa.start:.0%} of the run on the averaged weights teach (weight {mesa.weight:g}, "
                f"temperature {mesa.temperature:g})"
            )
        return lines

    def on_train_start(self) -> None:
        """Bring the teacher to the device, and find out when the averaged weights begin to teach."""
        super().on_train_start()
        if self.distillation is not None:
            self.distillation.teacher.to(self.device)
        if self.settings.mesa is not None:
            self._mesa = Mesa(self.settings.mesa, self.trainer, multi_label=self.multi_label)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store who the teacher is, not the teacher."""
        super().on_save_checkpoint(checkpoint)
        if self.distillation is not None:
            checkpoint["taught_by"] = self.distillation.teacher.identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another teacher than the run had; evaluate without one.

        Raises:
            ValueError: names both and the remedy.
        """
        super().on_load_checkpoint(checkpoint)
        if self.trainer.state.fn == "fit":
            check_identity(
                checkpoint.get("taught_by"), None if self.distillation is None else self.distillation.teacher
            )
        elif self.distillation is None:
            checkpoint["state_dict"] = without_distillation(checkpoint["state_dict"])

    def save_weights(self, folder: Path, metadata: dict[str, Any]) -> Path:
        """Write `model.safetensors` and timm's `config.json`."""
        save_model(self.network, folder, architecture=self.variant, model_args=self.model_args, metadata=metadata)
        return folder / "model.safetensors"

    def evaluate_weights(self, folder: Path) -> Evaluation:
        """Accuracy of the weights in `folder`; draws `confusion.png` and `predictions.png`."""
        from scalablevit.classification.draw import draw_confusion, draw_predictions
        from scalablevit.classification.evaluate import evaluate

        result, dataset = self._on_validation_set(evaluate, folder)

        def draw() -> None:
            draw_confusion(result.confusion, self.class_names, folder / "confusion.png")
            draw_predictions(result, dataset, self.class_names, folder / "predictions.png")

        top5 = f", top-5 {result.top5:.2%}" if result.top5 is not None else ""
        return Evaluation(result.summary(self.class_names), f"top-1 {result.top1:.2%}{top5}", result.count, draw)

    def _on_validation_set(self, evaluate: Callable[..., Result], folder: Path) -> tuple[Result, Any]:
        """What `evaluate` finds for the weights in `folder` on the validation set, and that set."""
        network, _ = load_model(folder)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        found = evaluate(
            network,
            data.val_dataset,
            batch_size=data.batch_size,
            device=self.trainer.strategy.root_device,  # self.device is the CPU again by now
            num_workers=data.num_workers,
        )
        return found, data.val_dataset
