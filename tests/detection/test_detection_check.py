"""What `check_coco` finds before training does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalablevit.data.builtin.scene_folders import write_coco
from scalablevit.detection.check import check_coco


def draw(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0, orientation: int = 1) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)
    return path


def write_json(path: Path, images: list[Any], annotations: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": 3, "name": "ant"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def entry(i: int, size: tuple[int, int] = (40, 30)) -> dict[str, Any]:
    return {"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]}


def box(i: int, image: int, **changes: Any) -> dict[str, Any]:
    outline = [[4, 2, 14, 2, 14, 6, 4, 6]]
    return {"id": i, "image_id": image, "category_id": 3, "bbox": [4, 2, 10, 4], "segmentation": outline, **changes}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training images, the third without a box, and two for validation."""
    for i in (1, 2, 3):
        draw(tmp_path / "train" / f"{i}.png", seed=i)
    for i in (4, 5):
        draw(tmp_path / "val" / f"{i}.png", seed=i)
    write_json(tmp_path / "train.json", [entry(i) for i in (1, 2, 3)], [box(1, 1), box(2, 2), box(3, 2, iscrowd=1)])
    write_json(tmp_path / "val.json", [entry(4), entry(5)], [box(1, 4), box(2, 5)])
    return tmp_path


def kinds(report: Any) -> dict[str, int]:
    return dict(report.counts)


def test_data_without_a_fault(root):
    done = []
    report = check_coco(root, on_progress=lambda *progress: done.append(progress))
    assert report.ok
    assert report.problems == []
    assert (report.num_train, report.num_val, report.num_readable) == (3, 2, 5)
    assert (report.num_crowd, report.num_empty) == (1, 1)
    assert report.classes == {"ant": (2, 2)}
    assert report.has_masks is True
    assert (report.smallest, report.largest) == ((40, 30), (40, 30))
    assert done[-1] == (5, 5)
    assert report.to_text().splitlines()[-1] == "no errors, 0 warnings"
    assert json.loads(report.to_json())["ok"] is True


def test_the_built_in_scenes_have_no_fault(tmp_path):
    write_coco(tmp_path / "scenes", num_train=24, num_val=10)
    report = check_coco(tmp_path / "scenes")
    assert report.ok
    assert report.problems == []
    assert len(report.classes) == 10


def test_everything_that_is_wrong_is_found(root):
    images = [entry(1), entry(2, (80, 60)), entry(3), entry(6), entry(7), entry(8, (30, 20)), entry(9, (6, 5))]
    boxes = [box(1, 1), box(2, 1, bbox=[9, 9, 0, 5]), box(3, 77), box(4, 1, bbox=[50, 5, 5, 5]), box(5, 3, area=None)]
    boxes += [box(6, 3, segmentation={"size": [9, 9], "counts": [81]}), box(7, 3, segmentation=[[1, 2, 3, 4]])]
    write_json(root / "train.json", images, boxes)
    (root / "train" / "7.png").write_bytes((root / "train" / "1.png").read_bytes()[:500])
    draw(root / "train" / "8.png", (20, 30), seed=8)
    draw(root / "train" / "9.png", (6, 5))
    draw(root / "train" / "extra.png")
    draw(root / "val" / "4.png", seed=1)  # the same as train/1.png
    report = check_coco(root)
    assert kinds(report) == {
        "unknown-image": 1,
        "empty-box": 1,
        "outside-box": 1,
        "mask-size": 1,
        "bad-mask": 1,
        "missing-file": 1,
        "truncated": 1,
        "size-mismatch": 2,
        "tiny": 1,
        "leak": 1,
    }
    assert not report.ok
    assert [problem.severity for problem in report.problems] == sorted(p.severity for p in report.problems)
    assert {Path(problem.path).name for problem in report.problems if problem.kind == "size-mismatch"} == {
        "2.png",
        "8.png",
    }
    assert report.num_train == 6  # without the missing one
    assert report.num_readable == 5
    assert report.unlisted == 1
    assert report.smallest == (6, 5)
    text = report.to_text()
    assert "error: truncated (1)" in text
    assert f"{root}/train/1.png: annotation 2 has a box of 0.0 x 5.0 pixels" in text
    assert text.splitlines()[-1] == "8 errors, 3 warnings"
    without_masks = check_coco(root, masks=False)
    assert not {"mask-size", "bad-mask"} & set(without_masks.counts)
    assert without_masks.has_masks is None
    assert without_masks.classes == {"ant": (4, 2)}


