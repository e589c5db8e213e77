"""COCO annotation files: what is read, what is cleaned and counted, what is refused."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from scalablevit.detection.coco.annotations import CocoAnnotations
from scalablevit.detection.coco.folder import find_parts
from scalablevit.detection.coco.json_file import CocoError
from scalablevit.detection.coco.orientation import applied_orientation, orient_boxes, orient_mask
from scalablevit.detection.coco.read import read_annotations
from scalablevit.detection.coco.run_lengths import decode_runs, run_lengths
from scalablevit.detection.coco.source import AnnotationSource
from scalablevit.detection.evaluate import average_precision
from scalablevit.detection.predict import encode_mask
from scalablevit.detection.split import read_split

SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]


def image(image_id: int = 1, **changes: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.png", "width": 40, "height": 30, **changes}


def annotation(annotation_id: int = 1, **changes: Any) -> dict[str, Any]:
    box = {"bbox": [10, 10, 10, 10], "area": 100, "iscrowd": 0, "segmentation": SQUARE}
    return {"id": annotation_id, "image_id": 1, "category_id": 7, **box, **changes}


def without(entry: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}


def write(
    path: Path,
    annotations: list[Any] | None = None,
    images: list[Any] | None = None,
    categories: list[Any] | None = None,
) -> Path:
    content = {
        "images": [image()] if images is None else images,
        "annotations": [annotation()] if annotations is None else annotations,
        "categories": [{"id": 7, "name": "ant"}] if categories is None else categories,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.json"


def read(file: Path, *annotations: Any, masks: bool = False, **parts: Any) -> CocoAnnotations:
    return read_annotations(write(file, list(annotations) or None, **parts), None, masks=masks)


def test_checking_needs_no_torch():
    code = "import sys, scalablevit.detection.check; assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_classes_in_the_order_of_their_ids_and_back(file):
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    boxes = [annotation(i, category_id=c) for i, c in enumerate([90, 1, 18, 1])]
    found = read(file, *boxes, categories=categories)
    assert found.class_names == ["person", "dog", "toothbrush"]
    assert found.category_ids == [1, 18, 90]
    assert found.labels.tolist() == [2, 0, 1, 0]
    truth = found.ground_truth()
    assert [a["category_id"] for a in truth["annotations"]] == [90, 1, 18, 1]
    assert truth["categories"][2] == {"id": 90, "name": "toothbrush"}


def test_annotations_are_grouped_by_image_and_crowd_is_apart(file):
    boxes = [
        annotation(1, image_id=5, bbox=[0, 0, 5, 5]),
        annotation(2, image_id=3, bbox=[1, 1, 5, 5], iscrowd=1),
        annotation(3, image_id=5, bbox=[2, 2, 5, 5]),
        annotation(4, image_id=3, bbox=[3, 3, 5, 5]),
    ]
    found = read(file, *boxes, images=[image(3), image(4), image(5)])
    assert len(found) == 3
    assert found.boxes_xyxy(found.rows(0)).tolist() == [[3, 3, 8, 8]]
    assert found.boxes_xyxy(found.rows(0, crowd=True)).tolist() == [[1, 1, 6, 6]]
    assert found.rows(1).tolist() == []
    assert found.boxes_xyxy(found.rows(1)).shape == (0, 4)
    assert found.boxes_xyxy(found.rows(2)).tolist() == [[0, 0, 5, 5], [2, 2, 7, 7]]
    assert found.count_objects(np.array([0, 1, 2])).tolist() == [1, 0, 2]
    assert found.class_counts(np.array([2])).tolist() == [2]
    assert found.problem_counts == {}


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (annotation(2, image_id=99), "unknown-image", "99"),
        (annotation(2, image_id=[1]), "unknown-image", r"\[1\]"),
        (without(annotation(2), "image_id"), "unknown-image", "None"),
        (annotation(2, category_id=8), "unknown-category", "1.png: annotation 2 names the category 8"),
        (without(annotation(2), "category_id"), "unknown-category", "None"),
        (annotation(2, bbox=[1, 2, float("nan"), 4]), "bad-box", "not finite"),
        (annotation(2, bbox=[1, 2, float("inf"), 4]), "bad-box", "not finite"),
        (annotation(2, bbox=[1, 2, 3]), "bad-box", "annotation 2"),
        (annotation(2, bbox=[1, 2, "3", 4]), "bad-box", "annotation 2"),
        (annotation(2, bbox=[1, 2, 10**400, 4]), "bad-box", "annotation 2"),
        (annotation(2, bbox=None), "bad-box", "annotation 2"),
        (without(annotation(2), "bbox", "id"), "bad-box", "annotation number 1 "),
        (annotation(2, bbox=[5, 5, 0, 4]), "empty-box", "1.png: annotation 2 has a box of 0.0 x 4.0 pixels"),
        (annotation(2, bbox=[5, 5, 4, -3]), "empty-box", "-3.0"),
        (annotation(2, bbox=[40, 5, 4, 3]), "outside-box", "40 x 30 pixels"),
        (annotation(2, bbox=[-9, 5, 9, 3]), "outside-box", "1.png"),
        (annotation(2, bbox=[5, 1e300, 4, 3]), "outside-box", "1.png"),
        (annotation(1), "duplicate-annotation", "annotation id 1 is there 2 times"),
        ("annotation", "bad-annotation", "annotation number 1"),
    ],
)
def test_what_cannot_be_used_is_left_out_and_named(file, bad, kind, words):
    found = read(file, annotation(1), bad)
    assert found.problem_counts == {kind: 1}
    assert found.count_objects(np.array([0])) == [1]
    in_truth = 2 if kind in ("empty-box", "outside-box") else 1  # truth is as in the file
    assert len(found.ground_truth()["annotations"]) == in_truth
    (problem,) = found.problems
    assert problem.kind == kind
    assert re.search(words, problem.message), problem.message
    (line,) = found.log.describe()
    assert "a.json: 1 " in line
    assert problem.message in line


def test_boxes_over_the_edge_are_clipped_but_rounding_is_not_touched(file):
    found = read(file, annotation(1, bbox=[-5, -5, 100, 20]), annotation(2, bbox=[30, 20, 10.4, 10.6]))
    assert found.boxes_xyxy(found.rows(0)).tolist() == [[0, 0, 40, 15], [30, 20, 40, 30]]
    truth = [a["bbox"] for a in found.ground_truth()["annotations"]]
    assert truth == [[-5, -5, 100, 20], [30, 20, 10.4, 10.6]]
    assert found.problem_counts == {"clipped-box": 1}
    assert "[-5.0, -5.0, 100.0, 20.0] in an image of 40 x 30" in found.problems[0].message


def test_missing_area_and_iscrowd_are_filled(file):
    plain = without(annotation(1), "area", "iscrowd")
    runs = without(annotation(2, segmentation={"size": [30, 40], "counts": [7, 93, 1100]}), "area")
    found = read(file, plain, runs, annotation(3, area=float("nan")), annotation(4, area=12.5), masks=True)
    assert [a["area"] for a in found.ground_truth()["annotations"]] == [100, 93, 100, 12.5]
    assert [a["iscrowd"] for a in found.ground_truth()["annotations"]] == [0, 0, 0, 0]
    boxes = read(file, without(annotation(1, bbox=[1, 2, 3, 4]), "area", "segmentation"))
    assert [a["area"] for a in boxes.ground_truth()["annotations"]] == [12]


def test_ids_are_made_new_as_the_evaluation_takes_0_for_none(file):
    found = read(file, annotation(0), without(annotation(bbox=[1, 1, 2, 2]), "id"), annotation(0, bbox=[3, 3, 2, 2]))
    assert [a["id"] for a in found.ground_truth()["annotations"]] == [1, 2, 3]
    assert found.problem_counts == {"repeated-annotation-id": 1}


def test_ids_that_stand_for_several_annotations(file, monkeypatch):
    """Every id thrice, mixed: a copy of the first goes, another annotation stays. Looked through once, not per id."""
    searches = []
    search = np.flatnonzero

    def counted(*args: Any) -> np.ndarray:
        searches.append(args)
        return search(*args)

    monkeypatch.setattr(np, "flatnonzero", counted)
    ids = range(500, 0, -1)
    firsts = [annotation(i, bbox=[1, 1, 2, 2]) for i in ids]
    others = [annotation(i, bbox=[3, 3, 2, 2]) for i in reversed(ids)]
    copies = [annotation(i, bbox=[1, 1, 2, 2]) for i in ids]
    found = read(file, *firsts, *others, *copies)
    assert found.problem_counts == {"duplicate-annotation": 500, "repeated-annotation-id": 500}
    assert [box[0] for box in found.boxes_xywh.tolist()] == [1] * 500 + [3] * 500
    assert found.problems[0].message.endswith("1.png: the annotation id 1 is there 3 times")
    assert len(searches) < 50


def test_ground_truth_of_some_images(file):
    images = [image(3), image(4), image(5)]
    found = read(file, annotation(1, image_id=3), annotation(2, image_id=5), images=images)
    truth = found.ground_truth([5, 4])
    assert [i["id"] for i in truth["images"]] == [5, 4]
    assert [a["image_id"] for a in truth["annotations"]] == [5]
    assert json.loads(json.dumps(truth)) == truth
    with pytest.raises(ValueError, match="no image with the id 6"):
        found.ground_truth([6])


def pycoco_mask(segmentation: Any) -> np.ndarray:
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, 30, 40))
    elif isinstance(segmentation["counts"], list):
        code = coco_mask.frPyObjects(segmentation, 30, 40)
    else:
        code = segmentation
    return coco_mask.decode(code)


def test_masks_of_all_forms_equal_pycocotools(file):
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)
    noise = np.asfortranarray(rng.random((30, 40)) < 0.5, dtype=np.uint8)
    compressed = coco_mask.encode(noise)
    forms = [
        [(rng.random(20) * 40).tolist()],
        [*SQUARE, [0, 0, 6.5, 0.3, 3.2, 9]],
        [[-9, -9, 70, 5, 20, 55]],
        {"size": [30, 40], "counts": [5, 100, 1095]},
        {"size": [30, 40], "counts": [0, 1200]},
        {"size": [30, 40], "counts": compressed["counts"].decode()},
    ]
    found = read(file, *(annotation(i, segmentation=form) for i, form in enumerate(forms)), masks=True)
    for row, form in enumerate(forms):
        mask = found.mask(row)
        assert mask.shape == (30, 40)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, pycoco_mask(form), err_msg=str(form))
    for given_form, kept in zip(forms, found.ground_truth()["annotations"], strict=True):
        np.testing.assert_array_equal(pycoco_mask(kept["segmentation"]), pycoco_mask(given_form))
    flat = read(file, annotation(1, segmentation=SQUARE[0]), masks=True)
    np.testing.assert_array_equal(flat.mask(0), pycoco_mask(SQUARE))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_length_code_equals_pycocotools(height, width, seed, share):
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(seed)
    mask = np.asfortranarray(rng.random((height, width)) < share, dtype=np.uint8)
    code = {"size": [height, width], "counts": coco_mask.encode(mask)["counts"].decode()}
    runs = run_lengths(code, width=width, height=height)
    np.testing.assert_array_equal(decode_runs(runs, height, width), mask)


def test_long_runs():
    from pycocotools import mask as coco_mask

    mask = np.zeros((3000, 4000), np.uint8, order="F")
    mask[:, 3000:] = 1
    code = {"size": [3000, 4000], "counts": coco_mask.encode(mask)["counts"].decode()}
    assert run_lengths(code, width=4000, height=3000).tolist() == [9_000_000, 3_000_000]


@pytest.mark.parametrize(
    ("segmentation", "kinds"),
    [
        ([], ["no-mask"]),
        (None, ["no-mask"]),
        ([[1, 1, 5, 5]], ["bad-mask"]),
        ([[1, 1, 5, 5, 8]], ["bad-mask"]),
        ([[1, 1, 5, 5, float("nan"), 1]], ["bad-mask"]),
        ([[1, 1, 5, 5, "8", 1]], ["bad-mask"]),
        ([[[1, 1], [5, 5], [8, 1]]], ["bad-mask"]),
        ({"size": [40, 30], "counts": [0, 1200]}, ["mask-size"]),
        ({"size": [30, 40], "counts": [0, 1201]}, ["bad-mask"]),
        ({"size": [30, 40], "counts": [1201, -1]}, ["bad-mask"]),
        ({"size": [30, 40], "counts": [0.5, 1199.5]}, ["bad-mask"]),
        ({"size": [30, 40], "counts": []}, ["bad-mask"]),
        ({"size": [30, 40], "counts": "P"}, ["bad-mask"]),
        ({"size": [30, 40], "counts": "ö1"}, ["bad-mask"]),
        ({"size": [30, 40], "counts": "oooooooooooooooooo1"}, ["bad-mask"]),
        ({"size": [30, 40]}, ["bad-mask"]),
        ({"counts": [0, 1200]}, ["bad-mask"]),
    ],
)
def test_annotations_without_a_usable_mask(file, segmentation, kinds):
    bad = annotation(2, segmentation=segmentation)
    found = read(file, annotation(1), bad, masks=True)
    assert list(found.problem_counts) == kinds
    assert all("1.png" in problem.message and "annotation 2" in problem.message for problem in found.problems)
    assert found.has_mask(np.array([0, 1])).tolist() == [True, False]
    assert not found.mask(1).any()
    assert len(found.rows(0)) == 2
    assert ["segmentation" in a for a in found.ground_truth()["annotations"]] == [True, False]
    found.require_masks()
    without_masks = read(file, annotation(1), bad)
    assert len(without_masks.labels) == 2
    assert without_masks.problem_counts == {}
    with pytest.raises(CocoError, match=r"none of its 1 annotations has a mask(?s:.*)data.masks=false(?s:.*)mask"):
        read(file, bad, masks=True).require_masks()


def test_one_bad_polygon_does_not_spoil_the_others(file):
    found = read(file, annotation(1, segmentation=[[1, 1, 5, 5], *SQUARE]), annotation(2), masks=True)
    assert found.problem_counts == {"bad-polygon": 1}
    np.testing.assert_array_equal(found.mask(0), found.mask(1))


def test_an_outline_that_runs_far_off_is_drawn_at_once(file):
    outline = [[5, 5, 1e12, 5, 1e12, 1e12, 5, 1e12]]
    found = read(file, without(annotation(1, segmentation=outline), "area"), masks=True)
    assert found.mask(0)[10:, 10:].all()
    truth = found.ground_truth()
    (kept,) = truth["annotations"]
    assert max(map(max, kept["segmentation"])) <= 2 * 40
    assert kept["area"] == (2 * 40 - 5) * (2 * 30 - 5)
    hit = {"image_id": 1, "category_id": 7, "score": 0.5, "segmentation": encode_mask(found.mask(0))}
    assert average_precision(truth, [{**hit, "bbox": [5, 5, 35, 25]}], "mask").ap == 1


def test_masks_must_be_read_to_be_decoded(file):
    with pytest.raises(ValueError, match="masks=True"):
        read(file, annotation(1)).mask(0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [{"id": 1, "file_na', r"a.json: .* cut off: .*line 1, column 23 \(character 22 of 30\).*copy"),
        ('{"images": [\n {"id": 1},', r"cut off.*line 2, column"),
        ('{"images": [{"id": 1, "iscrowd": tr', "cut off"),
        ('{"images": [{"id": 1}', "cut off"),
        ('{"images": [}', "not valid JSON at line 1, column 13"),
        ("", "is empty; copy it again"),
        ("[" * 100_000, "nested too deeply|cut off"),
        ("<html>Not found</html>" + " " * 50, "not valid JSON at line 1, column 1"),
    ],
)
def test_broken_json(file, text, words):
    file.write_text(text)
    with pytest.raises(CocoError, match=words) as error:
        read_annotations(file, None)
    assert error.value.kind == "bad-json"
    assert error.value.path == str(file)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(CocoError, match="no such annotation file"):
        read_annotations(tmp_path / "b.json", None)
    with pytest.raises(CocoError, match="cannot be read"):
        read_annotations(tmp_path, None)
    (tmp_path / "c.json").write_bytes(b"\x1f\x8b\xff")
    with pytest.raises(CocoError, match=r"not UTF-8 text \(byte 1\)"):
        read_annotations(tmp_path / "c.json", None)
    (tmp_path / "d.json").write_text("\ufeff" + write(tmp_path / "e.json").read_text(), encoding="utf-8")
    assert len(read_annotations(tmp_path / "d.json", None)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"image_id": 1, "score": 0.5}], r"a list of 1 \(it seems to hold results of a detector\)"),
        ({"shapes": [], "imagePath": ""}, r"looks like labelme; convert its polygons"),
        ({"images": [image()], "categories": [{"id": 1}]}, "no list 'annotations'"),
        ({"images": {}, "annotations": [], "categories": []}, "no list 'images'"),
        ({"images": [], "annotations": [], "categories": [{"id": 1}]}, "'images' is empty"),
        ({"images": [image()], "annotations": [], "categories": []}, "'categories' is empty"),
        ({"images": [image()], "annotations": [], "categories": [{"id": 1}]}, "'annotations' is empty"),
        (
            {"images": [image()], "annotations": [], "categories": [{"name": "ant"}]},
            "no whole number or text for an id",
        ),
        ({"images": [{"id": "one"}], "annotations": [], "categories": [{"id": 1}]}, "none of its 1 images"),
        ("text", "holds 'text'"),
    ],
)
def test_json_that_is_no_coco(file, content, words):
    file.write_text(json.dumps(content))
    with pytest.raises(CocoError, match=words):
        read_annotations(file, None)


def test_no_annotation_can_be_used(file):
    with pytest.raises(CocoError, match=r"none of its 2 annotations can be used:\n.*2 annotations name a category"):
        read(file, annotation(1, category_id=0), annotation(2, category_id=0))


def test_image_entries(file):
    images = [image(1), image(1), image(2, file_name=""), {"id": 3}, image(4, file_name="x\0"), "image", image(True)]
    images += [image(5, file_name="\ud800.png"), image(6, file_name="1.png"), image(7.0)]
    found = read(file, images=images)
    assert found.image_ids.tolist() == [1, 7]
    assert found.problem_counts == {"duplicate-image": 1, "bad-image": 6, "repeated-file": 1}
    with pytest.raises(CocoError, match=r"image id 1 stands for 1.png and for b.png"):
        read(file, images=[image(1), image(1, file_name="b.png")])


def test_categories(file):
    twins = [{"id": 7, "name": "ant"}, {"id": 9, "name": "ant"}, {"id": 7, "name": "ant"}, {"id": 10}]
    found = read(file, categories=twins)
    assert found.class_names == ["ant (7)", "ant (9)", "10"]
    assert found.problem_counts == {"shared-name": 1, "unused-category": 2}
    with pytest.raises(CocoError, match="category id 7 stands for 'ant' and for 'bee'"):
        read(file, categories=[{"id": 7, "name": "ant"}, {"id": 7, "name": "bee"}])


def test_many_problems_are_counted_and_not_all_kept(file):
    found = read(file, annotation(1), *(annotation(i, bbox=[0, 0, 0, 0]) for i in range(2, 1503)))
    assert found.problem_counts == {"empty-box": 1501}
    assert len(found.problems) == 1000
    assert "1,501 boxes have no area" in found.log.describe()[0]


def draw(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def test_missing_files_and_sizes(tmp_path):
    images = [without(image(1), "width"), image(2), image(3, width=-1), image(4, width=0)]
    file = write(tmp_path / "a.json", [annotation(1, bbox=[0, 0, 45, 5])], images)
    draw(tmp_path / "1.png", (50, 20))
    (tmp_path / "4.png").write_bytes(b"no image")
    found = read_annotations(file, tmp_path)
    assert found.present.tolist() == [True, False, False, False]
    assert found.sizes[0].tolist() == [50, 20]
    assert found.problem_counts == {"missing-file": 2, "missing-size": 1, "bad-image": 1}
    assert any("2.png: there is no such file" in problem.message for problem in found.problems)
    assert found.boxes_xyxy(found.rows(0)).tolist() == [[0, 0, 45, 5]]
    assert [entry["id"] for entry in found.ground_truth()["images"]] == [1]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_size_from_the_file_follows_the_frame(tmp_path, suffix, orientation):
    """Where the annotations do not tell the size, the file's cannot tell what they count in."""
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = orientation
    turned.save(tmp_path / f"1{suffix}", exif=exif)
    draw(tmp_path / "2.png")
    images = [without(image(1, file_name=f"1{suffix}"), "width", "height"), image(2)]
    file = write(tmp_path / "a.json", [annotation(1, bbox=[1, 1, 28, 35])], images)
    for frame in ("auto", "stored", "upright"):
        found = read_annotations(file, tmp_path, annotation_frame=frame)
        assert found.size_from_file.tolist() == [True, False]
        is_turned = frame == "upright" and orientation >= 5
        assert found.sizes.tolist() == [[30, 40] if is_turned else [40, 30], [40, 30]]
        assert found.boxes_xyxy(np.array([0])).tolist() == [[1, 1, 29, 36] if is_turned else [1, 1, 29, 30]]
        size = (int(found.sizes[0, 0]), int(found.sizes[0, 1]))
        turn = 1 if frame == "upright" else orientation
        assert applied_orientation(size, (40, 30), orientation, frame=frame) == turn


