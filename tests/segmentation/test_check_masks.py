"""`check_masks` finds what is wrong with images and masks, and says so."""

import json
import subprocess
import sys

import numpy as np
import pytest
from mask_folders import write_folder, write_image, write_mask, write_turned
from PIL import Image

from scalablevit.cli import main
from scalablevit.segmentation.check import MaskReport, check_masks


def kinds(report: MaskReport) -> list[str]:
    return [problem.kind for problem in report.problems]


@pytest.fixture
def folder(tmp_path):
    """Four training and two validation pairs with labels 0, 1 and 2, and names for them."""
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\n")
    return write_folder(tmp_path)


def test_a_good_folder(folder):
    report = check_masks(folder)
    assert report.ok
    assert report.problems == []
    assert (report.num_train, report.num_val) == (4, 2)
    third = 24 * 16 // 3
    assert report.classes == dict.fromkeys(("sky", "sea", "sand"), (4 * third, 2 * third))
    assert report.smallest == report.largest == (24, 16)
    assert "no errors, 0 warnings" in report.to_text()
    assert json.loads(report.to_json())["ok"] is True


@pytest.mark.parametrize("reduce", [False, True])
def test_ignored_pixels_are_counted_apart(folder, reduce):
    labels = np.zeros((16, 24))
    labels[:4], labels[4:6] = 255, 1
    write_mask(folder / "annotations/training/t0.png", labels)
    (folder / "classes.txt").unlink()
    report = check_masks(folder, reduce_zero_label=reduce)
    third = 24 * 16 // 3
    if reduce:
        assert report.classes == {"class 0": (3 * third + 48, 2 * third), "class 1": (3 * third, 2 * third)}
        assert report.ignored_pixels == (3 * third + 14 * 24, 2 * third)
    else:
        assert report.classes["class 0"] == (3 * third + 10 * 24, 2 * third)
        assert report.ignored_pixels == (4 * 24, 0)


def test_every_fault_of_a_file_is_an_error_with_its_path(folder):
    train_images, train_masks = folder / "images/training", folder / "annotations/training"
    (train_images / "t0.png").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 3, (16, 24))
    whole = write_mask(train_masks / "t1.png", noise).read_bytes()
    (train_masks / "t1.png").write_bytes(whole[:-60])
    write_image(train_masks / "t2.png", seed=3)
    write_mask(train_masks / "t3.png", size=(12, 8))
    write_image(train_images / "lone.png", seed=4)
    write_mask(train_masks / "alone.png")
    labels = np.zeros((16, 24))
    labels[0, :2] = 3, 200
    write_mask(folder / "annotations/validation/v0.png", labels)
    report = check_masks(folder)
    assert not report.ok
    found = {problem.kind: problem for problem in report.errors}
    expected = {
        "empty": train_images / "t0.png",
        "truncated": train_masks / "t1.png",
        "not-a-mask": train_masks / "t2.png",
        "other-size": train_masks / "t3.png",
        "no-mask": train_images / "lone.png",
        "no-image": train_masks / "alone.png",
        "outside-classes": folder / "annotations/validation/v0.png",
    }
    assert {kind: problem.path for kind, problem in found.items()} == {k: str(path) for k, path in expected.items()}
    assert "labels 3, 200, but labels 0 to 2 are classes and 255 ignored" in found["outside-classes"].message
    assert all(str(path) in report.to_text() for path in expected.values())


def test_a_mask_without_a_pixel_to_learn_from(folder):
    mask = write_mask(folder / "annotations/training/t0.png", np.full((16, 24), 255))
    report = check_masks(folder)
    assert report.ok
    assert [(p.kind, p.path) for p in report.warnings] == [("all-ignored", str(mask))]


def test_classes_that_lack(folder):
    (folder / "classes.txt").write_text("sky\nsea\nsand\nnever\nlate\nearly\n")
    write_mask(folder / "annotations/training/t0.png", np.full((16, 24), 5))
    write_mask(folder / "annotations/validation/v0.png", np.full((16, 24), 4))
    messages = {problem.kind: problem.message for problem in check_masks(folder).warnings}
    assert set(messages) == {"class-never-occurs", "class-without-training", "class-without-validation"}
    assert "'never'" in messages["class-never-occurs"]
    assert "'late'; they cannot be learned" in messages["class-without-training"]
    assert "'early'; their IoU will not be measured" in messages["class-without-validation"]


def test_shades_of_gray_in_place_of_class_indices(folder):
    (folder / "classes.txt").unlink()
    write_mask(folder / "annotations/training/t0.png", np.full((16, 24), 128))
    report = check_masks(folder)
    assert len(report.classes) == 129
    assert "shades of gray" in next(p.message for p in report.warnings if p.kind == "class-never-occurs")


def test_masks_of_black_and_white(folder):
    (folder / "classes.txt").unlink()
    for i, mask in enumerate(sorted(folder.glob("annotations/*/*.png"))):
        write_mask(mask, np.full((16, 24), 255 * (i % 2)))
    report = check_masks(folder)
    assert kinds(report) == ["classes"]
    assert "black-and-white masks; rewrite 255 as 1" in report.errors[0].message
    assert str(folder) in report.errors[0].message


