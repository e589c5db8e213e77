"""Average precision as COCO defines it, and the records it is computed from."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import Dataset

from scalablevit.data.loaders import eval_loader
from scalablevit.data.orientation import turned_back
from scalablevit.detection.average_precision import DEFAULT_MAX_DETECTIONS, AveragePrecision, average_precision
from scalablevit.detection.coco.annotations import CocoAnnotations
from scalablevit.detection.coco.json_file import Id
from scalablevit.detection.coco.orientation import orient_boxes, orient_mask
from scalablevit.detection.dataset import DetectionBatch, collate
from scalablevit.detection.matching import MatchedFigures, matched_figures
from scalablevit.detection.models import find_objects
from scalablevit.detection.predict import Detection, decode_mask, detections_of, encode_mask
from scalablevit.detection.transforms import as_input


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
    image_ids: list[Id] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(
        self,
        batch: DetectionBatch,
        outputs: Sequence[Mapping[str, Tensor]],
        *,
        category_ids: Sequence[Id],
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

    def measure(
        self,
        annotations: CocoAnnotations,
        kind: Literal["box", "mask"],
        *,
        max_detections: int = DEFAULT_MAX_DETECTIONS,
    ) -> AveragePrecision:
        """Compute average precision on the images that were seen; see `average_precision`."""
        truth = annotations.ground_truth(self.image_ids)
        return average_precision(truth, self.records, kind, max_detections=max_detections)

    def match(self, annotations: CocoAnnotations) -> MatchedFigures:
        """Compute precision, recall, F1 and confusions on the images that were seen; see `matched_figures`."""
        return matched_figures(annotations.ground_truth(self.image_ids), self.records)


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


def counted_detections(network: nn.Module) -> int:
    """How many detections of a class and image count in the evaluation of a detector.

    COCO's 100, or as many as the network gives where `detections_per_image` is higher.
    """
    head: Any = getattr(network, "roi_heads", network)
    return max(DEFAULT_MAX_DETECTIONS, int(getattr(head, "detections_per_img", 0)))


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
    back = turned_back(orientation)
    (box,) = orient_boxes(np.array([detection.box_xyxy]), (width, height), back).tolist()
    left, top, right, bottom = (round(value, 3) for value in box)
    mask = None if detection.mask is None else encode_mask(orient_mask(decode_mask(detection.mask), back))
    return (left, top, right, bottom), mask