def test_a_damaged_exif_block_turns_nothing(tmp_path, monkeypatch):
    def broken(self: Image.Image) -> None:
        raise SyntaxError("not a TIFF file")

    draw(tmp_path / "1.png")
    file = write(tmp_path / "a.json", images=[without(image(1), "width")])
    monkeypatch.setattr(Image.Image, "getexif", broken)
    assert read_annotations(file, tmp_path, annotation_frame="upright").sizes.tolist() == [[40, 30]]


def test_a_conflict_of_sizes_names_its_remedy(file):
    found = read(file)
    small = found.size_conflict(0, (20, 15), 6)
    assert "20 x 15 pixels, but" in small
    assert small.endswith("put the original image back, or export the annotations again")
    assert found.size_conflict(0, (20, 15), 6, frame="stored") == small
    turned = found.size_conflict(0, (40, 30), 6, frame="upright")
    assert "EXIF orientation 6 turns to 30 x 40" in turned
    assert "annotation_frame 'upright'" in turned
    assert "set annotation_frame to 'auto'" in turned
    assert "set annotation_frame" in found.size_conflict(0, (30, 40), 6, frame="stored")


def test_the_folder_with_the_images_is_taken(tmp_path):
    names = ["C:\\data\\1.png", "/elsewhere/train/2.png"]
    images = [image(i, file_name=name) for i, name in enumerate(names, 1)]
    file = write(tmp_path / "a.json", images=images)
    (tmp_path / "wrong").mkdir()
    for name in ("1.png", "2.png"):
        draw(tmp_path / "right" / name)
    found = read_annotations(file, [tmp_path / "wrong", tmp_path / "right"])
    assert found.image_folder == tmp_path / "right"
    assert found.file(0) == tmp_path / "right" / "1.png"
    assert found.present.all()
    with pytest.raises(CocoError, match=r"none of its 2 image files is there.*looked in .*wrong"):
        read_annotations(file, tmp_path / "wrong")


