"""Precision, recall, F1 and confusions at IoU 0.5, against counts by hand and against scikit-learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support

from scalablevit.detection.coco import read_annotations
from scalablevit.detection.data import repeat_rare
from scalablevit.detection.matching import matched_figures
from scalablevit.detection.pr_curves import draw_pr_curves

CATEGORIES = [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 11, "name": "$none$\n"}]


def scene(objects: list[tuple[int, float]], found: list[tuple[int, float, float]], crowd: tuple[int, ...] = ()) -> Any:
    """Objects (category, left) and detections (category, left, score) of 10 x 10 pixels."""
    truth = {
        "images": [{"id": 1, "width": 200, "height": 20, "file_name": "1.png"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": c, "bbox": [x, 0, 10, 10], "iscrowd": int(i in crowd)}
            for i, (c, x) in enumerate(objects)
        ],
        "categories": CATEGORIES,
    }
    return truth, [{"image_id": 1, "category_id": c, "bbox": [x, 0, 10, 10], "score": s} for c, x, s in found]


def test_counts_by_hand() -> None:
    figures = matched_figures(
        *scene(
            [(5, 0), (5, 50), (9, 100)],
            [(5, 1, 0.9), (5, 0, 0.8), (9, 50, 0.7), (9, 100, 0.6), (9, 150, 0.55), (5, 50, 0.2)],
        )
    )
    cat, dog, none = figures.per_class.values()
    assert (cat.objects, cat.detections, cat.right) == (2, 2, 1)
    assert (cat.precision, cat.recall, cat.f1) == (0.5, 0.5, 0.5)
    assert (dog.objects, dog.detections, dog.right) == (1, 3, 1)
    assert (none.precision, none.recall, none.f1, none.best_f1) == (None, None, None, None)
    assert figures.confusion.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert cat.curve.tolist() == [[0.5, 1, 0.9], [0.5, 0.5, 0.8], [1, pytest.approx(2 / 3), 0.2]]
    assert cat.best_f1 == (pytest.approx(0.8), 0.2)
    assert json.loads(json.dumps(figures.to_dict()))["confusion"]["classes"][-1] == "background"


def test_missed_objects_and_crowds() -> None:
    figures = matched_figures(*scene([(5, 0), (5, 50)], [(5, 52, 0.9), (5, 54, 0.8), (9, 50, 0.7)], crowd=(1,)))
    assert (figures.per_class["cat"].objects, figures.per_class["cat"].detections) == (1, 0)
    assert figures.confusion[0, 3] == 1, "the object is missed"
    assert figures.confusion[3].tolist() == [0, 1, 0, 0], "another class in a crowd region is false"


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_scikit_learn_where_boxes_coincide(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, predicted = rng.choice([5, 9], 15), rng.choice([5, 9], 15)
    places = np.arange(15) * 12
    truth, found = scene(
        [(int(c), float(x)) for c, x in zip(true, places, strict=True)],
        [(int(c), float(x), 0.9) for c, x in zip(predicted, places, strict=True)],
    )
    figures = list(matched_figures(truth, found).per_class.values())[:2]
    precision, recall, f1, _ = precision_recall_fscore_support(true, predicted, labels=[5, 9], zero_division=np.nan)
    for k, mine in enumerate(figures):
        for value, expected in ((mine.precision, precision[k]), (mine.recall, recall[k]), (mine.f1, f1[k])):
            assert (np.nan if value is None else value) == pytest.approx(expected, nan_ok=True)


def test_curves_are_drawn_whatever_the_names(tmp_path: Path) -> None:
    figures = matched_figures(*scene([(11, 0), (5, 50)], [(11, 0, 0.9), (5, 51, 0.8)]))
    draw_pr_curves(figures, tmp_path / "pr.png")
    with Image.open(tmp_path / "pr.png") as drawn:
        assert drawn.size[0] > 500
    draw_pr_curves(matched_figures(*scene([], [])), tmp_path / "empty.png")


def test_images_with_rare_classes_are_repeated(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(1, 101)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 5 if i > 4 else 9, "bbox": [i % 20, 2, 9, 9]} for i in range(1, 101)
    ]
    content = {"images": images, "annotations": boxes, "categories": CATEGORIES[:2]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    annotations = read_annotations(tmp_path / "a.json", None)
    indices = repeat_rare(annotations, np.arange(100), 0.36, seed=0)
    assert np.bincount(indices).tolist() == [3] * 4 + [1] * 96
    assert indices.tolist() == sorted(indices.tolist())
    assert repeat_rare(annotations, np.arange(100), 0.01, seed=0).tolist() == list(range(100))
    half = repeat_rare(annotations, np.arange(100), 0.04 * 1.5**2, seed=0)
    assert half.tolist() == repeat_rare(annotations, np.arange(100), 0.04 * 1.5**2, seed=0).tolist()
    assert set(np.bincount(half)[:4].tolist()) <= {1, 2}
