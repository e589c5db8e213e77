"""A data folder of another layout is recognised, and its user is told what to do with it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit.classification.image_folder import scan_folder
from scalablevit.data.layout import explain_layout, recognise_layout


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (seed, 0, 0)).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def yolo(root: Path) -> None:
    for part in ("train", "val"):
        for i in range(3):
            image(root / "images" / part / f"{i}.jpg")
            text(root / "labels" / part / f"{i}.txt", "0 0.5 0.5 0.25 1e-1\n1 0.1 0.2 0.3 0.4\n")


def yolo_of_roboflow(root: Path) -> None:
    text(root / "data.yaml", "train: ../train/images\nnc: 2\nnames: ['a', 'b']\n")
    for part in ("train", "valid"):
        image(root / part / "images" / "0.jpg")
        text(root / part / "labels" / "0.txt", "")


def voc(root: Path) -> None:
    for i in range(3):
        image(root / "JPEGImages" / f"{i}.jpg")
        text(root / "Annotations" / f"{i}.xml", "<annotation>\n<object><name>a</name></object></annotation>")
    text(root / "ImageSets" / "Main" / "train.txt", "0\n1\n")


def labelme(root: Path) -> None:
    for i in range(3):
        image(root / f"{i}.jpg")
        content = {"version": "5", "shapes": [], "imagePath": f"{i}.jpg", "imageData": None}
        text(root / f"{i}.json", json.dumps(content))


def labelme_in_parts(root: Path) -> None:
    labelme(root / "train")
    labelme(root / "val")


def coco(root: Path) -> None:
    image(root / "train2017" / "0.jpg")
    image(root / "val2017" / "0.jpg")
    content = {"info": {}, "images": [], "annotations": [], "categories": []}
    text(root / "annotations" / "instances_train2017.json", json.dumps(content))


def masks(root: Path) -> None:
    for i in range(3):
        image(root / "images" / f"{i}.jpg")
        image(root / "masks" / f"{i}.png")


def masks_in_parts(root: Path) -> None:
    for part in ("train", "val"):
        image(root / "images" / part / "0.jpg")
        image(root / "annotations" / part / "0.png")


def masks_beside_images(root: Path) -> None:
    for part in ("train", "valid"):
        for i in range(3):
            image(root / part / f"{i}.jpg")
            image(root / part / f"{i}_mask.png")


def masks_among_images(root: Path) -> None:
    for i in range(3):
        image(root / f"{i}.jpg")
        image(root / "masks" / f"{i}.png")


def masks_in_the_folder_of_images(root: Path) -> None:
    for i in range(3):
        image(root / "images" / f"{i}.jpg")
        image(root / "images" / "masks" / f"{i}.png")


def masks_of_other_names(root: Path) -> None:
    for i in range(3):
        image(root / "images" / f"{i}.png")
        image(root / "labels" / f"{i}_P.png")


def cityscapes(root: Path) -> None:
    for part in ("train", "val"):
        image(root / "leftImg8bit" / part / "bonn" / "0_leftImg8bit.png")
        image(root / "gtFine" / part / "bonn" / "0_gtFine_labelIds.png")
        text(root / "gtFine" / part / "bonn" / "0_gtFine_polygons.json", "{}")
    text(root / "ids.json", '{"7": "road"}')


def masks_two_folders_deeper(root: Path) -> None:
    masks(root / "VOCdevkit" / "VOC2012")


def parts_of_other_names(root: Path) -> None:
    for part in ("training_set", "test_set"):
        for name in ("cat", "dog"):
            image(root / part / name / "0.jpg")


def table(root: Path) -> None:
    text(root / "labels.csv", "filename,label\n0.jpg,cat\n")
    image(root / "images" / "0.jpg")


def too_deep(root: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(3):
            image(root / "archive" / "data" / name / f"{i}.jpg", i)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (yolo, "yolo", "labels.*a class and a box on each line.*detection recipe"),
        (yolo_of_roboflow, "yolo", r"data\.yaml"),
        (voc, "voc", r"Pascal VOC.*\.xml.*detection recipe"),
        (labelme, "labelme", r"labelme.*\.json.*convert"),
        (labelme_in_parts, "labelme", "labelme"),
        (coco, "coco", r"instances_train2017\.json.*--config finetune_mask_rcnn"),
        (masks, "masks", "masks has images of the names in .*images.*--config finetune_upernet"),
        (masks_in_parts, "masks", "segmentation recipe"),
        (
            masks_beside_images,
            "masks",
            r"_mask.png beside the image of its name.*--data.mask_pattern '\{name\}_mask.png'",
        ),
        (masks_among_images, "masks", "--config finetune_upernet .*--data.images . --data.masks masks"),
        (masks_in_the_folder_of_images, "masks", "--data.images images --data.masks images/masks"),
        (masks_of_other_names, "masks", "labels lies beside .*images.*--data.mask_pattern"),
        (cityscapes, "masks", r"--data.mask_pattern '\{name\}_gtFine_labelIds.png' --data.label_map FILE"),
        (masks_two_folders_deeper, "masks", "--data.root [^ ]*VOCdevkit/VOC2012"),
        (parts_of_other_names, "parts", "--data.train training_set --data.val test_set"),
        (table, "table", r"labels\.csv.*--config train_multi_label"),
        (too_deep, "classes", "root should be .*archive/data"),
    ],
)
def test_class_folders_that_are_none_are_recognised(tmp_path, make: Callable[[Path], None], kind, words):
    root = tmp_path / "root"
    make(root)
    layout = recognise_layout(root)
    assert layout is not None
    assert layout.kind == kind
    (problem,) = (problem for problem in scan_folder(root).problems if problem.severity == "error")
    assert problem.kind == "other-layout"
    with pytest.raises(ValueError, match=words):
        scan_folder(root).raise_for_errors()


def test_class_folders_are_not_taken_for_something_else(tmp_path):
    for part in ("train", "val"):
        for name in ("images of cats", "label", "dog", "test"):
            for i in range(3):
                image(tmp_path / part / name / f"{i}.jpg", i)
    text(tmp_path / "README.txt", "1 2 3")
    text(tmp_path / "classes.txt", "0 cat\n1 dog\n")
    text(tmp_path / "settings.json", "{}")
    assert not [problem for problem in scan_folder(tmp_path).problems if problem.severity == "error"]
    assert explain_layout(tmp_path, expected="classes") is None


def test_class_folders_given_to_another_task_are_named(tmp_path):
    for name in ("cat", "dog"):
        image(tmp_path / "train" / name / "0.jpg")
    for expected in ("coco", "masks"):
        told = explain_layout(tmp_path, expected=expected)
        assert told is not None
        assert "a folder per class, for classification" in told
        assert "--config finetune_folder" in told


def test_the_folder_of_one_class_points_at_the_one_above(tmp_path):
    for name in ("cat", "dog"):
        image(tmp_path / name / "0.jpg")
    (problem,) = scan_folder(tmp_path / "cat").problems
    assert problem.message.endswith(f"as in a folder of one class; give {tmp_path}")


def test_what_is_no_folder_is_nothing(tmp_path):
    assert explain_layout(tmp_path / "missing", expected="coco") is None
    assert recognise_layout(tmp_path) is None


def test_long_lines_and_odd_bytes_take_no_time(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_bytes(b"1" * 2**17)
    (tmp_path / "labels" / "b.txt").write_bytes(b"0 " + b"1." * 2**16)
    (tmp_path / "labels" / "c.json").write_bytes(np.random.default_rng(0).bytes(2**17))
    assert recognise_layout(tmp_path) is None