def test_images_turned_by_exif(root):
    draw(root / "train" / "1.png", seed=1, orientation=6)  # annotated in stored pixels
    draw(root / "train" / "2.png", seed=2, orientation=8)
    draw(root / "train" / "3.png", seed=3, orientation=3)  # nobody can tell
    write_json(root / "train.json", [entry(1), entry(2, (30, 40)), entry(3)], [box(1, 1)])
    report = check_coco(root)
    assert report.ok
    assert kinds(report) == {"orientation": 2, "orientation-unclear": 1}
    one, two, three = (problem.message for problem in report.problems)
    assert "boxes and masks are turned along" in one
    assert "boxes and masks fit the turned image" in two
    assert "annotation_frame" in three
    assert kinds(check_coco(root, annotation_frame="upright")) == {"size-mismatch": 1, "orientation": 2}


def test_turned_images_of_which_no_size_is_told(root):
    draw(root / "train" / "1.png", seed=1, orientation=6)
    images = [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}, entry(3)]
    write_json(root / "train.json", images, [box(1, 1, bbox=[4, 2, 10, 33])])
    report = check_coco(root, masks=False)
    assert kinds(report) == {"missing-size": 2, "clipped-box": 1, "orientation-unclear": 1}
    (message,) = (problem.message for problem in report.problems if problem.kind == "orientation-unclear")
    assert "1.png: EXIF orientation 6 turns the image, and annotations without its size leave open" in message
    assert "set annotation_frame to 'upright'" in message
    upright = check_coco(root, masks=False, annotation_frame="upright")
    assert kinds(upright) == {"missing-size": 2, "orientation": 1}
    assert (30, 40) in (upright.smallest, upright.largest)
    (message,) = (problem.message for problem in upright.problems if problem.kind == "orientation")
    assert "as annotation_frame is 'upright', boxes and masks fit the turned image" in message
    stored = check_coco(root, masks=False, annotation_frame="stored")
    assert kinds(stored) == {"missing-size": 2, "clipped-box": 1, "orientation": 1}


def test_boxes_without_masks_are_no_fault(root):
    for name, images in (("train", (1, 2, 3)), ("val", (4, 5))):
        plain = [{key: v for key, v in box(i, i).items() if key != "segmentation"} for i in images]
        write_json(root / f"{name}.json", [entry(i) for i in images], plain)
    report = check_coco(root)
    assert report.problems == []
    assert report.has_masks is False
    assert "no, for boxes only" in report.to_text()


def test_a_file_that_is_cut_off(root):
    text = (root / "train.json").read_text()
    (root / "train.json").write_text(text[: len(text) // 2])
    report = check_coco(root)
    assert not report.ok
    assert kinds(report) == {"bad-json": 1}
    assert "train.json: the annotation file is cut off" in report.to_text()
    assert kinds(check_coco(root / "nowhere")) == {"missing-root": 1}


def test_one_annotation_file_and_a_folder(root):
    report = check_coco(root / "train.json", train_images="train", val_fraction=0.34)
    assert report.ok
    assert (report.num_train, report.num_val) == (2, 1)


def test_the_same_image_twice(root):
    draw(root / "train" / "2.png", seed=1)
    report = check_coco(root)
    assert report.ok
    assert kinds(report) == {"duplicate": 1}


def test_many_problems_are_counted_and_some_shown(root):
    write_json(
        root / "train.json", [entry(1), entry(2)], [box(1, 1), *(box(i, 1, bbox=[0] * 4) for i in range(2, 1602))]
    )
    report = check_coco(root)
    assert report.counts["empty-box"] == 1600
    assert "... and 1,580 more" in report.to_text()
    assert report.to_text().splitlines()[-1] == "no errors, 1,600 warnings"


def test_processes_find_the_same(root):
    (root / "train" / "1.png").write_bytes(b"")
    assert check_coco(root, num_workers=2) == check_coco(root, num_workers=0)
    with pytest.raises(ValueError, match="num_workers"):
        check_coco(root, num_workers=-1)


def test_what_is_lost_of_images_is_told(root):
    pixels = np.linspace(0, 4095, 30 * 40).reshape(30, 40).astype(np.uint16)
    Image.fromarray(pixels).save(root / "train" / "1.png")
    report = check_coco(root)
    assert kinds(report) == {"dark-16-bit": 1}
    assert check_coco(root, value_range=(0, 4095)).ok
    assert kinds(check_coco(root, value_range=(0, 4095))) == {}
