"""Training and validating a detector."""

import logging
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from scalablevit.detection.data_settings import OTHER_KEYS
from scalablevit.detection.dataset import DetectionBatch
from scalablevit.detection.evaluate import AveragePrecision, Findings, counted_detections, evaluate
from scalablevit.detection.matching import MatchedFigures
from scalablevit.detection.models import build_detector, find_objects
from scalablevit.detection.transforms import Preprocessing, as_input
from scalablevit.networks import own_settings
from scalablevit.printable import printable
from scalablevit.safe_write import write_json
from scalablevit.training.module import Evaluation, TrainingModule, check_variant
from scalablevit.training.settings import DENSE_OTHER_KEYS
from scalablevit.weights import load_weights, save_network

_log = logging.getLogger(__name__)
_SHEET_IMAGES = 8
_GIVEN_ELSEWHERE = ("num_classes", "scale_value", "window_size", "drop_path_rate", "grad_checkpointing")


class DetectionTask(TrainingModule):
    """A RetinaNet or Mask R-CNN on a backbone, with its losses and COCO's average precision.

    Args:
        variant: name of the backbone: of `scalablevit.backbone.VARIANTS`, or of timm's registry.
        class_names: names of the classes by index; the command line takes them from the data.
        preprocessing: how large images are made for the network, as `Preprocessing.to_dict` gives it; the command
            line takes it from the data.
        detector: "retinanet" finds boxes, "mask_rcnn" boxes and masks.
        weights: where to start from: anything `load_weights` reads, of a classifier, a backbone or a detector; None:
            from scratch. Layers for other classes stay fresh.
        drop_path_rate: drop-path probability of the backbone's last block, in [0, 1).
        scale_value: scaled-value form of SSA; None: as in `weights`; without them as published, for scalablevit_small
            only.
        window_size: side of IWSA's windows in tokens, or a list of one (or [rows, columns]) per stage.
        grad_checkpointing: recompute the backbone's blocks in the backward pass, for less memory.
        network_options: further arguments of the backbone: of `ScalableViT`, or of timm's network.
        detector_options: further arguments of `retinanet` or `mask_rcnn`, such as {anchor_sizes: [8, 16, 32, 64, 128]}.
        training: how it is trained: optimizer, schedule, seed and the other arguments of `TrainingSettings`.

    Raises:
        ValueError: no such variant or detector, weights that do not fit, or an argument out of range.
    """

    other_keys: ClassVar = OTHER_KEYS | DENSE_OTHER_KEYS
    task = "detection"
    monitor = ("val/box_ap", "max")

    def __init__(
        self,
        variant: str,
        *,
        class_names: list[str],
        preprocessing: dict[str, Any],
        detector: Literal["retinanet", "mask_rcnn"],
        weights: str | None = None,
        drop_path_rate: float = 0.2,
        scale_value: bool | None = None,
        window_size: int | list[int] | list[list[int]] = 7,
        grad_checkpointing: bool = False,
        network_options: dict[str, Any] | None = None,
        detector_options: dict[str, Any] | None = None,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        check_variant(variant)
        self.variant = variant
        self.class_names = class_names
        self.detector = detector
        self.preprocessing = Preprocessing.from_dict(preprocessing)
        scale_value = self.resolve_scale_value(scale_value, weights)
        self.model_args: dict[str, Any] = {
            **own_settings(variant, scale_value=scale_value, window_size=window_size),
            "network_options": network_options,
            "min_size": self.preprocessing.min_size,
            "max_size": self.preprocessing.max_size,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
        }
        for name, value in (detector_options or {}).items():
            if name in self.model_args or name in _GIVEN_ELSEWHERE:
                raise ValueError(
                    f"model.detector_options.{name}: the task or the data gives it; set it there and remove it here"
                )
            self.model_args[name] = value
        # Initialisation is part of the run's seed, wherever the task is built.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self.network: Any = build_detector(
                detector,
                variant,
                len(class_names),
                drop_path_rate=drop_path_rate,
                grad_checkpointing=grad_checkpointing,
                **self.model_args,
            )
        self.load_report = None if weights is None else load_weights(self.network, weights, class_names=class_names)
        self.findings = Findings()

    @property
    def has_masks(self) -> bool:
        """Whether the network finds masks, beside boxes."""
        return self.detector == "mask_rcnn"

    def setup(self, stage: str) -> None:
        """Compare the data with the network; see `TrainingModule.setup`.

        Logs a warning where masks are read for nothing, and before "validate" where only a share of a file is measured.

        Raises:
            ValueError: the data has other classes than the network, or no masks where it needs them.
        """
        super().setup(stage)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.class_names != self.class_names:
            raise ValueError(
                f"the data has {len(data.class_names)} classes, the network {len(self.class_names)}, or they have "
                "other names: give data with the classes that the network was made for"
            )
        if self.has_masks and not data.masks:
            raise ValueError(
                "model.detector mask_rcnn learns from masks, and data.masks is false: set it to true, or choose "
                "retinanet"
            )
        if data.masks and not self.has_masks:
            _log.warning(
                "data.masks is true, but model.detector retinanet learns from boxes alone: masks are decoded for "
                "nothing; set data.masks to false"
            )
        if stage == "validate" and data.is_split:
            file = data.val_annotations.path
            _log.warning(
                "%s: only the %s images are measured that are set aside for validation (data.val_fraction), of %s; "
                "to measure all of a file, name it: --data.val_annotations FILE --data.val_images FOLDER",
                file,
                f"{len(data.val_dataset):,}",
                f"{int(data.val_annotations.present.sum()):,}",
            )

    def training_step(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Sum of the detector's losses."""
        nothing_left = not any(batch.readable) and len(set(batch.unreadable)) >= self._num_train_images()
        self.unreadable.collect(batch.unreadable, nothing_left=nothing_left, has_gap=not all(batch.readable))
        first_label = self.network.first_label
        targets = [{**target, "labels": target["labels"] + first_label} for target in batch.targets]
        losses: dict[str, Tensor] = self.network(batch.images, targets)
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        parts = {f"loss_{name.removeprefix('loss_')}": value for name, value in losses.items()}
        self.log_train_loss(loss, len(batch.images), parts)
        return loss

    def _num_train_images(self) -> int:
        return len(set(self.trainer.datamodule.train_dataset.indices.tolist()))  # type: ignore[attr-defined]

    def on_validation_epoch_start(self) -> None:
        """Forget what an earlier validation found, be it a complete one or not."""
        self.findings = Findings()

    def validation_step(self, batch: DetectionBatch, batch_idx: int) -> None:
        """Find objects in the images that could be read."""
        self.unreadable.collect(batch.unreadable)
        images = [as_input(image) for image, is_ok in zip(batch.images, batch.readable, strict=True) if is_ok]
        outputs = find_objects(self.network, images)
        annotations = self.trainer.datamodule.val_annotations  # type: ignore[attr-defined]
        self.findings.add(
            batch,
            outputs,
            category_ids=annotations.category_ids,
            first_label=self.network.first_label,
        )

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole set, the same on all ranks."""
        annotations = self.trainer.datamodule.val_annotations  # type: ignore[attr-defined]
        findings, self.findings = self.findings.gathered(), Findings()
        for kind in self._kinds():
            precision = findings.measure(annotations, kind, max_detections=counted_detections(self.network))
            for name, value in precision.figures().items():
                metric = f"val/{kind}_{name}"
                # The monitored one must be there, be it of a set without an object.
                if value is not None or metric == self.monitor[0]:
                    shown = name in ("ap", "ap50")
                    self.log(metric, math.nan if value is None else value, prog_bar=shown, sync_dist=False)
            if self.trainer.state.fn == "validate":  # what the user asked for; in training results.json has it
                for name, (ap, _) in precision.per_class.items():
                    if ap is not None:
                        self.log(f"val/{kind}_ap/{printable(name)}", ap, sync_dist=False)
        if self.trainer.state.fn == "validate":
            self._log_matches(findings.match(annotations))

    def _log_matches(self, matched: MatchedFigures) -> None:
        """Log means over the classes that have objects: precision, recall and F1 at the threshold of `predict`."""
        classes = [found for found in matched.per_class.values() if found.objects]
        for name in ("precision", "recall", "f1"):
            if classes:
                mean = sum(getattr(found, name) or 0.0 for found in classes) / len(classes)
                self.log(f"val/box_{name}", mean, sync_dist=False)

    def _kinds(self) -> list[Literal["box", "mask"]]:
        return ["box", "mask"] if self.has_masks else ["box"]

    def save_weights(self, folder: Path, metadata: dict[str, Any]) -> Path:
        """Write `model.safetensors`."""
        own = {"detector": self.detector, "variant": self.variant, "model_args": self.model_args}
        return save_network(self.network, folder, metadata={**metadata, **own})

    def evaluate_weights(self, folder: Path) -> Evaluation:
        """Evaluate the weights in `folder` by boxes and masks, class by class.

        Writes `detections.json` (every detection, in COCO's format of results), `pr_curves.png` and `predictions.png`.
        """
        from scalablevit.detection.draw import draw_sheet
        from scalablevit.detection.pr_curves import draw_pr_curves
        from scalablevit.detection.predict import Detector

        data = self.trainer.datamodule  # type: ignore[attr-defined]
        device = self.trainer.strategy.root_device  # self.device is the CPU again by now
        detector = Detector.load(folder, device=device)
        findings = evaluate(
            detector.network,
            data.val_dataset,
            data.val_annotations,
            batch_size=data.val_batch_size,
            device=device,
            num_workers=data.num_workers,
        )
        limit = counted_detections(detector.network)
        measured = {kind: findings.measure(data.val_annotations, kind, max_detections=limit) for kind in self._kinds()}
        matched = findings.match(data.val_annotations)
        results: dict[str, Any] = {
            **{kind: precision.to_dict() for kind, precision in measured.items()},
            "boxes_at_iou_50": matched.to_dict(),
            "count": len(findings.image_ids),
            "unreadable": findings.unreadable,
        }

        def draw() -> None:
            draw_pr_curves(matched, folder / "pr_curves.png")
            write_json(folder / "detections.json", findings.records, indent=None)
            sheet = folder / "predictions.png"
            draw_sheet(detector, data.val_dataset, data.val_annotations, sheet, count=_SHEET_IMAGES)

        figures = "; ".join(_in_words(kind, precision) for kind, precision in measured.items())
        return Evaluation(results, figures, len(findings.image_ids), draw)


def _in_words(kind: str, precision: AveragePrecision) -> str:
    if precision.ap is None or precision.ap50 is None:
        return f"{kind} AP unknown, as there is no object"
    return f"{kind} AP {precision.ap:.1%}, AP50 {precision.ap50:.1%}"
