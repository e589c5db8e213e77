"""Average precision equals pycocotools' on the same results, whatever is missing from them."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pycocotools import mask as their_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scalablevit.detection.dataset import DetectionBatch
from scalablevit.detection.evaluate import AveragePrecision, Findings, average_precision, to_stored_frame
from scalablevit.detection.predict import Detection, decode_mask, encode_mask

CATEGORIES = [{"id": i, "name": name} for i, name in ((2, "cat"), (7, "dog"), (40, "absent"), (90, "unfound"))]
SIZE = 220  # so that small, medium and large objects fit in


def ellipse(left: float, top: float, width: float, height: float) -> np.ndarray:
    """(SIZE, SIZE) mask."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    return ((x - left - width / 2) / (width / 2)) ** 2 + ((y - top - height / 2) / (height / 2)) ** 2 <= 1


def random_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and results: hits of all qualities, misses, false alarms, crowds, empty images, equal scores."""
    rng = np.random.default_rng(seed)
    image_ids = [3, 10, 11, 500, 7]
    annotations: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []

    def record(image_id: int, category_id: int, box: np.ndarray, least: float = 0) -> dict[str, Any]:
        return {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box.round(3).tolist(),
            "score": round(float(rng.uniform(least, 1)), 1 if rng.random() < 0.3 else 6),
            "segmentation": encode_mask(ellipse(*box)),
        }

    for image_id in image_ids[:-1]:
        for _ in range(rng.integers(4, 12)):
            sides = rng.choice([12, 50, 110]) * rng.uniform(0.8, 1.3, 2)
            box = np.concatenate([rng.uniform(0, SIZE - sides), sides])
            category_id = int(rng.choice([2, 7, 90]))
            mask = ellipse(*box)
            is_crowd = rng.random() < 0.2
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box.tolist(),
                    "area": float(mask.sum()),
                    "iscrowd": int(is_crowd),
                    "segmentation": encode_mask(mask),
                }
            )
            if category_id != 90:
                noises = rng.choice([0.005, 0.03, 0.15], rng.integers(0, 4))
                hits = [box * rng.normal(1, noise, 4).clip(0.5, 1.5) for noise in noises]
                records += [record(image_id, category_id, hit, least=0.5) for hit in hits]
    for image_id in image_ids:
        for _ in range(10):
            box = np.concatenate([rng.uniform(0, 150, 2), rng.uniform(5, 120, 2)])
            records.append(record(image_id, int(rng.choice([2, 7, 40])), box))
    # more than count
    records += [record(3, 2, np.array([*rng.uniform(0, 150, 2), 20, 20])) for _ in range(120)]
    images = [{"id": i, "width": SIZE, "height": SIZE} for i in image_ids]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}, records


def theirs(truth: dict[str, Any], records: list[dict[str, Any]], kind: str) -> tuple[list[float], np.ndarray]:
    """pycocotools' six figures, and precision of all areas: (thresholds, recalls, classes); -1 is nothing."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        left_out = "segmentation" if kind == "box" else "bbox"
        found = coco.loadRes([{k: v for k, v in record.items() if k != left_out} for record in records])
        evaluation = COCOeval(coco, found, {"box": "bbox", "mask": "segm"}[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6].tolist(), evaluation.eval["precision"][:, :, :, 0, -1]


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", [0, 2, 3])
def test_equal_to_pycocotools(kind: Any, seed: int) -> None:
    truth, records = random_set(seed)
    ours = average_precision(truth, records, kind)
    stats, precision = theirs(truth, records, kind)
    assert min(stats) > 0.01, "no figure is trivial"
    assert list(ours.figures().values()) == pytest.approx(stats, abs=1e-12)
    assert list(ours.per_class) == ["cat", "dog", "absent", "unfound"]
    for k, (ap, ap50) in enumerate(ours.per_class.values()):
        expected = precision[:, :, k]
        if CATEGORIES[k]["name"] == "absent":
            assert (expected == -1).all()
            assert (ap, ap50) == (None, None)
        else:
            assert (ap, ap50) == pytest.approx((expected.mean(), expected[0].mean()), abs=1e-12)
    assert ours.per_class["unfound"] == (0, 0)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_nothing_found_and_nothing_to_find(kind: Any) -> None:
    truth, records = random_set(0)
    assert average_precision(truth, [], kind).figures()["ap"] == 0
    nothing = AveragePrecision(None, None, None, None, None, None, {c["name"]: (None, None) for c in CATEGORIES})
    assert average_precision({**truth, "annotations": []}, records, kind) == nothing
    assert average_precision({**truth, "annotations": []}, [], kind) == nothing
    assert average_precision({**truth, "images": [], "annotations": []}, [], kind) == nothing
    assert json.loads(json.dumps(nothing.to_dict()))["per_class"]["cat"] == {"ap": None, "ap50": None}
    small = [a for a in truth["annotations"] if a["area"] < 32**2]
    only_small = average_precision({**truth, "annotations": small}, records, kind).figures()
    assert only_small["ap_small"] is not None
    assert (only_small["ap_medium"], only_small["ap_large"]) == (None, None)


def test_of_an_image_the_surest_100_of_a_class_count() -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    annotation = {"id": 1, "image_id": 3, "category_id": 2, "bbox": box, "area": 2500.0, "iscrowd": 0}
    truth = {"images": [{"id": 3, "width": SIZE, "height": SIZE}], "annotations": [annotation],
             "categories": CATEGORIES}  # fmt: skip
    hit = {"image_id": 3, "category_id": 2, "bbox": box, "score": 0.1}
    false_alarm = {**hit, "bbox": [100.0, 100.0, 9.0, 9.0], "score": 0.9}
    assert average_precision(truth, [false_alarm] * 99 + [hit], "box").ap == pytest.approx(0.01)
    assert average_precision(truth, [false_alarm] * 100 + [hit], "box").ap == 0


def test_an_annotation_with_the_id_0_is_one_too() -> None:
    truth, records = random_set(0)
    from_0 = {**truth, "annotations": [{**a, "id": a["id"] - 1} for a in truth["annotations"]]}
    assert average_precision(from_0, records, "box") == average_precision(truth, records, "box")
    assert from_0["annotations"][0].keys() == truth["annotations"][0].keys(), "the caller's list is as it was"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_back_into_the_stored_frame(orientation: int) -> None:
    stored = np.zeros((40, 60), np.uint8)
    stored[5:15, 20:50] = 255
    stored[5:30, 20:25] = 255
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image)) > 0
    rows, columns = upright.any(1).nonzero()[0], upright.any(0).nonzero()[0]
    box = (float(columns[0]), float(rows[0]), columns[-1] + 1.0, rows[-1] + 1.0)
    height, width = upright.shape
    detection = Detection(0, "", 1.0, box, encode_mask(upright))
    there, mask = to_stored_frame(detection, orientation, width=width, height=height)
    assert there == (20, 5, 50, 30)
    assert mask is not None
    assert (decode_mask(mask) == (stored > 0)).all()
    boxed = Detection(0, "", 1.0, box)
    assert to_stored_frame(boxed, orientation, width=width, height=height) == (there, None)


