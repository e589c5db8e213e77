"""Training and validating a segmenter."""

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics import MeanMetric

from scalablevit.data.bands import in_colour
from scalablevit.data.not_a_number import ADVICE, other_than
from scalablevit.networks import own_settings
from scalablevit.segmentation.bands import probability_bands
from scalablevit.segmentation.dataset import SegmentationBatch
from scalablevit.segmentation.evaluate import Example, PixelConfusion, evaluate
from scalablevit.segmentation.inference import InferenceSettings
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.labels import IGNORED
from scalablevit.segmentation.losses import segmentation_loss
from scalablevit.segmentation.models import SegmentationModel, build_segmenter
from scalablevit.segmentation.transforms import Preprocessing
from scalablevit.training.class_weights import weights_of_classes
from scalablevit.training.module import Evaluation, TrainingModule, check_variant
from scalablevit.training.settings import DENSE_OTHER_KEYS, TrainingSettings
from scalablevit.weights import load_network, load_weights, save_network

_log = logging.getLogger(__name__)

_DEFAULT_INFERENCE = InferenceSettings()
_AUXILIARY_WEIGHT = 0.4
_MOST_EXAMPLES = 8
_THUMBNAIL = 384


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings(TrainingSettings):
    """Which network is trained, what it starts from and how it is applied; further arguments of `SegmentationTask`.

    Args:
        segmenter: the decoder, "semantic_fpn" or "upernet".
        weights: where to start from: anything `load_weights` reads, such as a classifier's checkpoint, of which the
            backbone is taken; None: from scratch.
        drop_path_rate: drop-path probability of the last block, in [0, 1).
        window_size: side of IWSA's windows in tokens, or a list of one (or [rows, columns]) per stage.
        scale_value: scaled-value form of SSA; None: as in `weights`; without them as published, for scalablevit_small
            only.
        grad_checkpointing: recompute blocks in the backward pass, for less memory.
        network_options: further arguments of `create_backbone`, such as {lim: false}, or of timm's network.
        segmenter_options: further arguments of `semantic_fpn` or `upernet`, such as {channels: 128}.
        auxiliary_weight: of the auxiliary head's loss, at least 0; without such a head another than the default is
            warned of.
        ignored_in_mean: divide the loss by all pixels of a batch, ignored ones too, as mmsegmentation does unless told
            otherwise; False: by those with a class.
        class_weights: factors on the pixels of each class in the loss: "balanced" (each class counts the same in
            total, by the pixels of the training masks that are read before training: up to 400, evenly spread, or all
            where there is no file of class names), weights by class index or by class name; None:
            all count alike.
        focal_gamma: exponent of focal loss, which takes the place of cross-entropy, at least 0; None: cross-entropy.
        cross_entropy_weight: of cross-entropy or focal loss in the loss, at least 0.
        dice_weight: of Dice loss in the loss, at least 0.
        inference: how the network is applied in validation and, but for scales and flip, in prediction. A null short
            and long side are those of `preprocessing`.

    Raises:
        ValueError: a value is out of range.
    """

    segmenter: Literal["semantic_fpn", "upernet"]
    weights: str | None = None
    drop_path_rate: float = 0.2
    window_size: int | list[int] | list[list[int]] = 7
    scale_value: bool | None = None
    grad_checkpointing: bool = False
    network_options: dict[str, Any] | None = None
    segmenter_options: dict[str, Any] | None = None
    auxiliary_weight: float = _AUXILIARY_WEIGHT
    ignored_in_mean: bool = False
    class_weights: Literal["balanced"] | list[float] | dict[str, float] | None = None
    focal_gamma: float | None = None
    cross_entropy_weight: float = 1.0
    dice_weight: float = 0.0
    inference: InferenceSettings = _DEFAULT_INFERENCE

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("auxiliary_weight", "focal_gamma", "cross_entropy_weight", "dice_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"model.{name} must be at least 0, got {value}")
        if self.cross_entropy_weight == 0 and self.dice_weight == 0:
            raise ValueError("model.cross_entropy_weight and model.dice_weight are both 0; raise one of them")
        if self.cross_entropy_weight == 0 and self.focal_gamma is not None:
            raise ValueError(
                f"model.focal_gamma {self.focal_gamma} has no effect with model.cross_entropy_weight 0: leave one out"
            )


class SegmentationTask(TrainingModule):
    """A backbone under Semantic FPN or UperNet, with its loss and its metrics.

    Args:
        variant: name of the network: of `scalablevit.backbone.VARIANTS`, or of timm's registry.
        class_names: names of the classes by index; the command line takes them from the data.
        preprocessing: how an image becomes the network's input, as `Preprocessing.to_dict` gives it; the command line
            takes it from the data.
        settings: arguments of `SegmentationSettings`.

    Raises:
        ValueError: no such variant, weights that do not fit, or an argument out of range.
    """

    other_keys: ClassVar = DENSE_OTHER_KEYS
    task = "segmentation"
    monitor = ("val/miou", "max")
    network: SegmentationModel
    settings: SegmentationSettings

    def __init__(self, variant: str, *, class_names: list[str], preprocessing: dict[str, Any], **settings: Any) -> None:
        own = SegmentationSettings(**settings)
        super().__init__(**own.training())
        check_variant(variant)
        self.settings = own
        self.variant = variant
        self.class_names = class_names
        self.preprocessing = Preprocessing.from_dict(preprocessing)
        self.inference = self._inference_settings()
        self.network = self._build_network()
        self._warn_without_auxiliary_head()
        self.load_report = (
            None if own.weights is None else load_weights(self.network, own.weights, class_names=class_names)
        )
        self._num_nan = 0  # pixels of the validation set without a number
        self.val_confusion = PixelConfusion(len(class_names))
        self.val_loss = MeanMetric(nan_strategy=math.inf)  # a NaN is to be seen in the mean
        self._class_weights: Tensor | None = None  # setup() asks the data how many pixels each class has

    def setup(self, stage: str) -> None:
        """Weigh the classes before a fit; see `TrainingModule.setup` too.

        Raises:
            ValueError: the class weights do not fit the classes.
        """
        super().setup(stage)
        given = self.settings.class_weights
        if stage != "fit" or given is None:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        pixels = data.class_pixels() if hasattr(data, "class_pixels") else [1] * len(self.class_names)
        self._class_weights = weights_of_classes(given, self.class_names, pixels)

    def announcement(self, data: Any) -> list[str]:
        """Lines that `fit` prints before it starts, beside the data's and the network's."""
        lines = super().announcement(data)
        if self.settings.class_weights != "balanced" or not hasattr(data, "counted_masks"):
            return lines
        return [*lines, f"loss        classes weighed by the pixels of {data.counted_masks()}"]

    def _inference_settings(self) -> InferenceSettings:
        """The recipe's, at the size of the data where it names none."""
        inference = self.settings.inference
        if inference.short_side is not None or inference.long_side is not None:
            return inference
        return replace(inference, short_side=self.preprocessing.short_side, long_side=self.preprocessing.long_side)

    def _build_network(self) -> SegmentationModel:
        settings = self.settings
        self.model_args: dict[str, Any] = {
            "in_chans": self.preprocessing.in_chans,
            **own_settings(
                self.variant,
                window_size=settings.window_size,
                scale_value=self.resolve_scale_value(settings.scale_value, settings.weights),
            ),
            "network_options": settings.network_options,
            **(settings.segmenter_options or {}),
        }
        in_training = {
            "drop_path_rate": settings.drop_path_rate,
            "grad_checkpointing": settings.grad_checkpointing,
        }
        # Initialisation is part of the run's seed, wherever the task is built.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            try:
                return build_segmenter(
                    settings.segmenter, self.variant, len(self.class_names), **{**in_training, **self.model_args}
                )
            except TypeError as error:
                raise ValueError(
                    f"model.segmenter_options: {error}; see {settings.segmenter} for its arguments"
                ) from error

    def _warn_without_auxiliary_head(self) -> None:
        weight = self.settings.auxiliary_weight
        if self.network.auxiliary is None and weight != _AUXILIARY_WEIGHT:
            _log.warning(
                "model.auxiliary_weight %g has no effect, as this %s has no auxiliary head: remove it",
                *(weight, self.settings.segmenter),
            )

    def training_step(self, batch: SegmentationBatch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        self.unreadable.collect(batch.unreadable, has_gap=not all(batch.readable))
        logits, auxiliary = self.network.forward_with_auxiliary(batch.images)
        loss = self._loss(logits, batch.masks)
        parts = {}
        if auxiliary is not None:
            side = self._loss(auxiliary, batch.masks)
            parts = {"loss_decoder": loss, "loss_auxiliary": side}
            loss = loss + self.settings.auxiliary_weight * side
        self.log_train_loss(loss, len(batch.images), parts)
        return loss

    def _loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        settings, weights = self.settings, self._class_weights
        return segmentation_loss(
            logits,
            masks,
            ignored_in_mean=settings.ignored_in_mean,
            class_weights=None if weights is None else weights.to(logits.device),
            focal_gamma=settings.focal_gamma,
            cross_entropy_weight=settings.cross_entropy_weight,
            dice_weight=settings.dice_weight,
        )

    def validation_step(self, batch: SegmentationBatch, batch_idx: int) -> None:
        """Count pixels; images that could not be read do not count."""
        self.unreadable.collect(batch.unreadable)
        K = len(self.class_names)
        for image, mask, readable in zip(batch.images, batch.masks, batch.readable, strict=True):
            if not readable:
                continue
            for top, probabilities in probability_bands(self.network, image, self.inference, num_classes=K):
                here = mask[top : top + probabilities.shape[1]]  # (h, W)
                lost = probabilities.isnan().any(dim=0)
                self._num_nan += int((lost & (here != IGNORED)).sum())
                self.val_confusion.update(probabilities.argmax(0).where(~lost, other_than(here, K)), here)
                known = here != IGNORED
                if known.any():
                    right = probabilities.gather(0, here.where(known, 0)[None])[0][known]
                    loss = -right.clamp_min(torch.finfo(torch.float32).tiny).log().mean()
                    self.val_loss.update(loss, weight=int(known.sum()))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole set."""
        if self._num_nan:
            _log.warning("the outputs for %d pixels are not numbers, and count as wrong; %s", self._num_nan, ADVICE)
            self._num_nan = 0
        # The metrics talk to the other ranks, which may differ in batches, so not before the end.
        scores = self.val_confusion.scores()
        self.log("val/loss", self.val_loss.compute(), sync_dist=False)
        self.log("val/miou", scores.miou, prog_bar=True, sync_dist=False)
        self.log("val/mean_accuracy", scores.mean_accuracy, sync_dist=False)
        self.log("val/accuracy", scores.accuracy, sync_dist=False)
        self.val_confusion.reset()
        self.val_loss.reset()

    def save_weights(self, folder: Path, metadata: dict[str, Any]) -> Path:
        """Write `model.safetensors`."""
        own: dict[str, Any] = {
            "variant": self.variant,
            "segmenter": self.settings.segmenter,
            "model_args": self.model_args,
            "inference": self.inference.to_dict(),
        }
        return save_network(self.network, folder, metadata={**metadata, **own, **self._labels()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As of every task; and what the labels of the masks stand for, for masks without a label map."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["trained"] |= self._labels()

    def _labels(self) -> dict[str, Any]:
        """The label map of the training masks, if the data have one."""
        label_map = getattr(getattr(self.trainer, "datamodule", None), "label_map", None)
        return {"label_map": label_map.to_dict()} if isinstance(label_map, LabelMap) else {}

    def evaluate_weights(self, folder: Path) -> Evaluation:
        """IoU and accuracy of the weights in `folder`; draws `predictions.png`."""
        from scalablevit.segmentation.predict import build_network
        from scalablevit.segmentation.prediction_sheet import draw_predictions

        network, _ = load_network(folder, build_network)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        total = len(data.val_dataset)
        result = evaluate(
            network,
            data.val_dataset,
            num_classes=len(self.class_names),
            settings=self.inference,
            device=self.trainer.strategy.root_device,  # self.device is the CPU again by now
            num_workers=data.num_workers,
            keep={i * total // _MOST_EXAMPLES for i in range(_MOST_EXAMPLES)},
        )

        def draw() -> None:
            draw_predictions(
                [self._drawable(example) for example in result.examples],
                folder / "predictions.png",
                class_names=self.class_names,
                palette=self.preprocessing.colours(len(self.class_names)),
            )

        scores = result.scores
        figures = (
            f"mIoU {scores.miou:.2%}, mean accuracy {scores.mean_accuracy:.2%}, pixel accuracy {scores.accuracy:.2%}"
        )
        results = {**result.summary(self.class_names), "inference": self.inference.to_dict()}
        return Evaluation(results, figures, result.count, draw)

    def _drawable(self, example: Example) -> tuple[Image.Image, np.ndarray, np.ndarray, str]:
        """Image, mask and labels of a sheet's size, and a title."""
        mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (self.preprocessing.mean, self.preprocessing.std))
        pixels = ((example.image * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)  # (H, W, C)
        thumbnail = in_colour(pixels.numpy())
        thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
        step = -(-max(example.mask.shape) // _THUMBNAIL)
        known = example.mask != IGNORED
        right = (example.labels == example.mask)[known]
        title = f"prediction, {right.mean():.1%} right" if right.size else "prediction"
        return thumbnail, example.mask[::step, ::step], example.labels[::step, ::step], title