@pytest.mark.parametrize("num_black", [0, 1])
def test_masks_with_colours_do_not_tell_the_classes(folder, num_black):
    (folder / "classes.txt").unlink()
    for i, mask in enumerate(sorted(folder.glob("annotations/*/*.png"))):
        if i < num_black:
            write_mask(mask, np.zeros((16, 24)))
        else:
            write_image(mask, seed=1)
    assert kinds(check_masks(folder)) == ["not-a-mask"] * (6 - num_black)


def test_a_faulty_class_file(folder):
    (folder / "classes.txt").write_text("sky\nsky\n")
    report = check_masks(folder)
    assert kinds(report) == ["classes"]
    assert report.errors[0].path == str(folder / "classes.txt")
    assert report.errors[0].message.count("classes.txt") == 1


def test_the_same_image_in_training_and_validation(folder):
    write_image(folder / "images/training/t0.png", seed=7)
    write_image(folder / "images/validation/v0.png", seed=7)
    write_image(folder / "images/training/t1.png", seed=8)
    write_image(folder / "images/training/t2.png", seed=8)
    report = check_masks(folder)
    assert report.ok
    assert sorted(kinds(report)) == ["duplicate", "leak"]


def test_masks_saved_as_jpeg(folder):
    mask = folder / "annotations/training/t0.png"
    mask.unlink()
    Image.new("L", (24, 16), 1).save(mask.with_suffix(".jpg"))
    assert kinds(check_masks(folder)) == ["lossy-mask"]


def test_orientations_that_leave_it_open_how_the_mask_lies(folder):
    pixels = np.random.default_rng(9).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    write_turned(folder / "images/training/t0.png", pixels, 3)
    assert kinds(check_masks(folder)) == ["orientation-unclear"]
    assert check_masks(folder, mask_frame="upright").problems == []


def test_more_processes_and_progress_change_nothing(folder, monkeypatch):
    monkeypatch.setattr("scalablevit.data.check._IMAGES_PER_TASK", 4)
    write_image(folder / "annotations/training/t2.png", seed=3)
    seen = []
    report = check_masks(folder, num_workers=2, on_progress=lambda done, total: seen.append((done, total)))
    assert report == check_masks(folder, num_workers=0)
    assert not report.ok
    assert seen == [(2, 6), (4, 6), (6, 6)]


def test_a_long_list_is_cut_short_in_the_text_only(folder):
    for i in range(30):
        write_image(folder / f"images/training/lone{i}.png", seed=100 + i)
    report = check_masks(folder)
    assert "error: no-mask (30)" in report.to_text()
    assert "and 10 more" in report.to_text()
    assert len(json.loads(report.to_json())["problems"]) == 30


def test_a_folder_that_is_none(tmp_path):
    report = check_masks(tmp_path / "none")
    assert kinds(report) == ["missing-root"]
    assert "does not exist" in report.to_text()


def test_arguments_out_of_range(folder):
    with pytest.raises(ValueError, match="num_workers"):
        check_masks(folder, num_workers=-1)
    with pytest.raises(ValueError, match="val_fraction"):
        check_masks(folder, val_fraction=2)


def test_the_command_takes_folders_labels_and_frame(folder, capsys):
    (folder / "classes.txt").write_text("sky\nsea\n")
    (folder / "images").rename(folder / "photos")
    (folder / "annotations").rename(folder / "drawn")
    pixels = np.random.default_rng(9).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    write_turned(folder / "photos/training/t0.png", pixels, 3)

    def check(*words: str) -> dict:
        code = main(["check-data", str(folder), "--json", *words])
        report = json.loads(capsys.readouterr().out)
        assert code == (0 if report["ok"] else 1)
        return report

    names = ("--images", "photos", "--masks", "drawn")
    assert "ignored_pixels" not in check(), "without the names it is taken for a folder per class"
    assert {"outside-classes", "orientation-unclear"} <= {problem["kind"] for problem in check(*names)["problems"]}
    report = check(*names, "--ignore-labels", "2", "255", "--mask-frame", "upright")
    assert (report["ok"], report["problems"]) == (True, [])
    assert (report["num_train"], sum(report["ignored_pixels"])) == (4, 6 * 24 * 16 // 3)
    outside = check(*names, "--ignore-labels", "--mask-frame", "upright")["problems"][0]["message"]
    assert "labels 0 to 1 are classes;" in outside


def test_the_command_refuses_flags_of_other_data(tmp_path, capsys):
    write_image(tmp_path / "train/a/1.png")
    assert main(["check-data", str(tmp_path), "--masks", "drawn"]) == 2
    told = capsys.readouterr().err
    assert "--masks is for images and masks" in told
    assert "--kind" in told


def test_a_label_map_in_json_is_not_taken_for_coco_annotations(folder, capsys):
    (folder / "ids.json").write_text('{"road": 0, "sea": 1, "sand": 2}')
    assert main(["check-data", str(folder)]) == 0
    assert main(["check-data", str(folder), "--label-map", str(folder / "ids.json")]) == 0
    assert "sand" in capsys.readouterr().out


def test_flags_of_masks_are_heard_where_annotations_lie_beside(folder, capsys):
    (folder / "annotations/instances_train.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert main(["check-data", str(folder), "--masks", "annotations"]) == 0
    assert "images with masks" in capsys.readouterr().out


def test_checking_needs_no_training_engine(folder):
    code = (
        "import sys; from scalablevit.segmentation.check import check_masks; "
        f"assert check_masks({str(folder)!r}).ok; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
