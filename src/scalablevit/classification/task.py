"""Training and validating a classifier."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.classification.data import NOTHING_READABLE_TARGET, ClassificationBatch, why_unreadable
from scalablevit.classification.transforms import Preprocessing
from scalablevit.training.module import Evaluation, TrainingModule, check_variant
from scalablevit.weights import load_model, load_weights, save_model


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


class ClassificationTask(TrainingModule):
    """A ScalableViT classifier with its loss and its metrics.

    Args:
        variant: name of the network, see `scalablevit.backbone.VARIANTS`.
        class_names: names of the classes by index; the command line takes them from the data.
        preprocessing: how an image becomes the network's input, as `Preprocessing.to_dict` gives it; the
            command line takes it from the data.
        weights: where to start from: anything `load_weights` reads; None: from scratch. A head for other
            classes is replaced.
        head: "published" or "plain" (see `ScalableViT`); "auto": what the variant has.
        drop_path_rate: drop-path probability of the last block, in [0, 1).
        window_size: side of IWSA's windows in tokens, or a list of one (or [rows, columns]) per stage: maps of small
            images are smaller than a window of 7, which then pads in vain.
        scale_value: scaled-value form of SSA.
        grad_checkpointing: recompute blocks in the backward pass, for less memory.
        compile: train through torch.compile.
        network_options: further arguments of `ScalableViT`, such as {lim: false}.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        mixup: mixing of images; None: none.
        training: how it is trained: optimizer, schedule, seed and the other arguments of `TrainingSettings`.

    Raises:
        ValueError: no such variant, weights that do not fit, or an argument out of range.
    """

    task = "classification"
    monitor = ("val/top1", "max")
    network: ScalableViT

    def __init__(
        self,
        variant: str,
        *,
        class_names: list[str],
        preprocessing: dict[str, Any],
        weights: str | None = None,
        head: Literal["auto", "published", "plain"] = "auto",
        drop_path_rate: float = 0.0,
        window_size: int | list[int] | list[list[int]] = 7,
        scale_value: bool = False,
        grad_checkpointing: bool = False,
        compile: bool = False,
        network_options: dict[str, Any] | None = None,
        label_smoothing: float = 0.1,
        mixup: MixupSettings | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        check_variant(variant)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"model.label_smoothing must be in [0, 1), got {label_smoothing}")
        self.variant = variant
        self.class_names = class_names
        self.preprocessing = Preprocessing.from_dict(preprocessing)
        self.label_smoothing = label_smoothing
        K = len(class_names)
        self.model_args: dict[str, Any] = {
            "num_classes": K,
            "in_chans": self.preprocessing.in_chans,
            "window_size": window_size,
            "scale_value": scale_value,
            **({} if head == "auto" else {"head": head}),
            **(network_options or {}),
        }
        # Initialisation is part of the run's seed, wherever the task is built.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            numbers = {**VARIANTS[variant], "drop_path_rate": drop_path_rate, **self.model_args}
            try:
                self.network = ScalableViT(**numbers)
            except TypeError as error:
                raise ValueError(f"model.network_options: {error}; see ScalableViT for its arguments") from error
        self.network.set_grad_checkpointing(grad_checkpointing)
        self.load_report = None if weights is None else load_weights(self.network, weights, class_names=class_names)
        if compile:
            self.network.compile()
        self.mixup = None
        if mixup is not None:
            self.mixup = Mixup(
                mixup.mixup_alpha,
                mixup.cutmix_alpha,
                prob=mixup.prob,
                switch_prob=mixup.switch_prob,
                label_smoothing=label_smoothing,
                num_classes=K,
            )
        self.unreadable.explain = why_unreadable
        self.val_loss = MeanMetric()
        self.val_top1 = MulticlassAccuracy(num_classes=K, top_k=1, average="micro")
        self.val_top5 = MulticlassAccuracy(num_classes=K, top_k=5, average="micro") if K > 5 else None

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> Tensor:
        """Mean loss of a batch."""
        nothing_left = bool((batch.targets == NOTHING_READABLE_TARGET).any())
        self.unreadable.collect(batch.unreadable, nothing_left=nothing_left)
        images, targets = batch.images, batch.targets
        # timm's Mixup pairs a batch with its own mirror image and so wants an even number.
        if self.mixup is not None and len(images) % 2 == 0:
            images, soft_targets = self.mixup(images, targets)
            loss = torch.sum(-soft_targets * F.log_softmax(self.network(images).float(), dim=-1), dim=-1).mean()
        else:
            logits = self.network(images).float()
            loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        self.log_train_loss(loss, len(images))
        return loss

    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> None:
        """Count hits; images that could not be read do not count."""
        self.unreadable.collect(batch.unreadable)
        readable = batch.targets >= 0
        if not readable.any():
            return
        images, targets = batch.images[readable], batch.targets[readable]
        logits = self.network(images).float()
        self.val_loss.update(F.cross_entropy(logits, targets), weight=len(targets))
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

    def save_weights(self, folder: Path, metadata: dict[str, Any]) -> Path:
        """Write `model.safetensors` and timm's `config.json`."""
        save_model(self.network, folder, architecture=self.variant, model_args=self.model_args, metadata=metadata)
        return folder / "model.safetensors"

    def evaluate_weights(self, folder: Path) -> Evaluation:
        """Accuracy of the weights in `folder`; draws `confusion.png` and `predictions.png`."""
        from scalablevit.classification.evaluate import evaluate
        from scalablevit.classification.pictures import draw_confusion, draw_predictions

        network, _ = load_model(folder)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        result = evaluate(
            network,
            data.val_dataset,
            batch_size=data.batch_size,
            device=self.trainer.strategy.root_device,  # self.device is the CPU again by now
            num_workers=data.num_workers,
        )

        def draw() -> None:
            draw_confusion(result.confusion, self.class_names, folder / "confusion.png")
            draw_predictions(result, data.val_dataset, self.class_names, folder / "predictions.png")

        top5 = f", top-5 {result.top5:.2%}" if result.top5 is not None else ""
        return Evaluation(result.summary(), f"top-1 {result.top1:.2%}{top5}", result.count, draw)