def test_validation_classes_are_matched_by_name(tmp_path):
    train = read_annotations(
        write(tmp_path / "t.json", categories=[{"id": 7, "name": "ant"}, {"id": 8, "name": "bee"}]), None
    )
    val_file = write(
        tmp_path / "v.json",
        [annotation(1, category_id=7), annotation(2, category_id=3)],
        categories=[{"id": 3, "name": "ant"}, {"id": 7, "name": "bee"}, {"id": 9, "name": "unused"}],
    )
    val = read_annotations(val_file, None, like=train)
    assert val.class_names == ["ant", "bee"]
    assert val.category_ids == [3, 7]
    assert val.labels.tolist() == [1, 0]
    assert [a["category_id"] for a in val.ground_truth()["annotations"]] == [7, 3]

    write(val_file, [annotation(1, category_id=7)], categories=[{"id": 7, "name": "bee"}])
    val = read_annotations(val_file, None, like=train)
    assert val.labels.tolist() == [1]
    assert val.category_ids[1] == 7
    assert val.category_ids[0] not in (7, 8)

    write(val_file, categories=[{"id": 7, "name": "wasp"}])
    with pytest.raises(CocoError, match=r"v.json: it has boxes of 1 categories that .*t.json lacks: 'wasp'"):
        read_annotations(val_file, None, like=train)


