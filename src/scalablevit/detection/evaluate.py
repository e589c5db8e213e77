"""Average precision as COCO defines it, and the records it is computed from."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Dataset

from scalablevit.data.loaders import eval_loader
from scalablevit.detection.coco.annotations import CocoAnnotations
from scalablevit.detection.coco.orientation import orient_boxes, orient_mask
from scalablevit.detection.data import DetectionBatch, collate
from scalablevit.detection.models import find_objects
from scalablevit.detection.predict import Detection, decode_mask, detections_of, encode_mask
from scalablevit.detection.transforms import as_input

_AREAS = ("all", "small", "medium", "large")
_MAX_DETECTIONS = 100
_BACK = {6: 8, 8: 6}  # the EXIF orientations that do not undo themselves


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's average precision, each value in 0..1; None where there was nothing to find.

    Attributes:
        ap: mean over IoU thresholds 0.5, 0.55, ..., 0.95 and over classes, of 100 detections an image at most.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ap_small: of objects below 32 x 32 pixels.
        ap_medium: of those up to 96 x 96.
        ap_large: of the rest.
        per_class: class name -> (ap, ap50).
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    per_class: dict[str, tuple[float | None, float | None]]

    def figures(self) -> dict[str, float | None]:
        """Without the classes."""
        names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        classes = {name: {"ap": ap, "ap50": ap50} for name, (ap, ap50) in self.per_class.items()}
        return {**self.figures(), "per_class": classes}


@dataclass
class Findings:
    """What a detector found in the images of a set, image by image.

    Attributes:
        records: one for each object, in COCO's format of results, in the pixels that the annotation file counts in
            and with its category ids: image_id, category_id, bbox [left, top, width, height], score, and of Mask
            R-CNN segmentation (run-length code).
        image_ids: of the images that could be read, whether or not anything was found in them.
        unreadable: the others: path, reason and remedy.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(
        self,
        batch: DetectionBatch,
        outputs: Sequence[Mapping[str, Tensor]],
        *,
        category_ids: Sequence[int],
        first_label: int,
    ) -> None:
        """Take what the network returned for the readable images of a validation batch.

        Args:
            batch: all of it.
            outputs: see `detections_of`; one for each readable image, in order.
            category_ids: of the annotation file, by class index.
            first_label: see `detections_of`.
        """
        self.unreadable += batch.unreadable
        names = [str(i) for i in category_ids]
        readable = [i for i, is_readable in enumerate(batch.readable) if is_readable]
        for i, output in zip(readable, outputs, strict=True):
            image_id = batch.image_ids[i]
            height, width = batch.images[i].shape[-2:]
            self.image_ids.append(image_id)
            for detection in detections_of(output, names, size=(height, width), first_label=first_label):
                box, mask = to_stored_frame(detection, batch.orientations[i], width=width, height=height)
                left, top, right, bottom = box
                record: dict[str, Any] = {
                    "image_id": image_id,
                    "category_id": category_ids[detection.label],
                    "bbox": [left, top, round(right - left, 3), round(bottom - top, 3)],
                    "score": detection.score,
                }
                if mask is not None:
                    record["segmentation"] = mask
                self.records.append(record)

    def gathered(self) -> "Findings":
        """Those of all training processes together, the same in each; without such processes, these."""
        if not (dist.is_available() and dist.is_initialized()):
            return self
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (self.records, self.image_ids, self.unreadable))
        records, image_ids, unreadable = (list(itertools.chain(*lists)) for lists in zip(*parts, strict=True))
        return Findings(records, image_ids, unreadable)

    def measure(self, annotations: CocoAnnotations, kind: Literal["box", "mask"]) -> AveragePrecision:
        """Average precision on the images that were seen."""
        return average_precision(annotations.ground_truth(self.image_ids), self.records, kind)


