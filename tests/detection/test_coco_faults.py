"""Annotation files as other tools and other people write them: what they mean is understood, or named."""

import contextlib
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalablevit.detection import CocoData
from scalablevit.detection.average_precision import average_precision
from scalablevit.detection.check import check_coco
from scalablevit.detection.coco import AnnotationSource, CocoError, read_annotations
from scalablevit.detection.coco.image_files import locate_images
from scalablevit.detection.coco.join import read_joined
from scalablevit.detection.split import read_split

SIZE = (128, 96)


def scenes(number: int = 6, *, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """COCO annotations of `number` images with three boxes each, all in order."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, number + 1):
        images.append({"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]})
        for _ in range(3):
            width, height = (int(v) for v in rng.integers(10, 30, 2))
            left, top = int(rng.integers(0, size[0] - width)), int(rng.integers(0, size[1] - height))
            corners = [left, top, left + width, top, left + width, top + height, left, top + height]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "category_id": 1 + len(annotations) % 2, "iscrowd": 0,
                 "bbox": [left, top, width, height], "area": width * height, "segmentation": [corners]}
            )  # fmt: skip
    categories = [{"id": 1, "name": "box"}, {"id": 2, "name": "disc"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def save(content: dict[str, Any], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def draw(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def detections(truth: dict[str, Any], shift: float = 0.0) -> list[dict[str, Any]]:
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9 - i / 100,
         "bbox": [a["bbox"][0] + shift, *a["bbox"][1:]]}
        for i, a in enumerate(truth["annotations"])
    ]  # fmt: skip


def pycoco_ap(truth: dict[str, Any], found: list[dict[str, Any]], max_detections: int = 100) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = json.loads(json.dumps({"info": {}, **truth}))
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(found))), "bbox")
    evaluation.params.maxDets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    return float(precision[precision > -1].mean())


@pytest.mark.parametrize("renamed", [lambda i: i + 2**53, lambda i: i - 2**62, lambda i: -i, lambda i: f"scene {i}"])
def test_ids_of_any_kind_measure_the_same(tmp_path: Path, renamed: Any) -> None:
    truth = scenes()
    expected = average_precision(truth, detections(truth, 3), "box")
    for kind in ("image", "category", ""):
        content = scenes()
        for entry in content["images"] if kind == "image" else content["categories"] if kind == "category" else []:
            entry["id"] = renamed(entry["id"])
        for entry in content["annotations"]:
            key = f"{kind}_id" if kind else "id"
            entry[key] = renamed(entry[key])
        read = read_annotations(save(content, tmp_path / "a.json"), None)
        assert read.problem_counts == {}
        found = detections(content, 3)
        assert average_precision(read.ground_truth(), found, "box") == expected
        assert {a["image_id"] for a in read.ground_truth()["annotations"]} == {i["id"] for i in content["images"]}


def test_ids_written_as_text_on_one_side_only(tmp_path: Path) -> None:
    content = scenes()
    for entry in content["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    assert len(read_annotations(save(content, tmp_path / "a.json"), None).labels) == 18


def test_truth_is_as_in_the_file_and_only_training_clips(tmp_path: Path) -> None:
    content = scenes()
    for annotation in content["annotations"][::2]:
        annotation["bbox"][2] += 100
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    content["annotations"].append({**content["annotations"][0], "id": 99, "bbox": [300, 5, 9, 9], "area": 81})
    content["annotations"].append({**content["annotations"][0], "id": 98, "bbox": [5, 5, 0, 9], "area": 0})
    read = read_annotations(save(content, tmp_path / "a.json"), None)
    found = detections(scenes(), 2)
    assert average_precision(read.ground_truth(), found, "box").ap == pytest.approx(pycoco_ap(content, found))
    rows = np.concatenate([read.rows(i) for i in range(len(read))])
    assert len(rows) == 18
    assert read.boxes_xyxy(rows).max(axis=0).tolist() <= [128, 96, 128, 96]


def test_an_object_without_a_mask_counts_for_boxes_and_is_ignored_for_masks(tmp_path: Path) -> None:
    whole = scenes()
    content = scenes()
    for annotation in content["annotations"][::2]:
        annotation["segmentation"] = []
    read = read_annotations(save(content, tmp_path / "a.json"), None, masks=True)
    truth = read.ground_truth()
    found = detections(whole)
    assert average_precision(truth, found, "box").ap == pytest.approx(1)
    masks = [{**d, "segmentation": a["segmentation"]} for d, a in zip(found, whole["annotations"], strict=True)]
    read_whole = read_annotations(save(whole, tmp_path / "b.json"), None, masks=True).ground_truth()
    for entry, mask in zip(masks, read_whole["annotations"], strict=True):
        from faster_coco_eval import mask as coco_mask

        code = coco_mask.merge(coco_mask.frPyObjects(mask["segmentation"], SIZE[1], SIZE[0]))
        entry["segmentation"] = {"size": list(code["size"]), "counts": code["counts"].decode()}
    assert average_precision(truth, masks, "mask").ap == pytest.approx(1), "neither found nor false"
    assert read.count_objects(np.arange(6)).tolist() == [3] * 6


def test_more_than_a_hundred_detections_count_where_the_network_gives_them() -> None:
    boxes = [[20 * (i % 30), 20 * (i // 30), 10, 10] for i in range(260)]
    truth = {
        "images": [{"id": 1, "file_name": "1.png", "width": 640, "height": 480}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    found = detections({"annotations": truth["annotations"]})
    assert average_precision(truth, found, "box").ap == pytest.approx(pycoco_ap(truth, found))
    of_all = average_precision(truth, found, "box", max_detections=600)
    assert of_all.ap == pytest.approx(1)
    assert of_all.to_dict()["max_detections"] == 600


def fractions(annotation: dict[str, Any]) -> list[float]:
    left, top, width, height = annotation["bbox"]
    return [left / 128, top / 96, width / 128, height / 96]


def corners(annotation: dict[str, Any]) -> list[float]:
    left, top, width, height = annotation["bbox"]
    return [left, top, left + width, top + height]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (fractions, "fraction-boxes", "fractions of the image.*multiply"),
        (corners, "corner-boxes", r"corners \[left, top, right, bottom\].*subtract"),
        (lambda a: [5, 5, 20, 20], "same-boxes", "are the same"),
        (lambda a: [a["bbox"][0], a["bbox"][1], 1.2, 1.1], "tiny-boxes", "smaller than 2 pixels"),
        (lambda a: [0, 0, 128, 96], "whole-boxes", "covers its whole image"),
    ],
)
def test_boxes_that_are_something_else_are_recognised(tmp_path: Path, change: Any, kind: str, words: str) -> None:
    content = scenes()
    for i, annotation in enumerate(content["annotations"]):
        annotation["bbox"] = change(annotation)
        if kind == "whole-boxes":
            annotation["bbox"][2] -= i % 2 / 2
    save(content, tmp_path / "a.json")
    for i in range(1, 7):
        draw(tmp_path / f"{i}.png", seed=i)
    report = check_coco(tmp_path)
    (message,) = (problem.message for problem in report.problems if problem.kind == kind)
    import re

    assert re.search(words, message)
    if kind == "fraction-boxes":
        assert not report.ok
        with pytest.raises(CocoError, match="fractions"):
            read_annotations(tmp_path / "a.json", tmp_path)
    else:
        assert kind in read_annotations(tmp_path / "a.json", tmp_path).problem_counts


def test_boxes_in_order_raise_no_suspicion(tmp_path: Path) -> None:
    assert read_annotations(save(scenes(), tmp_path / "a.json"), None).problem_counts == {}


def test_percentages_and_ids_that_are_one_off(tmp_path: Path) -> None:
    content = scenes(size=(640, 480))
    for annotation in content["annotations"]:
        left, top, width, height = annotation["bbox"]
        annotation["bbox"] = [left / 6.4, top / 4.8, width / 6.4, height / 4.8]
    content["annotations"][0]["bbox"] = [80, 80, 19, 19]
    assert "percent-boxes" in read_annotations(save(content, tmp_path / "a.json"), None).problem_counts
    content = scenes()
    for annotation in content["annotations"]:
        annotation["category_id"] -= 1
    (line,) = read_annotations(save(content, tmp_path / "b.json"), None).log.describe("shifted-ids")
    assert "categories: the ids of the annotations seem to start at 0" in line
    content = scenes()
    for annotation in content["annotations"]:
        annotation["image_id"] += 1
    content["annotations"][0]["image_id"] += 1
    (line,) = read_annotations(save(content, tmp_path / "c.json"), None).log.describe("shifted-ids")
    assert "images: the ids of the annotations seem to start at 1" in line


def test_swapped_width_and_height_are_named(tmp_path: Path) -> None:
    content = scenes(1)
    content["images"][0].update(width=96, height=128)
    content["annotations"] = content["annotations"][:1]
    content["annotations"][0]["bbox"] = [1, 1, 20, 20]
    read = read_annotations(save(content, tmp_path / "a.json"), None)
    assert "seem to be swapped" in read.size_conflict(0, (128, 96))


# (on disk, in the annotations)
NAMES = {
    "address": ("01.png", "https://host.org/set/01.png?token=a/b"),
    "local files of Label Studio": ("up/1/im 01.png", "/data/local-files/?d=up/1/im%2001.png"),
    "spaces": ("01.png", " 01.png "),
    "another project's folder": ("images/01.png", "..\\..\\label\\upload\\4\\01.png"),
    "the folder's own name": ("images/01.png", "images\\01.png"),
    "percent": ("images/photo: 01.png", "images/photo%3A%2001.png"),
    "decomposed": (f"images/{unicodedata.normalize('NFD', 'Bär')}1.png", "images/Bär1.png"),
    "composed": ("images/Bär1.png", f"{unicodedata.normalize('NFD', 'Bär')}1.png"),
    "case": ("images/01.PNG", "images/01.png"),
    "absolute": ("images/cam1/01.png", "/home/u/set/images/cam1/01.png"),
    "drive": ("images/cam1/01.png", "D:\\set\\cam1\\01.png"),
    "percent that is meant": ("images/100%25.png", "100%25.png"),
}


@pytest.mark.parametrize(("on_disk", "in_file"), NAMES.values(), ids=NAMES)
def test_names_of_other_systems_and_tools(tmp_path: Path, on_disk: str, in_file: str) -> None:
    draw(tmp_path / on_disk)
    found = locate_images([in_file], [tmp_path / "images", tmp_path])
    assert found.present.tolist() == [True]
    assert os.path.samefile(found.folder / found.names[0], tmp_path / on_disk)


def test_the_longest_part_of_a_path_decides(tmp_path: Path) -> None:
    for camera in ("cam0", "cam1"):
        draw(tmp_path / "images" / camera / "00.png")
    names = [f"/home/u/set/{camera}/00.png" for camera in ("cam1", "cam0")]
    found = locate_images(names, [tmp_path / "images"])
    assert found.names == ["cam1/00.png", "cam0/00.png"]


def test_two_images_that_share_a_last_name_are_not_trained_as_one(tmp_path: Path) -> None:
    content = scenes()
    for i, entry in enumerate(content["images"]):
        entry["file_name"] = f"/home/u/cam{i % 2}/{i // 2:02d}.png"
    content["images"][5]["file_name"] = "/home/u/cam1/alone.png"
    for name in ("00", "01", "02", "alone"):
        draw(tmp_path / "images" / f"{name}.png")
    read = read_annotations(save(content, tmp_path / "a.json"), tmp_path / "images")
    assert read.problem_counts["ambiguous-file"] == 4
    assert read.present.tolist() == [False, False, False, False, True, True]
    content["images"] = content["images"][:4]
    content["annotations"] = content["annotations"][:12]
    with pytest.raises(CocoError, match=r"share one file(?s:.*)restore the folders"):
        read_annotations(save(content, tmp_path / "a.json"), tmp_path / "images")


def test_a_missing_image_is_named_with_what_is_there(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "other.png")
    with pytest.raises(CocoError, match=r"none of its 6 image files is there, such as 1.png.*there is .*other.png"):
        read_annotations(save(scenes(), tmp_path / "a.json"), tmp_path / "images")


def test_entries_of_one_file_are_one_image(tmp_path: Path) -> None:
    """An entry of 'images' for each object: flat tables become COCO like this."""
    content = scenes(21)
    entries = {entry["id"]: entry for entry in content["images"]}
    images = []
    for k, annotation in enumerate(content["annotations"], 1):
        images.append({**entries[annotation["image_id"]], "id": k})
        annotation["image_id"] = k
    content["images"] = images
    for i in range(1, 22):
        draw(tmp_path / "images" / f"{i}.png", seed=i)
    content["annotations"].append({**content["annotations"][0], "id": 1000, "image_id": 2})
    save(content, tmp_path / "a.json")
    split = read_split(tmp_path, AnnotationSource(val_fraction=0.13))
    train, val = ({split.train.file_name(i) for i in part} for part in (split.train_indices, split.val_indices))
    assert len(train) + len(val) == 21
    assert not train & val
    assert split.train.count_objects(np.arange(21)).tolist() == [3] * 21
    assert split.train.problem_counts == {"repeated-file": 21, "duplicate-annotation": 1}


def test_images_of_which_nothing_can_be_learnt_are_no_background(tmp_path: Path) -> None:
    content = scenes(4)
    content["images"].append({"id": 5, "file_name": "5.png", "width": 128, "height": 96})
    content["annotations"] = content["annotations"][:9]
    for annotation in content["annotations"][:3]:
        annotation["iscrowd"] = 1
    for annotation in content["annotations"][3:6]:
        annotation["category_id"] = 77
    read = read_annotations(save(content, tmp_path / "a.json"), None)
    assert read.unlearnable().tolist() == [True, True, False, False, False], "the last two are empty, and say so"
    assert read.problem_counts["only-crowd"] == read.problem_counts["nothing-left"] == 1
    for annotation in content["annotations"]:
        annotation.update(iscrowd=1, category_id=1)
    content["annotations"][-1]["iscrowd"] = 0
    assert "crowd-outline" in read_annotations(save(content, tmp_path / "a.json"), None).problem_counts


def as_text_of_bytes(annotation: dict[str, Any]) -> Any:
    return {"size": [96, 128], "counts": "b'PP1'"}


def as_points(annotation: dict[str, Any]) -> Any:
    outline = annotation["segmentation"][0]
    return [[[outline[i], outline[i + 1]] for i in range(0, len(outline), 2)]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (as_text_of_bytes, "bytes written by str"),
        (as_points, r"points in lists of their own: write \[x1, y1"),
        (lambda a: {"size": [128, 96], "counts": [128 * 96]}, r"these are \[width, height\]: swap them"),
        (lambda a: [{"size": [96, 128], "counts": [128 * 96]}], "a run-length code in a list"),
    ],
)
def test_masks_that_are_all_damaged_are_explained(tmp_path: Path, change: Any, words: str) -> None:
    content = scenes()
    for annotation in content["annotations"]:
        annotation["segmentation"] = change(annotation)
    save(content, tmp_path / "a.json")
    for i in range(1, 7):
        draw(tmp_path / f"{i}.png", seed=i)
    report = check_coco(tmp_path)
    assert not report.ok
    assert sum(report.counts.values()) == 18
    import re

    assert re.search(words, report.to_text())
    with pytest.raises(CocoError, match=rf"none of its 18 annotations has a mask(?s:.*){words}"):
        read_annotations(tmp_path / "a.json", tmp_path, masks=True).require_masks()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [{"id": ' + "1" * 5000 + "}]}", "number of thousands of digits"),
        ('{"a": ' + '[' * 900 + ']' * 900 + "}", "no list 'images'"),
        ('{"images": [], "images": [], "annotations": [], "categories": []}', "key 'images' twice"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "categories": [{"id": 1}], '
            '"annotations": [{"bbox": [1,2,3,4], "bbox": []}]}',
            "key 'bbox' twice",
        ),
    ],
    ids=["digits", "nested", "lists twice", "boxes twice"],
)  # fmt: skip
def test_json_that_no_tool_should_write(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CocoError, match=words):
        read_annotations(tmp_path / "a.json", None)


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), -(10**19), [[[[1]]]], {"a": 1}, "x" * 10**5])
def test_any_value_anywhere_is_counted_or_refused(tmp_path: Path, value: Any) -> None:
    for part, keys in (
        ("images", ("id", "file_name", "width", "height")),
        ("annotations", ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")),
        ("categories", ("id", "name")),
    ):
        for key in keys:
            content = scenes(2)
            content[part][0][key] = value
            save(content, tmp_path / "a.json")
            with contextlib.suppress(CocoError):
                read = read_annotations(tmp_path / "a.json", None, masks=True)
                assert len(read.labels) >= 2
                average_precision(read.ground_truth(), [], "box")


def test_other_encodings_and_things_that_are_no_files(tmp_path: Path) -> None:
    text = json.dumps(scenes())
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "a.json").write_text(text, encoding=encoding)
        assert len(read_annotations(tmp_path / "a.json", None).labels) == 18
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(CocoError, match="no regular file, but a pipe"):
        read_annotations(tmp_path / "pipe.json", None)


def test_class_names_are_one_line_and_may_be_numbers(tmp_path: Path) -> None:
    content = scenes()
    content["categories"] = [{"id": 1, "name": "box\n\r\tred "}, {"id": 2, "name": 0}]
    assert read_annotations(save(content, tmp_path / "a.json"), None).class_names == ["box red", "0"]


def test_several_files_are_put_together(tmp_path: Path) -> None:
    first, second = scenes(), scenes()
    second["categories"] = [{"id": 1, "name": "disc"}, {"id": 2, "name": "moon"}]
    for entry in second["images"]:
        entry["file_name"] = f"b{entry['file_name']}"
    files = [save(first, tmp_path / "a.json"), save(second, tmp_path / "b.json")]
    read = read_annotations(files[0], None, lists=read_joined(files))
    assert read.class_names == ["box", "disc", "moon"]
    assert len(read) == 12
    assert read.image_id(6) == "b.json:1"
    assert np.bincount(read.labels).tolist() == [9, 18, 9]
    assert read.problem_counts == {}
    for i in range(1, 7):
        draw(tmp_path / "images" / f"{i}.png", seed=i)
        draw(tmp_path / "images" / f"b{i}.png", seed=10 + i)
    split = read_split(tmp_path, AnnotationSource(train_annotations=("a.json", "b.json")))
    assert len(split.train) == 12


def test_ids_that_a_file_does_not_list_are_not_those_of_another(tmp_path: Path) -> None:
    first, second = scenes(), scenes()
    second["images"] = [{**entry, "id": entry["id"] + 100} for entry in second["images"]]
    for i, entry in enumerate(second["images"]):
        entry["file_name"] = f"b{i}.png"
    for annotation in second["annotations"][2:]:
        annotation["image_id"] += 100
    second["annotations"][2]["category_id"] = 77
    first["categories"].append({"id": 77, "name": "moon"})
    files = [save(first, tmp_path / "a.json"), save(second, tmp_path / "b.json")]
    read = read_annotations(files[0], None, lists=read_joined(files))
    assert read.problem_counts["unknown-image"] == 2
    assert read.problem_counts["unknown-category"] == 1
    assert len(read.labels) == len(first["annotations"]) + len(second["annotations"]) - 3


def _shift_boxes(content: Any) -> None:
    for annotation in content["annotations"]:
        left, top, width, height = annotation["bbox"]
        annotation["bbox"] = [left + 20, top + 15, left + width, top + height]


def _repeat_annotation(content: Any) -> None:
    content["annotations"].append(dict(content["annotations"][0]))


def _share_annotation_id(content: Any) -> None:
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


def _lose_sizes(content: Any) -> None:
    for entry in content["images"]:
        del entry["width"]


def _crowd(content: Any) -> None:
    for annotation in content["annotations"][1:]:
        annotation.update(iscrowd=1, segmentation=[[1, 1, 5, 1, 5, 5]])


def _count_categories_from_0(content: Any) -> None:
    for annotation in content["annotations"]:
        annotation["category_id"] -= 1


def _share_name(content: Any) -> None:
    content["categories"][1]["name"] = content["categories"][0]["name"]


def _list_image_twice(content: Any) -> None:
    content["images"].append(dict(content["images"][0]))


@pytest.mark.parametrize(
    "spoil",
    [
        *(_repeat_annotation, _share_annotation_id, _lose_sizes, _crowd, _count_categories_from_0, _share_name),
        *(_list_image_twice, _shift_boxes),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_joined_files_are_told_what_each_would_be_alone(tmp_path: Path, spoil: Any, place: int) -> None:
    good, bad = scenes(), scenes()
    for i in range(1, 7):
        draw(tmp_path / f"{i}.png", seed=i)
        draw(tmp_path / f"b{i}.png", seed=10 + i)
    spoil(bad)
    for entry in bad["images"]:
        entry["file_name"] = f"b{entry['file_name']}"
    files = [save(good, tmp_path / "good.json")]
    files.insert(place, save(bad, tmp_path / "bad.json"))
    alone = read_annotations(tmp_path / "bad.json", tmp_path)
    together = read_annotations(files[0], tmp_path, lists=read_joined(files))
    alone.log.drop("unused-category")  # the other file uses it
    together.log.drop("unused-category")
    assert alone.problem_counts
    assert together.problem_counts == alone.problem_counts
    for own, joined in zip(alone.log.describe(), together.log.describe(), strict=True):
        said = joined.replace(f"{tmp_path}/", "")
        assert re.search(r"\bbad\.json|\bb\d\.png", said), said  # the file, or one of its images
        assert own.count("move one of the two") == joined.count("move one of the two")


def test_an_id_of_two_categories_is_refused_in_joined_files(tmp_path: Path) -> None:
    content = scenes()
    content["categories"][1]["id"] = content["categories"][0]["id"]
    files = [save(scenes(), tmp_path / "a.json"), save(content, tmp_path / "b.json")]
    with pytest.raises(CocoError, match=r"b\.json: the category id 1 stands for 'box' and for 'disc'"):
        read_joined(files)


def test_joined_files_of_one_name_keep_their_ids_apart(tmp_path: Path) -> None:
    files = []
    for number, name in enumerate("abc"):
        content = scenes()
        for entry in content["images"]:
            entry["file_name"] = f"{name}{entry['file_name']}"
        if number == 2:  # an exporter that writes ids as texts in one list
            for annotation in content["annotations"]:
                annotation["image_id"] = str(annotation["image_id"])
        (tmp_path / name).mkdir()
        files.append(save(content, tmp_path / name / "x.json"))
    read = read_annotations(files[0], None, lists=read_joined(files))
    assert len(read) == 18
    assert np.bincount(read.image_of).tolist() == [3] * 18
    assert read.problem_counts == {}


def test_joined_files_with_images_of_one_name_beside_each(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        for i in range(1, 7):
            draw(tmp_path / name / f"{i}.png", seed=10 * seed + i)
        save(scenes(), tmp_path / name / "_annotations.coco.json")
    files = [f"{name}/_annotations.coco.json" for name in "ab"]
    train = read_split(tmp_path, AnnotationSource(train_annotations=files)).train
    assert [train.file_name(i) for i in (0, 6)] == ["a/1.png", "b/1.png"]
    assert train.problem_counts == {}


def test_accents_in_either_form_are_one_class(tmp_path: Path) -> None:
    one, other = scenes(), scenes()
    one["categories"][0]["name"], other["categories"][0]["name"] = "caf\u00e9", "cafe\u0301 "
    files = [save(one, tmp_path / "a.json"), save(other, tmp_path / "b.json")]
    first = read_annotations(files[0], None)
    assert first.class_names == ["caf\u00e9", "disc"]
    assert read_annotations(files[1], None).class_names == ["caf\u00e9", "disc"]
    assert read_annotations(files[1], None, like=first).problem_counts == {}
    assert read_annotations(files[0], None, lists=read_joined(files)).class_names == ["caf\u00e9", "disc"]
    trained = read_annotations(files[0], None, like=["disc", "cafe\u0301"])
    assert trained.class_names == ["disc", "cafe\u0301"]
    assert trained.labels.tolist() == [1 - k for k in first.labels]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((64, 48), "resized by 0.5 after"),
        ((96, 128), "swapped in the annotations"),
        ((70, 48), "do not belong together"),
    ],
)
def test_images_of_other_sizes_than_annotated_are_explained_at_the_start(tmp_path: Path, size: Any, words: str) -> None:
    save(scenes(), tmp_path / "a.json")
    for i in range(1, 7):
        draw(tmp_path / f"{i}.png", seed=i, size=size)
    with pytest.raises(ValueError, match=words):
        CocoData(tmp_path, min_size=32, max_size=64)
    draw(tmp_path / "1.png", size=SIZE)
    CocoData(tmp_path, min_size=32, max_size=64)


def test_files_in_the_lists_of_both_parts_are_told(tmp_path: Path) -> None:
    for part in ("train", "val"):
        save(scenes(3), tmp_path / f"{part}.json")
    for i in range(1, 4):
        draw(tmp_path / "images" / f"{i}.png", seed=i)
    split = read_split(tmp_path, AnnotationSource())
    assert split.val.problem_counts == {"shared-file": 3}
    assert check_coco(tmp_path).counts["shared-file"] == 3