LAYOUTS = {
    "coco": ("annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017"),
    "plain": ("annotations/train.json", "images/train", "annotations/val.json", "images/val"),
    "digit scenes": ("annotations/instances_train.json", "train", "annotations/instances_val.json", "val"),
    "roboflow": ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
    "one folder": ("train.json", "images", "val.json", "images"),
    "beside": ("training/labels.json", "training/images", "test/labels.json", "test/images"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path, layout):
    train, train_images, val, val_images = layout
    write(tmp_path / train, images=[image(1), image(2)], annotations=[annotation(1), annotation(2, image_id=2)])
    write(tmp_path / val, images=[image(3)], annotations=[annotation(1, image_id=3)])
    for i in (1, 2):
        draw(tmp_path / train_images / f"{i}.png")
    draw(tmp_path / val_images / "3.png")
    write(tmp_path / "annotations" / "captions_train2017.json")
    write(tmp_path / "annotations" / "person_keypoints_val2017.json")
    split = read_split(tmp_path, AnnotationSource())
    assert split.train.file(0) == tmp_path / train_images / "1.png"
    assert split.val.file(0) == tmp_path / val_images / "3.png"
    assert (len(split.train_indices), len(split.val_indices)) == (2, 1)
    assert not split.is_split


@pytest.mark.parametrize("name", ["result.json", "annotations/instances_default.json", "train/labels.json"])
def test_one_file_is_split_by_a_hash(tmp_path, name):
    images = [image(i) for i in range(1, 21)]
    file = write(tmp_path / name, [annotation(i, image_id=i) for i in range(1, 21)], images)
    for i in range(1, 20):  # the last is missing
        draw(tmp_path / "images" / f"{i}.png")
    split = read_split(tmp_path, AnnotationSource(val_fraction=0.2))
    assert split.is_split
    assert len(split.val_indices) == 4
    assert sorted([*split.train_indices, *split.val_indices]) == list(range(19))
    again = read_split(file, AnnotationSource(train_images=tmp_path / "images", val_fraction=0.2))
    assert again.val_indices.tolist() == split.val_indices.tolist()
    with pytest.raises(ValueError, match="val_fraction"):
        AnnotationSource(val_fraction=1.0)


def test_one_image_is_too_few_to_split(tmp_path):
    write(tmp_path / "a.json")
    draw(tmp_path / "1.png")
    with pytest.raises(CocoError, match="too few to set any aside"):
        read_split(tmp_path, AnnotationSource())


def test_named_files_and_folders(tmp_path):
    write(tmp_path / "x.json")
    other = write(tmp_path / "y" / "z.json")
    draw(tmp_path / "p" / "1.png")
    names = {"train_annotations": "x.json", "val_annotations": str(other), "train_images": "p"}
    train, val = find_parts(tmp_path, **names)
    assert val is not None
    assert (train.annotations, val.annotations) == (tmp_path / "x.json", other)
    assert train.image_folders == [tmp_path / "p"]
    with pytest.raises(CocoError, match=r"q: there is no such folder.*check train_images"):
        find_parts(tmp_path, train_annotations="x.json", train_images="q")
    with pytest.raises(CocoError, match=r"w.json: there is no such file.*check val_annotations"):
        find_parts(tmp_path, val_annotations="w.json")


def test_folders_without_a_clear_annotation_file(tmp_path):
    with pytest.raises(CocoError, match="does not exist"):
        find_parts(tmp_path / "nowhere")
    with pytest.raises(CocoError, match=r"no annotation file for training was found; looked for \*.json"):
        find_parts(tmp_path)
    (tmp_path / "classes.json").write_text("[]")
    with pytest.raises(CocoError, match="no annotation file for training was found"):
        find_parts(tmp_path)
    write(tmp_path / "val.json")
    with pytest.raises(CocoError, match=r"only .*val.json, which seems to be for validation"):
        find_parts(tmp_path)
    write(tmp_path / "train_a.json")
    write(tmp_path / "train_b.json")
    with pytest.raises(CocoError, match=r"train_a.json, train_b.json; name one with train_annotations"):
        find_parts(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_and_masks_turn_as_pillow_turns_images(orientation):
    stored = np.zeros((20, 30), np.uint8)
    stored[3:8, 10:12] = 1
    turned = Image.fromarray(stored)
    turned.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(turned))
    np.testing.assert_array_equal(orient_mask(stored, orientation), upright)
    ((left, top, right, bottom),) = orient_boxes(np.array([[10, 3, 12, 8]]), (30, 20), orientation).tolist()
    expected = np.zeros_like(upright)
    expected[top:bottom, left:right] = 1
    np.testing.assert_array_equal(upright, expected)


def test_which_pixels_the_annotations_count_in():
    # (annotated size, stored size, EXIF orientation)
    assert applied_orientation((40, 30), (40, 30), 1) == 1
    assert applied_orientation((40, 30), (40, 30), 6) == 6
    assert applied_orientation((30, 40), (40, 30), 6) == 1
    assert applied_orientation((40, 30), (40, 30), 3) == 3
    assert applied_orientation((40, 30), (40, 30), 3, frame="upright") == 1
    assert applied_orientation((40, 40), (40, 40), 8) == 8
    assert applied_orientation((40, 30), (40, 30), 6, frame="upright") is None
    assert applied_orientation((30, 40), (40, 30), 6, frame="stored") is None
    assert applied_orientation((30, 40), (40, 30), 1) is None
    assert applied_orientation((80, 60), (40, 30), 1) is None


def test_it_survives_pickling(file):
    found = read(file, annotation(1), masks=True)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.mask(0), found.mask(0))
    assert again.ground_truth() == found.ground_truth()
