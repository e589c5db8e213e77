"""YOLO folders as people have them: what is missing, misread or mixed up is named, and nothing takes its place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalablevit.detection.coco import AnnotationSource, CocoError
from scalablevit.detection.entry import recognizes
from scalablevit.detection.split import CocoSplit, read_split

LINE = "0 0.5 0.5 0.3 0.4\n"


def make(root: Path, yaml: str | None = "train: images/train\nval: images/val\n", line: Any = LINE) -> Path:
    """Write five training and two validation images; `line` is the text of a label file, or gives it by number."""
    for part, count in (("train", 5), ("val", 2)):
        for i in range(count):
            image = root / "images" / part / f"{part}{i}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i + 10 * (part == "val")).integers(0, 256, (80, 100, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(image)
            label = root / "labels" / part / f"{part}{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(line(i) if callable(line) else line)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml if "names" in yaml else f"{yaml}names: [cat, dog]\n")
    return root


def read(root: Path, **source: Any) -> CocoSplit:
    return read_split(root, AnnotationSource(**source))


def parts(split: CocoSplit) -> tuple[int, int]:
    assert not split.is_split, "a share was set aside, as if there were no validation part"
    return len(split.train_indices), len(split.val_indices)


LISTS: dict[str, Callable[[Path, str], str]] = {
    "from the YAML's folder": lambda root, name: f"images/{name}",
    "with a dot": lambda root, name: f"./images/{name}",
    "absolute": lambda root, name: str(root / "images" / name),
    "absolute, of another machine": lambda root, name: f"/home/somebody/set/images/{name}",
    "of Windows": lambda root, name: f"images\\{name}".replace("/", "\\"),
    "of Windows, absolute": lambda root, name: f"C:\\set\\images\\{name}".replace("/", "\\"),
}


@pytest.mark.parametrize("folder", ["", "lists/"])
@pytest.mark.parametrize("form", LISTS)
def test_lists_of_paths(tmp_path: Path, form: str, folder: str) -> None:
    make(tmp_path, f"train: {folder}train.txt\nval: {folder}val.txt\n")
    for part in ("train", "val"):
        names = sorted(f"{part}/{file.name}" for file in (tmp_path / "images" / part).iterdir())
        (tmp_path / folder).mkdir(exist_ok=True)
        text = "".join(f"{LISTS[form](tmp_path, name)}\n" for name in names)
        (tmp_path / folder / f"{part}.txt").write_text(text)
    split = read(tmp_path)
    assert parts(split) == (5, 2)
    assert split.train.class_counts(split.train_indices).tolist() == [5, 0]
    assert not {"missing-file", "shared-file"} & {*split.train.problem_counts, *split.val.problem_counts}


def test_images_of_a_list_that_are_not_there_are_told(tmp_path: Path) -> None:
    make(tmp_path, "train: train.txt\nval: images/val\n")
    (tmp_path / "train.txt").write_text("".join(f"images/train/train{i}.png\n" for i in range(8)))
    split = read(tmp_path)
    assert parts(split) == (5, 2)
    assert split.train.problem_counts["missing-file"] == 3


def test_a_list_of_which_nothing_is_there_is_refused(tmp_path: Path) -> None:
    """All images of the folder, those of validation included, would be trained on in their place."""
    make(tmp_path, "train: train.txt\nval: val.txt\n")
    for part in ("train", "val"):
        (tmp_path / f"{part}.txt").write_text("elsewhere/1.png\nelsewhere/2.png\n")
    with pytest.raises(CocoError, match=r"train\.txt: none of its 2 images is there, such as elsewhere/1\.png"):
        read(tmp_path)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_named_part_without_images_is_refused(tmp_path: Path, part: str) -> None:
    (tmp_path / "empty").mkdir()
    lines = {"train": "images/train", "val": "images/val", part: "empty"}
    make(tmp_path, "".join(f"{key}: {value}\n" for key, value in lines.items()))
    with pytest.raises(CocoError, match=f"empty: the part '{part}' holds no image") as caught:
        read(tmp_path)
    assert caught.value.kind == "no-images"


@pytest.mark.parametrize(
    "yaml",
    [
        "path: D:\\set\ntrain: images\\train\nval: images\\val\n",
        "path: /content/set\ntrain: /content/set/images/train\nval: /content/set/images/val\n",
        "train: [../images/train]\nval: [../images/val]\n",
    ],
    ids=["Windows", "another machine", "lists"],
)
def test_paths_of_the_yaml(tmp_path: Path, yaml: str) -> None:
    assert parts(read(make(tmp_path, yaml))) == (5, 2)


def test_folders_in_capitals(tmp_path: Path) -> None:
    make(tmp_path, None)
    for name in ("images", "labels"):
        (tmp_path / name).rename(tmp_path / name.title())
        (tmp_path / name.title() / "train").rename(tmp_path / name.title() / "Train")
    assert recognizes(tmp_path, {})
    split = read(tmp_path)
    assert parts(split) == (5, 2)
    assert split.train.class_counts(split.train_indices).sum() == 5


def test_names_by_other_words_than_numbers(tmp_path: Path) -> None:
    make(tmp_path, "train: images/train\nval: images/val\nnames: {cat: 0, dog: 1}\n")
    assert read(tmp_path).train.class_names == ["cat", "dog"]
    make(tmp_path, "train: images/train\nval: images/val\nnames: {a: cat, b: dog}\n")
    with pytest.raises(CocoError, match="'names' has a class under 'a', not under its number"):
        read(tmp_path)


def test_class_numbers_that_are_one_off_are_told(tmp_path: Path) -> None:
    split = read(make(tmp_path, line=lambda i: f"{1 + i % 2} 0.5 0.5 0.3 0.4\n"))
    assert "start at 1, those of the list at 0" in split.train.log.describe("shifted-ids")[0]


def test_labels_without_an_image_and_images_without_a_label_are_told(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "labels" / "train" / "photo.txt").write_text(LINE)  # of photo.heic, say
    (tmp_path / "labels" / "train" / "classes.txt").write_text("cat\ndog\n")
    split = read(tmp_path)
    assert split.train.problem_counts["label-without-image"] == 1
    assert split.train.problem_counts["no-label-file"] == 0
    for i in range(3):
        (tmp_path / "labels" / "train" / f"train{i}.txt").unlink()
    (line,) = read(tmp_path).train.log.describe("no-label-file")
    assert "3 of 5 images have no label file" in line


def test_labels_of_the_other_part_in_the_same_folder_have_their_image(tmp_path: Path) -> None:
    make(tmp_path, "train: train.txt\nval: val.txt\n")
    for name in ("images", "labels"):
        for file in [*(tmp_path / name).glob("*/*")]:
            file.rename(tmp_path / name / file.name)
    for part, count in (("train", 5), ("val", 2)):
        (tmp_path / f"{part}.txt").write_text("".join(f"images/{part}{i}.png\n" for i in range(count)))
    split = read(tmp_path)
    assert parts(split) == (5, 2)
    assert split.train.problem_counts["label-without-image"] == 0


def keypoints(number: int, *, visible: bool, count: int = 5) -> str:
    rng = np.random.default_rng(number)
    lines = []
    for _ in range(2):
        centre, side = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.3, 2)
        points = centre + rng.uniform(-0.5, 0.5, (count, 2)) * side
        flags = rng.integers(0, 3, (count, 1)) if visible else np.zeros((count, 0))
        numbers = [*centre, *side, *np.concatenate([points, flags], axis=1).ravel()]
        lines.append(" ".join(["0", *(f"{value:.6g}" for value in numbers)]) + "\n")
    return "".join(lines)


@pytest.mark.parametrize(("visible", "count"), [(True, 4), (True, 5), (False, 5)])
def test_keypoints_without_kpt_shape_are_no_outlines(tmp_path: Path, visible: bool, count: int) -> None:
    make(tmp_path, line=lambda i: keypoints(i, visible=visible, count=count))
    train = read(tmp_path, masks=True).train
    (line,) = train.log.describe("keypoints")
    assert f"a box and {count} keypoints" in line
    assert not train.has_mask(np.arange(len(train.labels))).any()
    first = [float(word) for word in keypoints(0, visible=visible, count=count).split()[1:5]]
    assert train.boxes_xywh[0].tolist() == pytest.approx(
        [(first[0] - first[2] / 2) * 100, (first[1] - first[3] / 2) * 80, first[2] * 100, first[3] * 80]
    )


@pytest.mark.parametrize("seed", range(8))
def test_outlines_of_equally_many_points_are_no_keypoints(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def outline(number: int) -> str:
        radius, angles = rng.uniform(0.03, 0.4), np.linspace(0, 2 * np.pi, 8, endpoint=False) + rng.uniform(0, 6)
        centre = rng.uniform(radius, 1 - radius, 2)
        points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return " ".join(["0", *(f"{value:.6f}" for value in points.ravel())]) + "\n"

    train = read(make(tmp_path, line=outline), masks=True).train
    assert train.problem_counts["keypoints"] == 0
    assert train.has_mask(np.arange(len(train.labels))).all()


def test_corners_in_the_place_of_centres_are_told(tmp_path: Path) -> None:
    split = read(make(tmp_path, line="0 0.5 0.5 0.7 0.8\n0 0.4 0.6 0.9 0.9\n1 0.1 0.1 0.3 0.4\n"))
    (line,) = split.train.log.describe("corner-boxes")
    assert "YOLO's are centre x, centre y, width, height" in line


def test_lines_that_are_no_numbers_are_named_as_lines(tmp_path: Path) -> None:
    split = read(make(tmp_path, line=lambda i: LINE if i else "0,0.5,0.5,0.3,0.4\n"))
    assert "train0.txt:1 has '0,0.5,0.5,0.3,0.4' for a line of numbers" in split.train.problems[0].message
