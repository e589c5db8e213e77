"""Boxes, masks and areas that contradict each other: told with what the file seems to write, whatever is read of it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalablevit.detection.coco import read_annotations
from scalablevit.detection.coco.run_lengths import decode_runs, run_bounds

WIDTH, HEIGHT = 120, 90


def content() -> dict[str, Any]:
    """Twelve small objects in the upper left of their images: no misread box reaches over the edge."""
    rng = np.random.default_rng(3)
    annotations = []
    for i in range(12):
        left, top = int(rng.integers(25, 45)), int(rng.integers(3, 12))
        width, height = (int(v) for v in rng.integers(8, 25, 2))
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        annotations.append(
            {"id": i + 1, "image_id": i % 4, "category_id": 1, "bbox": [left, top, width, height], "iscrowd": 0,
             "area": width * height, "segmentation": [corners]}
        )  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(4)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}


def runs_of(annotation: dict[str, Any], order: str) -> dict[str, Any]:
    left, top, width, height = annotation["bbox"]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    changes = np.flatnonzero(np.diff(mask.ravel(order=order))) + 1  # type: ignore[call-overload]
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *changes, mask.size]).tolist()}


def read(file: dict[str, Any], folder: Path, *, masks: bool) -> Any:
    path = folder / "a.json"
    path.write_text(json.dumps(file))
    return read_annotations(path, None, masks=masks)


def change(file: dict[str, Any], key: str, of: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    changed = copy.deepcopy(file)
    for annotation in changed["annotations"]:
        annotation[key] = of(copy.deepcopy(annotation))
    return changed


def _box(of: Callable[[int, int, int, int], list[float]]) -> Callable[[dict[str, Any]], Any]:
    return lambda annotation: of(*annotation["bbox"])


BOXES = {
    "corners": (_box(lambda x, y, w, h: [x, y, x + w, y + h]), "corner-boxes", "corners [left, top, right, bottom]"),
    "centres": (_box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]), "centre-boxes", "[centre x, centre y"),
    "swapped": (_box(lambda x, y, w, h: [y, x, h, w]), "swapped-boxes", "[top, left, height, width]"),
    "swapped corners": (_box(lambda x, y, w, h: [y, x, y + h, x + w]), "swapped-boxes", "[top, left, bottom, right]"),
}


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("form", BOXES)
def test_boxes_in_another_form_are_told_by_the_masks(tmp_path: Path, form: str, masks: bool) -> None:
    """Also where masks are not read: the boxes are what a RetinaNet learns from."""
    of, kind, words = BOXES[form]
    found = read(change(content(), "bbox", of), tmp_path, masks=masks)
    assert found.problem_counts[kind] == 1
    (line,) = found.log.describe(kind)
    assert words in line
    assert found.problem_counts["box-off-mask"] == 0  # told once, not for each


def test_corners_are_told_by_the_areas_where_there_are_no_masks(tmp_path: Path) -> None:
    file = change(content(), "segmentation", lambda annotation: [])
    assert not read(file, tmp_path, masks=False).problem_counts
    file = change(file, "bbox", BOXES["corners"][0])
    assert read(file, tmp_path, masks=False).problem_counts == {"corner-boxes": 1}


def _points(of: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any]], Any]:
    return lambda annotation: [of(np.reshape(annotation["segmentation"], (-1, 2))).ravel().tolist()]


MASKS = {
    "fractions": (_points(lambda points: points / [WIDTH, HEIGHT]), "fractions of the image"),
    "runs along the rows": (lambda annotation: runs_of(annotation, "C"), "Fortran's order"),
    "elsewhere": (_points(lambda points: points + 40), "export them again"),
}


@pytest.mark.parametrize("form", MASKS)
def test_masks_in_another_form_are_told_by_the_boxes(tmp_path: Path, form: str) -> None:
    of, words = MASKS[form]
    file = change(content(), "segmentation", of)
    (line,) = read(file, tmp_path, masks=True).log.describe("odd-masks")
    assert words in line
    assert not read(file, tmp_path, masks=False).problem_counts  # nobody asked for the masks


def test_masks_with_y_before_x(tmp_path: Path) -> None:
    """Nobody can tell whether they are swapped or the boxes are."""
    file = change(content(), "segmentation", _points(lambda points: points[:, ::-1]))
    (line,) = read(file, tmp_path, masks=True).log.describe("swapped-boxes")
    assert "or the masks as [y1, x1, ...]" in line


def test_run_lengths_down_the_columns_are_in_order(tmp_path: Path) -> None:
    file = change(content(), "segmentation", lambda annotation: runs_of(annotation, "F"))
    assert not read(file, tmp_path, masks=True).problem_counts


def test_single_boxes_elsewhere_than_their_mask_are_counted(tmp_path: Path) -> None:
    file = content()
    file["annotations"][2]["bbox"] = [80, 60, 20, 20]
    file["annotations"][3]["bbox"][0] += 1  # rounding
    found = read(file, tmp_path, masks=True)
    assert found.problem_counts == {"box-off-mask": 1}
    assert "annotation 3 has the box [80.0, 60.0, 20.0, 20.0]" in found.problems[0].message


@pytest.mark.parametrize(
    "segmentation",
    [{"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, [[500, 500, 520, 500, 520, 520]], [[7, 7, 7, 7, 7, 7]]],
    ids=["no run", "outside", "one point"],
)
def test_a_mask_without_a_pixel_is_told(tmp_path: Path, segmentation: Any) -> None:
    file = content()
    file["annotations"][0]["segmentation"] = segmentation
    found = read(file, tmp_path, masks=True)
    assert found.problem_counts["empty-mask"] == 1


def test_a_mask_that_is_text_is_told(tmp_path: Path) -> None:
    file = change(content(), "segmentation", lambda annotation: json.dumps(annotation["segmentation"]))
    assert read(file, tmp_path, masks=True).problem_counts == {"bad-mask": 12}


def test_bytes_of_a_brush_are_refused_with_the_way_to_decode_them(tmp_path: Path) -> None:
    file = content()
    file["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [0, 0, 1, 52, 128, 9, 255]}
    (line,) = read(file, tmp_path, masks=True).log.describe("bad-mask")
    assert "label_studio_sdk.converter.brush.decode_rle" in line


@pytest.mark.parametrize("seed", range(5))
def test_bounds_of_runs_are_those_of_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 7, 9
    ends = np.sort(rng.choice(height * width, 4, replace=False))
    runs = np.diff([0, *ends, height * width])
    mask = decode_runs(runs, height, width)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    expected = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert run_bounds(runs, height) == expected
