"""check_folder finds every fault at once, and everything that training would meet."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit.classification.check import CheckReport, check_folder
from scalablevit.classification.data import ImageFolderData


def write(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> Path:
    """An image that no other seed makes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for i in range(4):
        write(root / "train" / "ant" / f"{i}.png", 10 + i)
        write(root / "train" / "bee" / f"{i}.png", 20 + i)
    for i in range(2):
        write(root / "val" / "ant" / f"{i}.png", 30 + i)
        write(root / "val" / "bee" / f"{i}.png", 40 + i)
    return root


def found(report: CheckReport) -> set[tuple[str, str, str]]:
    """(severity, kind, path relative to the data folder)."""
    root = Path(report.root)
    return {(p.severity, p.kind, Path(p.path).relative_to(root).as_posix()) for p in report.problems}


def test_a_sound_folder(sound):
    report = check_folder(sound)
    assert report.ok
    assert report.problems == []
    assert (report.num_train, report.num_val) == (8, 4)
    assert report.classes == {"ant": (4, 2), "bee": (4, 2)}
    assert report.smallest == report.largest == (20, 16)
    assert "no errors, 0 warnings" in report.to_text()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_faults_in_one_go(sound, num_workers):
    ant, bee = sound / "train" / "ant", sound / "train" / "bee"
    (ant / "empty.jpg").touch()
    (ant / "page.jpg").write_text("<html>")
    whole = write(ant / "cut.png", 50)
    whole.write_bytes(whole.read_bytes()[:-60])
    jpeg = write(sound / "val" / "bee" / "cut.jpg", 51)
    jpeg.write_bytes(jpeg.read_bytes()[:-60])
    write(ant / "tiny.png", 52, (30, 4))
    write(bee / "large.png", 53, (50, 40))
    (bee / "twin.png").write_bytes((bee / "0.png").read_bytes())
    (ant / "stray.png").write_bytes((bee / "1.png").read_bytes())
    with Image.open(ant / "2.png") as image:  # the same pixels in another format
        image.save(sound / "val" / "ant" / "leak.bmp")
    (ant / "notes.txt").touch()
    (bee / "phone.RAW2").touch()
    (ant / ".DS_Store").touch()
    (sound / "train" / "fly").mkdir()
    write(sound / "train" / "gnat" / "a.png", 54).write_bytes(b"no image")

    report = check_folder(sound, num_workers=num_workers)
    assert found(report) == {
        ("error", "empty", "train/ant/empty.jpg"),
        ("error", "not-an-image", "train/ant/page.jpg"),
        ("error", "truncated", "train/ant/cut.png"),
        ("error", "truncated", "val/bee/cut.jpg"),
        ("error", "not-an-image", "train/gnat/a.png"),
        ("error", "unreadable-class", "train/gnat"),
        ("error", "empty-class", "train/fly"),
        ("warning", "tiny", "train/ant/tiny.png"),
        ("warning", "duplicate", "train/bee/0.png"),
        ("warning", "contradiction", "train/ant/stray.png"),
        ("warning", "leak", "train/ant/2.png"),
        ("warning", "class-without-validation", "val"),
    }
    severities = [problem.severity for problem in report.problems]
    assert severities == sorted(severities)
    assert not report.ok
    assert report.ignored == {".txt": 1, ".raw2": 1}
    assert report.smallest == (30, 4)
    assert report.largest == (50, 40)
    assert report.classes["ant"] == (4 + 2, 3)

    text = report.to_text()
    for problem in report.problems:
        assert problem.path in text
    assert "7 errors, 5 warnings" in text
    assert "1 .raw2, 1 .txt" in text
    content = json.loads(report.to_json())
    assert content["ok"] is False
    assert len(content["problems"]) == 12
    assert set(content["problems"][0]) == {"severity", "kind", "path", "message"}


def test_every_bad_file_that_training_meets_is_found_before(sound):
    for i, path in enumerate(sorted(sound.rglob("*.png"))[::3]):
        path.write_bytes([b"", b"text", path.read_bytes()[:100], path.read_bytes()[:-30]][i % 4])
    data = ImageFolderData(sound, image_size=16, augmentation=None, num_workers=0)
    met = set()
    for dataset in (data.train_dataset, data.val_dataset):
        for i in range(len(dataset)):
            met.update(dataset[i].unreadable)
    reported = {problem.path for problem in check_folder(sound).errors}
    assert len(met) == 4
    assert reported == met


def test_leak_within_class_folders_that_are_split(tmp_path):
    root = tmp_path / "data"
    for name in ("ant", "bee"):
        for i in range(10):
            write(root / name / f"{i}.png", i if name == "ant" else 100)
    report = check_folder(root, val_fraction=0.2)
    assert [(problem.severity, problem.kind) for problem in report.problems] == [("warning", "leak")]
    assert report.num_val == 4


def test_layout_faults_are_reported_not_raised(tmp_path):
    missing = check_folder(tmp_path / "nowhere")
    assert [problem.kind for problem in missing.errors] == ["missing-root"]
    assert "check the path" in missing.to_text()
    for i in range(4):
        write(tmp_path / "data" / "ant" / f"{i}.png", i)
    (tmp_path / "data" / "ant" / "b.png").write_bytes(b"")
    single = check_folder(tmp_path / "data")
    assert {problem.kind for problem in single.errors} == {"single-class", "empty"}


def test_validation_class_that_training_lacks(sound):
    write(sound / "val" / "wasp" / "a.png", 60)
    report = check_folder(sound)
    assert [problem.kind for problem in report.errors] == ["unknown-class"]
    assert report.classes["wasp"] == (0, 1)


def test_smallest_size_is_a_setting(sound):
    assert {problem.kind for problem in check_folder(sound, min_size=17).problems} == {"tiny"}
    assert len(check_folder(sound, min_size=17).problems) == 12
    assert check_folder(sound, min_size=16).problems == []


def test_text_lists_twenty_of_a_kind_and_json_all(sound):
    for i in range(25):
        (sound / "train" / "ant" / f"empty{i:02d}.png").touch()
    report = check_folder(sound)
    text = report.to_text()
    assert "empty19.png" in text
    assert "empty20.png" not in text
    assert "and 5 more" in text
    kinds = [problem["kind"] for problem in json.loads(report.to_json())["problems"]]
    assert kinds == ["empty"] * 25 + ["mostly-unreadable-class"]


def test_progress(sound):
    seen: list[tuple[int, int]] = []
    check_folder(sound, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)


def test_faulty_arguments(sound):
    with pytest.raises(ValueError, match="num_workers must be at least 0"):
        check_folder(sound, num_workers=-2)
    with pytest.raises(ValueError, match="val_fraction"):
        check_folder(sound, val_fraction=0.0)


def test_a_class_of_which_most_images_cannot_be_read_is_told(sound):
    for i in range(5):
        (sound / "train/ant" / f"IMG_{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (sound / "train/bee/cut.jpg").write_bytes(b"\xff\xd8\xff")
    report = check_folder(sound, num_workers=0)
    (warning,) = report.warnings
    assert warning.kind in ("mostly-unreadable-class", "left-out")  # without pillow-heif no HEIC file is an image
    assert "5 .heic" in warning.message
    if warning.kind == "mostly-unreadable-class":
        assert "4 of the class's 9 training images can be read" in warning.message
    assert report.classes["ant"] == (4, 2)