def average_precision(
    ground_truth: Mapping[str, Any], records: Iterable[Mapping[str, Any]], kind: Literal["box", "mask"]
) -> AveragePrecision:
    """COCO's figures, equal to those of pycocotools.

    Args:
        ground_truth: as a COCO file holds it: images, annotations (with iscrowd and area, and for masks
            segmentation) and categories.
        records: see `Findings`.
        kind: what is compared.

    Source: Lin et al., arXiv:1405.0312, and https://cocodataset.org/#detection-eval; computed by faster-coco-eval.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    if not ground_truth["images"]:
        nothing: dict[str, tuple[float | None, float | None]] = {c["name"]: (None, None) for c in categories}
        return AveragePrecision(None, None, None, None, None, None, nothing)
    # The evaluation writes into both lists, and takes an annotation with the id 0 for no annotation.
    annotations = [{**annotation, "id": i} for i, annotation in enumerate(ground_truth["annotations"], 1)]
    truth = COCO({"images": ground_truth["images"], "annotations": annotations, "categories": categories})
    # With a box beside it, a mask would be small or large by the area of the box.
    geometry = "bbox" if kind == "box" else "segmentation"
    kept = ("image_id", "category_id", "score", geometry)
    found = truth.loadRes([{key: record[key] for key in kept} for record in records])
    evaluation = COCOeval_faster(truth, found, iouType="bbox" if kind == "box" else "segm")
    evaluation.params.maxDets = [_MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    thresholds = np.asarray(evaluation.params.iouThrs)
    # (thresholds, recalls, classes, areas); -1 where a class has nothing to find
    precision = np.asarray(evaluation.eval["precision"])[..., 0]
    at50, at75 = (int(np.abs(thresholds - value).argmin()) for value in (0.5, 0.75))
    whole = precision[..., _AREAS.index("all")]
    return AveragePrecision(
        ap=_mean(whole),
        ap50=_mean(whole[at50]),
        ap75=_mean(whole[at75]),
        ap_small=_mean(precision[..., _AREAS.index("small")]),
        ap_medium=_mean(precision[..., _AREAS.index("medium")]),
        ap_large=_mean(precision[..., _AREAS.index("large")]),
        per_class={
            category["name"]: (_mean(whole[:, :, k]), _mean(whole[at50, :, k])) for k, category in enumerate(categories)
        },
    )


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    dataset: Dataset[Any],
    annotations: CocoAnnotations,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
) -> Findings:
    """Run a detector over a validation set, in one process.

    Args:
        network: a RetinaNet or Mask R-CNN of `scalablevit.detection.models`.
        dataset: of `CocoData`, without targets.
        annotations: of the same images.
        batch_size: images at a time.
        device: where to compute.
        num_workers: processes that load images.

    Raises:
        ValueError: no image could be read.
    """
    detector: Any = network.eval().to(device)
    findings = Findings()
    for batch in eval_loader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate):
        images = [as_input(image.to(device)) for image, ok in zip(batch.images, batch.readable, strict=True) if ok]
        outputs = find_objects(detector, images)
        findings.add(batch, outputs, category_ids=annotations.category_ids, first_label=detector.first_label)
    if not findings.image_ids:
        raise ValueError(f"none of the {len(findings.unreadable)} validation images can be read")
    return findings


def to_stored_frame(
    detection: Detection, orientation: int, *, width: int, height: int
) -> tuple[tuple[float, float, float, float], dict[str, Any] | None]:
    """Box and mask in the pixels of the stored image, which was turned upright before it was looked at.

    Args:
        detection: in the upright image.
        orientation: EXIF's, 1 to 8, that turned the stored image upright.
        width: of the upright image.
        height: likewise.
    """
    if orientation == 1:
        return detection.box_xyxy, detection.mask
    back = _BACK.get(orientation, orientation)
    (box,) = orient_boxes(np.array([detection.box_xyxy]), (width, height), back).tolist()
    left, top, right, bottom = (round(value, 3) for value in box)
    mask = None if detection.mask is None else encode_mask(orient_mask(decode_mask(detection.mask), back))
    return (left, top, right, bottom), mask


def _mean(precision: np.ndarray) -> float | None:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else None
