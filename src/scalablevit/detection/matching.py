"""Detections matched with objects at one IoU: precision, recall, F1 and confusions, class by class.

Average precision is COCO's (`average_precision`); these figures say what a user of `scalablevit predict` gets.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalablevit.detection.coco.json_file import Id, id_order

MATCHING_IOU = 0.5
WORKING_THRESHOLD = 0.5  # the default of `predict --threshold`
_CURVE_POINTS = 101


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is found at IoU 0.5; None where a figure is 0 / 0.

    Attributes:
        objects: how many there are.
        detections: how many score above the threshold.
        right: how many of these are right.
        curve: (P, 3) recall, precision and score, from the highest score to the lowest.
        best_f1: highest F1 of all thresholds, and its threshold; None without a right detection.
    """

    objects: int
    detections: int
    right: int
    curve: np.ndarray
    best_f1: tuple[float, float] | None

    @property
    def precision(self) -> float | None:
        """Share of the detections above the threshold that are right."""
        return self.right / self.detections if self.detections else None

    @property
    def recall(self) -> float | None:
        """Share of the objects that are found above the threshold."""
        return self.right / self.objects if self.objects else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        return 2 * self.right / (self.detections + self.objects) if self.detections + self.objects else None

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it; of the curve up to 101 points."""
        chosen = np.unique(np.linspace(0, len(self.curve) - 1, min(_CURVE_POINTS, len(self.curve))).astype(int))
        return {
            "objects": self.objects,
            "detections": self.detections,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "best_f1": None if self.best_f1 is None else self.best_f1[0],
            "best_threshold": None if self.best_f1 is None else self.best_f1[1],
            "pr_curve": {
                name: np.round(self.curve[chosen, k], 6).tolist()
                for k, name in enumerate(("recall", "precision", "score"))
            },
        }


@dataclass(frozen=True)
class MatchedFigures:
    """Precision, recall, F1 and confusions of a set of images.

    Attributes:
        threshold: detections score above it.
        per_class: class name -> figures.
        confusion: (K + 1, K + 1) int64, true class by predicted class; the last row counts detections on background,
            the last column objects that were missed.
    """

    threshold: float
    per_class: dict[str, ClassFigures]
    confusion: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "iou": MATCHING_IOU,
            "threshold": self.threshold,
            "per_class": {name: figures.to_dict() for name, figures in self.per_class.items()},
            "confusion": {
                "classes": [*self.per_class, "background"],
                "true_by_predicted": self.confusion.tolist(),
            },
        }


def matched_figures(
    ground_truth: Mapping[str, Any], records: Iterable[Mapping[str, Any]], *, threshold: float = WORKING_THRESHOLD
) -> MatchedFigures:
    """Match boxes of detections with boxes of objects at IoU 0.5, and count.

    Within an image the detection with the highest score chooses first, and each object is found once. Detections that
    lie inside a crowd region by half or more count neither as right nor as wrong.

    Args:
        ground_truth: as a COCO file holds it.
        records: detections in COCO's format of results.
        threshold: of the precision, recall, F1 and confusions; in [0, 1].
    """
    categories = sorted(ground_truth["categories"], key=lambda category: id_order(category["id"]))
    label_of = {category["id"]: k for k, category in enumerate(categories)}
    num_classes = len(categories)
    objects = _by_image(ground_truth["annotations"], label_of)
    found = _by_image(records, label_of)
    confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    counts = np.zeros(num_classes, np.int64)
    scores: list[list[float]] = [[] for _ in range(num_classes)]
    hits: list[list[bool]] = [[] for _ in range(num_classes)]
    for image in ground_truth["images"]:
        truth, seen = objects.get(image["id"], _NOTHING), found.get(image["id"], _NOTHING)
        real = ~truth.crowd
        counts += np.bincount(truth.labels[real], minlength=num_classes)
        overlaps, excused = _compare(truth, seen)
        for k in np.unique(seen.labels).tolist():
            rows = np.flatnonzero(seen.labels == k)
            columns = np.flatnonzero(real & (truth.labels == k))
            hit = _match(overlaps[np.ix_(rows, columns)]) >= 0
            counted = hit | ~excused[rows]
            scores[k] += seen.scores[rows][counted].tolist()
            hits[k] += hit[counted].tolist()
        above = np.flatnonzero(seen.scores > threshold)
        columns = np.flatnonzero(real)
        partner = _match(overlaps[np.ix_(above, columns)])
        for row, column in zip(above.tolist(), partner.tolist(), strict=True):
            if column >= 0:
                confusion[truth.labels[columns[column]], seen.labels[row]] += 1
            elif not excused[row]:
                confusion[num_classes, seen.labels[row]] += 1
        missed = np.setdiff1d(columns, columns[partner[partner >= 0]])
        confusion[:num_classes, num_classes] += np.bincount(truth.labels[missed], minlength=num_classes)
    per_class = {
        category["name"]: _figures(int(counts[k]), np.array(scores[k]), np.array(hits[k], bool), threshold)
        for k, category in enumerate(categories)
    }
    return MatchedFigures(threshold, per_class, confusion)


@dataclass(frozen=True)
class _Boxes:
    """Boxes of one image; those of detections from the highest score to the lowest."""

    corners: np.ndarray  # (R, 4) xyxy
    labels: np.ndarray
    scores: np.ndarray
    crowd: np.ndarray


_NOTHING = _Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))


def _by_image(entries: Iterable[Mapping[str, Any]], label_of: Mapping[Id, int]) -> dict[Id, _Boxes]:
    lists: dict[Id, list[Mapping[str, Any]]] = {}
    for entry in entries:
        lists.setdefault(entry["image_id"], []).append(entry)
    result = {}
    for image_id, listed in lists.items():
        boxes = np.array([entry["bbox"] for entry in listed], float).reshape(-1, 4)
        scores = np.array([entry.get("score", 1.0) for entry in listed], float)
        order = np.argsort(-scores, kind="stable")
        result[image_id] = _Boxes(
            np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)[order],
            np.array([label_of[entry["category_id"]] for entry in listed], np.int64)[order],
            scores[order],
            np.array([bool(entry.get("iscrowd", 0)) for entry in listed], bool)[order],
        )
    return result


def _compare(truth: _Boxes, seen: _Boxes) -> tuple[np.ndarray, np.ndarray]:
    """IoU of (detections, objects), and which detections lie in crowd regions of their class by half or more."""
    low = np.maximum(seen.corners[:, None, :2], truth.corners[None, :, :2])
    high = np.minimum(seen.corners[:, None, 2:], truth.corners[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    own, other = _areas(seen.corners)[:, None], _areas(truth.corners)[None]
    iou = shared / np.maximum(own + other - shared, 1e-12)
    inside = shared / np.maximum(own, 1e-12) >= MATCHING_IOU
    same = seen.labels[:, None] == truth.labels[None]
    excused: np.ndarray = (inside & truth.crowd[None] & same).any(axis=1)
    return iou, excused


def _areas(corners: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1)
    return areas


def _match(overlaps: np.ndarray) -> np.ndarray:
    """For each detection the object that it finds, or -1; the first detections choose first."""
    partner = np.full(len(overlaps), -1)
    if overlaps.size == 0:
        return partner
    free = np.ones(overlaps.shape[1], bool)
    for row in np.flatnonzero(overlaps.max(axis=1) >= MATCHING_IOU).tolist():
        best = int(np.where(free, overlaps[row], -1).argmax())
        if free[best] and overlaps[row, best] >= MATCHING_IOU:
            partner[row], free[best] = best, False
    return partner


def _figures(objects: int, scores: np.ndarray, hits: np.ndarray, threshold: float) -> ClassFigures:
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(hits[order])
    number = np.arange(1, len(scores) + 1)
    recall, precision = right / max(objects, 1), right / number
    f1 = 2 * right / (number + objects)
    best = int(f1.argmax()) if len(f1) and right[-1] else -1
    above = int((scores > threshold).sum())
    return ClassFigures(
        objects,
        above,
        int(right[above - 1]) if above else 0,
        np.stack([recall, precision, scores], axis=1) if len(scores) else np.zeros((0, 3)),
        None if best < 0 else (float(f1[best]), float(scores[best])),
    )