def test_masks_are_what_pycocotools_reads() -> None:
    mask = np.random.default_rng(0).random((17, 23)) < 0.5
    code = json.loads(json.dumps(encode_mask(mask)))
    assert (their_mask.decode(code) == mask).all()
    assert (decode_mask(code) == mask).all()
    uncompressed = {"size": [2, 2], "counts": [1, 2, 1]}  # column by column, from zeros on
    assert decode_mask(uncompressed).tolist() == [[False, True], [True, False]]


def batch(orientation: int = 1) -> DetectionBatch:
    """Two images of 30 x 20 pixels, with one between them that cannot be read."""
    return DetectionBatch(
        images=[torch.zeros(3, 20, 30)] * 3,
        targets=[{}, {}, {}],
        image_ids=[5, 6, 9],
        orientations=[orientation] * 3,
        readable=[True, False, True],
        unreadable=["b.png: broken; copy it again"],
    )


def output(*scores: float, label: int = 1) -> dict[str, torch.Tensor]:
    """As Mask R-CNN gives it: label 1 is the first class."""
    masks = torch.zeros(len(scores), 20, 30, dtype=torch.bool)
    masks[:, 2:5, 10:20] = True
    return {
        "boxes": torch.tensor([[10.0, 2, 20, 5.00049]]).repeat(len(scores), 1),
        "scores": torch.tensor(scores),
        "labels": torch.full((len(scores),), label),
        "masks": masks,
    }


def test_findings_become_records_that_pycocotools_loads(tmp_path: Path) -> None:
    findings = Findings()
    findings.add(batch(), [output(0.25, 0.9), output(0.5, label=2)], category_ids=[4, 70], first_label=1)
    findings.add(batch(orientation=6), [output(), output(1.0)], category_ids=[4, 70], first_label=1)
    assert findings.image_ids == [5, 9, 5, 9]
    assert findings.unreadable == ["b.png: broken; copy it again"] * 2
    assert findings.gathered() is findings
    known = [(r["image_id"], r["category_id"], r["score"], r["bbox"]) for r in findings.records]
    assert known == [
        (5, 4, 0.9, [10, 2, 10, 3]),
        (5, 4, 0.25, [10, 2, 10, 3]),
        (9, 70, 0.5, [10, 2, 10, 3]),
        (9, 4, 1.0, [2, 10, 3, 10]),
    ]
    assert findings.records[0]["segmentation"]["size"] == [20, 30]
    assert findings.records[-1]["segmentation"]["size"] == [30, 20]
    (tmp_path / "found.json").write_text(json.dumps(findings.records))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "width": 30, "height": 20} for i in (5, 9)],
            "annotations": [],
            "categories": [{"id": i, "name": str(i)} for i in (4, 70)],
        }
        coco.createIndex()
        loaded = coco.loadRes(str(tmp_path / "found.json"))
    assert len(loaded.anns) == 4


def test_the_order_of_scores_and_their_digits() -> None:
    findings = Findings()
    scores = [0.1, 1 / 3, 0.7]
    findings.add(batch(), [output(*scores), output()], category_ids=[4], first_label=1)
    assert [record["score"] for record in findings.records] == [0.7, 0.333333, 0.1]
