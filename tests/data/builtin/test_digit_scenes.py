"""Digit scenes are what their annotations say, in both formats, and the same on any machine."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit.data.builtin.digit_scenes import (
    DIGIT_NAMES,
    Scene,
    SceneObject,
    _digits_of,
    compose_scene,
    digit_scene,
)
from scalablevit.data.builtin.mask_outlines import run_lengths
from scalablevit.data.builtin.scene_folders import CATEGORY_IDS, _coco_annotation, write_ade20k, write_coco

NUM_TRAIN, NUM_VAL = 24, 10
EMPTY, CROWD, JPEG = 7, 4, 3  # numbers of the first such scenes


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built-in") / "deep" / "coco"
    assert write_coco(root, num_train=NUM_TRAIN, num_val=NUM_VAL) == root
    return root


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built-in") / "ade20k"
    assert write_ade20k(root, num_train=NUM_TRAIN, num_val=NUM_VAL) == root
    return root


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [digit_scene("train", i) for i in range(100)]


def content(root: Path, part: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{part}.json").read_text(encoding="utf-8"))


def objects(scene: Scene) -> list[SceneObject]:
    return [*scene.digits, *([scene.crowd] if scene.crowd else [])]


def test_scenes_hold_digits_overlaps_sizes_empties_and_crowds(scenes):
    numbers = [len(scene.digits) for scene in scenes]
    assert [i for i, number in enumerate(numbers) if number == 0] == [7, 27, 47, 67, 87]
    assert [i for i, scene in enumerate(scenes) if scene.crowd] == [4, 20, 36, 52, 68, 84]
    assert max(numbers) == 8
    everything = [item for scene in scenes for item in scene.digits]
    assert {item.label for item in everything} == set(range(10))
    heights = [item.box_xywh[3] for item in everything]
    assert min(heights) < 20
    assert max(heights) > 40
    boxes_overlap = 0
    for scene in scenes:
        for i, item in enumerate(scene.digits):
            x, y, w, h = item.box_xywh
            box = np.s_[y : y + h, x : x + w]
            boxes_overlap += any(other.mask[box].any() for other in scene.digits[:i])
    assert 0.08 < boxes_overlap / len(everything) < 0.4


def test_no_pixel_belongs_to_two(scenes):
    for scene in scenes:
        if items := objects(scene):
            assert np.sum([item.mask for item in items], axis=0).max() == 1


def test_a_digit_is_seen_where_its_mask_is(scenes):
    # Its pixels have one colour but for grain and soft edges; what is around has others.
    for scene in scenes:
        for item in scene.digits:
            own = scene.image[item.mask].astype(float)
            colour = np.median(own, axis=0)
            assert np.median(np.linalg.norm(own - colour, axis=1)) < 40
            x, y, w, h = item.box_xywh
            around = np.zeros_like(item.mask)
            around[max(y - 4, 0) : y + h + 4, max(x - 4, 0) : x + w + 4] = True
            for other in objects(scene):
                around &= ~other.mask
            others = np.linalg.norm(scene.image[around].astype(float) - colour, axis=1)
            assert np.median(others) > 90


def test_boxes_are_tight(scenes):
    for scene in scenes:
        for item in objects(scene):
            x, y, w, h = item.box_xywh
            inside = item.mask[y : y + h, x : x + w]
            assert inside.sum() == item.mask.sum()
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()


def test_sizes_are_drawn_from_the_range():
    sides = {side for i in range(30) for side in digit_scene("val", i, size=(40, 48)).image.shape[:2]}
    assert sides <= set(range(40, 49))
    assert len(sides) > 5
    assert digit_scene("val", 0, size=(32, 32)).image.shape == (32, 32, 3)


@pytest.mark.slow
def test_a_crowd_may_fill_the_image():
    for seed in range(30):
        scene = compose_scene(np.random.default_rng(seed), _digits_of("train"), size=(32, 32), crowd=True)
        assert scene.crowd is not None


def test_settings_out_of_range(tmp_path):
    for size in ((31, 64), (64, 63)):
        with pytest.raises(ValueError, match="from 32 pixels up"):
            digit_scene("train", 0, size=size)
        with pytest.raises(ValueError, match="from 32 pixels up"):
            write_coco(tmp_path / "new", size=size)
    with pytest.raises(ValueError, match="max_digits must be at least 0, got -1"):
        compose_scene(np.random.default_rng(0), _digits_of("train"), max_digits=-1)
    for write in (write_coco, write_ade20k):
        with pytest.raises(ValueError, match="num_val must be at least 1 scene, got 0"):
            write(tmp_path / "new", num_val=0)
    assert list(tmp_path.iterdir()) == []


def test_training_and_validation_share_no_digit():
    def images(part: str) -> set[tuple[int, bytes]]:
        return {(label, image.tobytes()) for label, of in enumerate(_digits_of(part)) for image in of}

    train, val = images("train"), images("val")
    assert not train & val
    assert len(train) + len(val) == 1797


def test_the_scenes_never_change():
    digest = hashlib.sha256()
    for part in ("train", "val"):
        for index in range(8):
            scene = digit_scene(part, index)
            digest.update(scene.image.tobytes())
            for item in objects(scene):
                digest.update(item.mask.tobytes() + bytes([item.label]))
    assert digest.hexdigest()[:16] == "85e2571f91c51735"


def test_each_seed_and_part_has_its_own_scenes():
    first = digit_scene("train", 0)
    np.testing.assert_array_equal(digit_scene("train", 0, seed=0).image, first.image)
    for other in (digit_scene("train", 0, seed=1), digit_scene("train", 1), digit_scene("val", 0)):
        assert other.image.tobytes() != first.image.tobytes()


def test_coco_is_what_was_composed(coco):
    for part, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        data = content(coco, part)
        assert [(c["id"], c["name"]) for c in data["categories"]] == list(zip(CATEGORY_IDS, DIGIT_NAMES, strict=True))
        assert {c["supercategory"] for c in data["categories"]} == {"digit"}
        assert sorted(path.name for path in (coco / part).iterdir()) == [i["file_name"] for i in data["images"]]
        assert len(data["images"]) == count
        for index, image in enumerate(data["images"]):
            scene = digit_scene(part, index)
            with Image.open(coco / part / image["file_name"]) as opened:
                assert (opened.format, opened.mode) == ("JPEG" if index % 10 == JPEG else "PNG", "RGB")
                pixels = np.asarray(opened)
            assert pixels.shape == (image["height"], image["width"], 3)
            if index % 10 == JPEG:
                assert np.abs(pixels.astype(int) - scene.image).mean() < 4
            else:
                np.testing.assert_array_equal(pixels, scene.image)
            annotations = [a for a in data["annotations"] if a["image_id"] == image["id"]]
            found = [(a["category_id"], tuple(a["bbox"]), a["area"], a["iscrowd"]) for a in annotations]
            assert found == [
                (CATEGORY_IDS[o.label], o.box_xywh, o.mask.sum(), int(o is scene.crowd)) for o in objects(scene)
            ]
        ids = [a["id"] for a in data["annotations"]]
        assert min(ids) == 1
        assert len(set(ids)) == len(ids)
    image_ids = [image["id"] for part in ("train", "val") for image in content(coco, part)["images"]]
    assert len(set(image_ids)) == NUM_TRAIN + NUM_VAL


def test_coco_has_polygons_run_lengths_empties_and_crowds(coco):
    data = content(coco, "train")
    kinds = {(type(a["segmentation"]), a["iscrowd"]) for a in data["annotations"]}
    assert kinds == {(list, 0), (dict, 0), (dict, 1)}
    with_boxes = {a["image_id"] for a in data["annotations"]}
    assert [i["id"] for i in data["images"] if i["id"] not in with_boxes] == [EMPTY + 1]
    assert {a["image_id"] for a in data["annotations"] if a["iscrowd"]} == {CROWD + 1, CROWD + 17}
    for annotation in data["annotations"]:
        if isinstance(annotation["segmentation"], dict):
            counts, size = annotation["segmentation"]["counts"], annotation["segmentation"]["size"]
            assert sum(counts[1::2]) == annotation["area"]
            assert sum(counts) == size[0] * size[1]


@pytest.mark.parametrize("package", ["pycocotools.coco", "faster_coco_eval"])
def test_coco_tools_read_the_masks_back(coco, package):
    module = pytest.importorskip(package)
    for part in ("train", "val"):
        path = str(coco / "annotations" / f"instances_{part}.json")
        with contextlib.redirect_stdout(io.StringIO()):
            tool = module.COCO(path)
        polygons = 0
        for image in content(coco, part)["images"]:
            index = int(Path(image["file_name"]).stem)
            annotations = tool.loadAnns(tool.getAnnIds(imgIds=[image["id"]]))
            for annotation, item in zip(annotations, objects(digit_scene(part, index)), strict=True):
                mask = np.asarray(tool.annToMask(annotation)).astype(bool)
                if isinstance(annotation["segmentation"], list):
                    polygons += 1
                    assert (mask & item.mask).sum() / (mask | item.mask).sum() > 0.9
                else:
                    np.testing.assert_array_equal(mask, item.mask)
        assert polygons > 5


def test_polygons_only_where_they_give_the_mask_back():
    def segmentation(mask: np.ndarray) -> dict | list:
        return _coco_annotation(SceneObject(3, mask), 0)["segmentation"]

    square = np.zeros((40, 50), bool)
    square[10:30, 20:35] = True
    assert len(segmentation(square)) == 1
    apart = square.copy()
    apart[10:30, 27] = False
    assert len(segmentation(apart)) == 2
    with_speck = square.copy()
    with_speck[15, 25] = False
    assert len(segmentation(with_speck)) == 1
    with_hole = square.copy()
    with_hole[15:20, 24:28] = False
    assert segmentation(with_hole) == run_lengths(with_hole)
    small = np.zeros((40, 50), bool)
    small[:9, :9] = True
    assert segmentation(small) == {"counts": [0, 9] + [31, 9] * 8 + [31 + 41 * 40], "size": [40, 50]}


def test_ade20k_is_what_was_composed(ade20k):
    for part, name, count in (("train", "training", NUM_TRAIN), ("val", "validation", NUM_VAL)):
        images = sorted((ade20k / "images" / name).iterdir())
        masks = sorted((ade20k / "annotations" / name).iterdir())
        assert [path.stem for path in images] == [path.stem for path in masks] == [f"{i:06d}" for i in range(count)]
        assert [path.suffix for path in images[:6]] == [".png"] * 3 + [".jpg"] + [".png"] * 2
        for index, path in enumerate(masks):
            scene = digit_scene(part, index)
            expected = np.ones(scene.image.shape[:2], int)
            for item in scene.digits:
                expected[item.mask] = item.label + 2
            if scene.crowd:
                expected[scene.crowd.mask] = 0
            with Image.open(path) as mask:
                assert (mask.format, mask.mode) == ("PNG", "L")
                np.testing.assert_array_equal(np.asarray(mask), expected)
    with Image.open(images[0]) as image:
        np.testing.assert_array_equal(np.asarray(image), digit_scene("val", 0).image)


def test_both_formats_hold_the_same_images(coco, ade20k):
    for part, name in (("train", "training"), ("val", "validation")):
        ours = {path.name: path.read_bytes() for path in (coco / part).iterdir()}
        assert ours == {path.name: path.read_bytes() for path in (ade20k / "images" / name).iterdir()}


def test_ade20k_names_its_classes(ade20k):
    header, *rows = (ade20k / "objectInfo150.txt").read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["Idx", "Ratio", "Train", "Val", "Stuff", "Name"]
    table = [row.split("\t") for row in rows]
    assert [(int(row[0]), row[5]) for row in table] == list(enumerate(("background", *DIGIT_NAMES), start=1))
    masks = {
        name: [np.asarray(Image.open(p)) for p in (ade20k / "annotations" / name).iterdir()]
        for name in ("training", "validation")
    }
    for row in table:
        label = int(row[0])
        assert int(row[2]) == sum((mask == label).any() for mask in masks["training"])
        assert int(row[3]) == sum((mask == label).any() for mask in masks["validation"])
        assert int(row[4]) == (label == 1)
        everywhere = np.concatenate([mask.ravel() for part in masks.values() for mask in part])
        assert float(row[1]) == pytest.approx((everywhere == label).mean(), abs=1e-4)


def test_nothing_but_the_folder_is_left(coco):
    assert [path.name for path in coco.parent.iterdir()] == ["coco"]


@pytest.mark.parametrize("write", [write_coco, write_ade20k])
def test_refuses_what_it_would_overwrite(tmp_path, write):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="not an empty folder; name a new folder"):
        write(tmp_path)
    with pytest.raises(ValueError, match=r"mine.txt: .*not an empty folder"):
        write(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("write", [write_coco, write_ade20k])
def test_an_interrupted_write_leaves_nothing(tmp_path, write, monkeypatch):
    calls = []

    def failing_save(self: Image.Image, path: Path, **options: object) -> None:
        calls.append(path)
        if len(calls) > 3:
            raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", failing_save)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "scenes", num_train=3, num_val=2)
    assert len(calls) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("write", "files"), [(write_coco, 7), (write_ade20k, 11)])
def test_processes_may_race(tmp_path, write, files, monkeypatch):
    # The other process finishes between this one's look at the folder and its renaming.
    def slower_replace(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        write(target, num_train=3, num_val=2)
        return os.replace(self, target)

    monkeypatch.setattr(Path, "replace", slower_replace)
    assert write(tmp_path / "scenes", num_train=3, num_val=2) == tmp_path / "scenes"
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == files
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_a_foreign_folder_in_its_place_is_a_fault(tmp_path, monkeypatch):
    def slower_replace(self: Path, target: Path) -> Path:
        (target / "mine").mkdir(parents=True)
        return os.replace(self, target)

    monkeypatch.setattr(Path, "replace", slower_replace)
    with pytest.raises(OSError, match="not empty"):
        write_coco(tmp_path / "scenes", num_train=1, num_val=1)
    assert [path.name for path in tmp_path.rglob("*")] == ["scenes", "mine"]


def test_the_module_itself_asks_for_no_torch():
    source = Path(sys.modules["scalablevit.data.builtin.digit_scenes"].__file__)
    code = f"import runpy, sys; runpy.run_path({str(source)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
