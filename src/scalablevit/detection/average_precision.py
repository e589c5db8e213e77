"""Average precision as COCO defines it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

DEFAULT_MAX_DETECTIONS = 100
_AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's average precision, each value in 0..1; None where there was nothing to find.

    Attributes:
        ap: mean over IoU thresholds 0.5, 0.55, ..., 0.95 and over classes.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ap_small: of objects below 32 x 32 pixels.
        ap_medium: of those up to 96 x 96.
        ap_large: of the rest.
        per_class: class name -> (ap, ap50).
        max_detections: how many detections of a class and image count, those with the highest scores.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    per_class: dict[str, tuple[float | None, float | None]]
    max_detections: int = DEFAULT_MAX_DETECTIONS

    def figures(self) -> dict[str, float | None]:
        """All figures but those of the classes, by name."""
        names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        classes = {name: {"ap": ap, "ap50": ap50} for name, (ap, ap50) in self.per_class.items()}
        return {**self.figures(), "max_detections": self.max_detections, "per_class": classes}


def average_precision(
    ground_truth: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
    kind: Literal["box", "mask"],
    *,
    max_detections: int = DEFAULT_MAX_DETECTIONS,
) -> AveragePrecision:
    """Compute COCO's figures, equal to those of pycocotools.

    Args:
        ground_truth: as a COCO file holds it: images, annotations (with iscrowd and area, and for masks
            segmentation) and categories. Ids may be any numbers or texts. For masks, detections on objects without a
            segmentation are ignored, as those in crowd regions are.
        records: detections in COCO's format of results.
        kind: what is compared.
        max_detections: how many detections of a class and image count.

    Source: Lin et al., arXiv:1405.0312, and https://cocodataset.org/#detection-eval; computed by faster-coco-eval.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    categories = sorted(
        ground_truth["categories"], key=lambda category: (isinstance(category["id"], str), category["id"])
    )
    if not ground_truth["images"]:
        nothing: dict[str, tuple[float | None, float | None]] = {c["name"]: (None, None) for c in categories}
        return AveragePrecision(None, None, None, None, None, None, nothing, max_detections)
    truth, found = _renumbered(ground_truth, records, categories, kind)
    # The evaluation writes into all lists.
    coco = COCO(truth)
    evaluation = COCOeval_faster(coco, coco.loadRes(found), iouType="bbox" if kind == "box" else "segm")
    evaluation.params.maxDets = [max_detections]
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
        max_detections=max_detections,
    )


def _renumbered(
    ground_truth: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    kind: Literal["box", "mask"],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth and detections with ids from 1 on: the evaluation reads ids as doubles, and takes 0 for none."""
    image_number = {image["id"]: i for i, image in enumerate(ground_truth["images"], 1)}
    category_number = {category["id"]: i for i, category in enumerate(categories, 1)}

    def renumbered(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **entry,
            "image_id": image_number[entry["image_id"]],
            "category_id": category_number[entry["category_id"]],
        }

    annotations: list[dict[str, Any]] = []
    for annotation in ground_truth["annotations"]:
        annotation = renumbered(annotation)
        if kind == "mask" and not annotation.get("segmentation"):
            left, top, width, height = annotation["bbox"]
            if min(width, height) <= 0:
                continue
            right, bottom = left + width, top + height
            annotation["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
            annotation["iscrowd"] = 1
        annotations.append({**annotation, "id": len(annotations) + 1})
    # With a box beside it, a mask would be small or large by the area of the box.
    kept = ("image_id", "category_id", "score", "bbox" if kind == "box" else "segmentation")
    truth = {
        "images": [{**image, "id": i} for i, image in enumerate(ground_truth["images"], 1)],
        "annotations": annotations,
        "categories": [{**category, "id": i} for i, category in enumerate(categories, 1)],
    }
    return truth, [renumbered({key: record[key] for key in kept}) for record in records]


def _mean(precision: np.ndarray) -> float | None:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else None
