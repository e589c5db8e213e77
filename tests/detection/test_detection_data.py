"""Batches from COCO data: targets, EXIF, unusable images, classes, layouts, processes."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from scalablevit.data.builtin.scene_folders import write_coco
from scalablevit.detection.data import CocoData
from scalablevit.detection.dataset import DetectionBatch
from scalablevit.detection.transforms import Augmentation, as_input

PLAIN: dict[str, Any] = {"min_size": 30, "max_size": 60, "num_workers": 0, "augmentation": None}


def draw(path: Path, size: tuple[int, int] = (40, 30), orientation: int = 1, shade: int = 0) -> Path:
    """An image of one shade with a white 10 x 4 rectangle at (4, 2) of the stored pixels."""
    pixels = np.full((size[1], size[0], 3), shade, np.uint8)
    pixels[2:6, 4:14] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)
    return path


def entry(i: int, size: tuple[int, int] = (40, 30)) -> dict[str, Any]:
    return {"id": 10 * i, "file_name": f"{i}.png", "width": size[0], "height": size[1]}


def box(i: int, image: int, category: int = 5, **changes: Any) -> dict[str, Any]:
    outline = [[4, 2, 14, 2, 14, 6, 4, 6]]
    shape = {"bbox": [4, 2, 10, 4], "segmentation": outline, "area": 40, "iscrowd": 0}
    return {"id": i, "image_id": 10 * image, "category_id": category, **shape, **changes}


def write_json(path: Path, images: list[Any], annotations: list[Any], categories: list[Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = categories or [{"id": 5, "name": "ant"}, {"id": 90, "name": "bee"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training images, the first with a crowd, the second and the last, a portrait, empty; one for validation."""
    for i in (1, 2, 3):
        draw(tmp_path / "train" / f"{i}.png", shade=20 * i)
    draw(tmp_path / "train" / "4.png", (30, 40), shade=80)
    draw(tmp_path / "val" / "5.png", (50, 20))
    images = [entry(1), entry(2), entry(3), entry(4, (30, 40))]
    boxes = [box(1, 1), box(2, 3, 90), box(3, 3, bbox=[0, 0, 8, 8]), box(4, 1, iscrowd=1)]
    write_json(tmp_path / "annotations" / "instances_train2017.json", images, boxes)
    write_json(tmp_path / "annotations" / "instances_val2017.json", [entry(5, (50, 20))], [box(1, 5, 90)])
    return tmp_path


def rewrite(root: Path, change: Any) -> None:
    """Change what the training annotations hold."""
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def batches(data: CocoData, part: str = "train") -> list[DetectionBatch]:
    return list(data.train_dataloader() if part == "train" else data.val_dataloader())


def by_image(data: CocoData) -> dict[int, tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    return {
        batch.image_ids[i]: (batch.images[i], batch.targets[i])
        for batch in batches(data)
        for i in range(len(batch.images))
    }


def test_training_batches(root):
    data = CocoData(root, **PLAIN, batch_size=1, masks=True)
    assert data.class_names == ["ant", "bee"]
    assert data.num_classes == 2
    found = by_image(data)
    assert sorted(found) == [10, 20, 30, 40]
    image, target = found[30]
    assert image.shape == (3, 30, 40)
    assert image.dtype == torch.float32
    assert image[0, 20, 20] == pytest.approx(60 / 255)
    assert target["labels"].tolist() == [1, 0]
    assert target["boxes"].tolist() == [[4, 2, 14, 6], [0, 0, 8, 8]]
    assert target["masks"].shape == (2, 30, 40)
    assert torch.equal(target["masks"][0].bool(), image[0] == 1)
    assert found[10][1]["boxes"].tolist() == [[4, 2, 14, 6]], "crowd regions are not trained on"
    for empty in (20, 40):
        assert found[empty][1]["boxes"].shape == (0, 4)
        assert found[empty][1]["boxes"].dtype == torch.float32
        assert found[empty][1]["labels"].dtype == torch.int64
        assert found[empty][1]["masks"].shape == (0, *found[empty][0].shape[1:])
    assert "masks" not in by_image(CocoData(root, **PLAIN, batch_size=1))[30][1]


def test_validation_batches_are_whole_and_without_targets(root):
    data = CocoData(root, **PLAIN)
    (batch,) = batches(data, "val")
    assert [image.shape for image in batch.images] == [(3, 20, 50)]
    assert type(batch.images[0]) is torch.Tensor
    assert batch.images[0].dtype == torch.uint8, "a quarter of what floats would move"
    with Image.open(root / "val" / "5.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(batch.images[0], pixels)
    ready = as_input(batch.images[0])
    assert ready.dtype == torch.float32
    assert (ready.min(), ready.max()) == (0, 1)
    assert batch.targets == [{}]
    assert batch.image_ids == [50]
    assert batch.readable == [True]
    assert batch.unreadable == []
    assert data.val_annotations.ground_truth([50])["annotations"][0]["category_id"] == 90
    assert data.val_dataset.path(0) == root / "val" / "5.png"


def test_batches_hold_images_of_one_aspect(root):
    sizes = {i: (40, 30) if i in (1, 2, 3, 6) else (30, 40) for i in range(1, 9)}
    for i, size in sizes.items():
        draw(root / "train" / f"{i}.png", size)
    rewrite(root, lambda content: content.update(images=[entry(i, size) for i, size in sizes.items()]))
    data = CocoData(root, **PLAIN)
    assert list(data.batch_groups()) == [1, 1, 1, 0, 0, 1, 0, 0]
    for epoch in range(3):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        shapes = [{image.shape for image in batch.images} for batch in loader]
        assert [len(shape) for shape in shapes] == [1, 1, 1, 1]


def test_images_of_crowds_alone_are_no_background(root, caplog):
    rewrite(root, lambda content: content["annotations"].append(box(5, 4, iscrowd=1)))
    with caplog.at_level(logging.WARNING):
        assert sorted(by_image(CocoData(root, **PLAIN, batch_size=1))) == [10, 20, 30]
    assert "1 images have crowd regions only and are not trained on" in caplog.text


def test_objects_without_a_mask_are_trained_by_their_boxes(root):
    rewrite(root, lambda content: content["annotations"][1].pop("segmentation"))
    target = by_image(CocoData(root, **PLAIN, batch_size=1, masks=True))[30][1]
    assert target["labels"].tolist() == [1, 0]
    assert target["has_mask"].tolist() == [False, True]
    assert target["masks"].flatten(1).any(1).tolist() == [False, True]
    rewrite(root, lambda content: [annotation.pop("segmentation", None) for annotation in content["annotations"]])
    with pytest.raises(ValueError, match=r"none of its 4 annotations has a mask(?s:.*)4 annotations have no mask"):
        CocoData(root, **PLAIN, masks=True)


def test_images_without_objects_can_be_left_out(root):
    data = CocoData(root, **PLAIN, batch_size=1, keep_empty=False)
    assert sorted(by_image(data)) == [10, 30]
    assert list(data.batch_groups()) == [1, 1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("annotated", ["stored", "upright"])
def test_exif_orientation_turns_image_boxes_and_masks_alike(root, orientation, annotated):
    draw(root / "train" / "1.png", orientation=orientation)
    turned = orientation >= 5
    data = CocoData(root, **PLAIN, batch_size=1, masks=True)
    if annotated == "upright":
        with Image.open(root / "train" / "1.png") as stored:
            white = np.argwhere(np.asarray(ImageOps.exif_transpose(stored))[..., 0] == 255)
        (top, left), (bottom, right) = white.min(0).tolist(), (white.max(0) + 1).tolist()

        def change(content: dict[str, Any]) -> None:
            content["images"][0] = entry(1, (30, 40) if turned else (40, 30))
            outline = [[left, top, right, top, right, bottom, left, bottom]]
            shape = {"bbox": [left, top, right - left, bottom - top], "segmentation": outline}
            content["annotations"][0].update(shape)

        rewrite(root, change)
        # where the size does not tell, it has to be said
        frame = "auto" if turned else "upright"
        data = CocoData(root, **PLAIN, batch_size=1, masks=True, annotation_frame=frame)
    image, target = by_image(data)[10]
    assert image.shape == ((3, 40, 30) if turned else (3, 30, 40))
    assert torch.equal(target["masks"][0].bool(), image[0] == 1)
    rows, columns = target["masks"][0].nonzero(as_tuple=True)
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert target["boxes"].tolist() == [[int(edge) for edge in edges]]


@pytest.mark.parametrize("orientation", [3, 5, 6, 7, 8])
def test_upright_boxes_without_a_size_that_tells(root, orientation):
    draw(root / "train" / "1.png", orientation=orientation)
    with Image.open(root / "train" / "1.png") as stored:
        white = np.argwhere(np.asarray(ImageOps.exif_transpose(stored))[..., 0] == 255)
    (top, left), (bottom, right) = white.min(0).tolist(), (white.max(0) + 1).tolist()

    def change(content: dict[str, Any]) -> None:
        del content["images"][0]["width"], content["images"][0]["height"]
        outline = [[left, top, right, top, right, bottom, left, bottom]]
        content["annotations"][0].update(bbox=[left, top, right - left, bottom - top], segmentation=outline)

    rewrite(root, change)
    data = CocoData(root, **PLAIN, batch_size=1, masks=True, annotation_frame="upright")
    image, target = by_image(data)[10]
    assert torch.equal(target["masks"][0].bool(), image[0] == 1)
    assert target["boxes"].tolist() == [[left, top, right, bottom]]


def test_orientation_of_validation_images_is_told(root):
    draw(root / "val" / "5.png", (50, 20), orientation=6)
    (batch,) = batches(CocoData(root, **PLAIN), "val")
    assert batch.images[0].shape == (3, 50, 20)
    assert batch.orientations == [6]


def test_broken_images_are_replaced_in_training(root):
    (root / "train" / "1.png").write_bytes(b"no image")
    draw(root / "train" / "2.png", (80, 60))  # twice the size that the annotations say
    data = CocoData(root, **PLAIN, batch_size=1)
    found = batches(data)
    assert len(found) == 4
    assert [batch.image_ids[0] for batch in found].count(30) == 3
    messages = {message for batch in found for message in batch.unreadable}
    assert len(messages) == 2
    assert any("1.png: this is not an image" in message for message in messages)
    assert any("2.png: the image has 80 x 60 pixels, but" in m and "says 40 x 30" in m for m in messages)
    assert all(batch.readable == [True] for batch in found)


def test_a_file_that_vanishes_while_training(root):
    data = CocoData(root, **PLAIN, batch_size=1)
    (root / "train" / "1.png").unlink()
    assert len(batches(data)) == 4


def test_when_nothing_can_be_read(root):
    data = CocoData(root, **PLAIN, batch_size=1, masks=True)
    for i in range(1, 5):
        (root / "train" / f"{i}.png").write_bytes(b"")
    for batch in batches(data):
        assert batch.readable == [False]
        assert batch.images[0].dtype == torch.float32
        assert len(set(batch.unreadable)) == 4
        assert batch.targets[0]["boxes"].shape == (0, 4)
        assert batch.targets[0]["masks"].shape == (0, *batch.images[0].shape[1:])


def test_broken_validation_images_are_marked(root):
    (root / "val" / "5.png").write_bytes(b"no image")
    (batch,) = batches(CocoData(root, **PLAIN), "val")
    assert batch.readable == [False]
    assert batch.image_ids == [50]
    assert "5.png" in batch.unreadable[0]
    assert batch.images[0].shape[0] == 3
    assert batch.images[0].dtype == torch.uint8


def test_missing_images_are_counted_at_the_start(root, caplog):
    (root / "train" / "1.png").unlink()
    with caplog.at_level(logging.WARNING):
        data = CocoData(root, **PLAIN, batch_size=1)
    assert sorted(by_image(data)) == [20, 30, 40]
    assert "1 image files are missing" in caplog.text
    assert "check-data" in caplog.text
    with pytest.raises(ValueError, match=r"1 of its 4 image files are missing, more than max_unreadable=0.*1\.png"):
        CocoData(root, **PLAIN, max_unreadable=0)


def test_what_is_wrong_is_logged_once_a_kind(root, caplog):
    def change(content: dict[str, Any]) -> None:
        content["annotations"] += [box(9, 1, bbox=[0, 0, 0, 0]), box(8, 1, bbox=[0, 0, 0, 0]), box(7, 77)]

    rewrite(root, change)
    with caplog.at_level(logging.WARNING):
        CocoData(root, **PLAIN)
    assert len(caplog.records) == 2
    assert "2 boxes have no area" in caplog.text
    assert "1.png: annotation 9" in caplog.text
    assert "1 annotations name an image that is not listed" in caplog.text


def test_one_file_is_split(tmp_path):
    for i in range(1, 11):
        draw(tmp_path / f"{i}.png")
    write_json(tmp_path / "labels.json", [entry(i) for i in range(1, 11)], [box(i, i) for i in range(1, 11)])
    data = CocoData(tmp_path, **PLAIN, val_fraction=0.3)
    assert (len(data.train_dataset), len(data.val_dataset)) == (7, 3)
    assert data.val_annotations is data.train_annotations
    assert "set aside from training" in data.summary()
    seen = {batch_id for batch in batches(data, "val") for batch_id in batch.image_ids}
    assert not seen & set(by_image(data))


def test_summary(root):
    assert CocoData(root, **PLAIN).summary().splitlines() == [
        f"data        {root}",
        "training    4 images with 3 objects (instances_train2017.json)",
        "empty       2 training images have no object",
        "validation  1 images with 1 objects (instances_val2017.json)",
        "classes     2: ant, bee",
        "per class   1 (of bee) to 2 (of ant) training objects",
        "masks       not read",
        "input       shorter side 30, longer at most 60 pixels",
    ]


def test_only_crowd_is_nothing_to_learn_from(root):
    rewrite(root, lambda content: [annotation.update(iscrowd=1) for annotation in content["annotations"]])
    with pytest.raises(ValueError, match="not one of its 4 training images has an object"):
        CocoData(root, **PLAIN)


@pytest.mark.parametrize("min_size", [23, 41])
def test_the_size_of_evaluation_must_be_among_those_of_training(root, min_size):
    settings = {**PLAIN, "min_size": min_size, "max_size": 100}
    among = Augmentation(sizes=(24, 40))
    words = rf"data.min_size {min_size} lies outside data.augmentation.sizes \[24, 40\]"
    with pytest.raises(ValueError, match=words) as refused:
        CocoData(root, **{**settings, "augmentation": among})
    (remedy,) = re.findall(r"--data.augmentation.sizes '(\[.*?\])'", str(refused.value))
    CocoData(root, **{**settings, "augmentation": Augmentation(sizes=tuple(json.loads(remedy)))})
    for edge in (24, 30, 40):
        CocoData(root, **{**settings, "augmentation": among, "min_size": edge})
    for no_sizes in (None, Augmentation()):
        CocoData(root, **{**settings, "augmentation": no_sizes})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"annotation_frame": "turned"}, "annotation_frame must be"),
        ({"val_fraction": 0}, "val_fraction"),
        ({"batch_size": 0}, "batch_size"),
        ({"builtin": "scenes"}, "builtin must be 'digit_scenes'"),
        ({"mean": [0.5]}, "three values"),
        ({"val_images": "nowhere"}, "check val_images"),
    ],
)
def test_bad_arguments(root, settings, words):
    with pytest.raises(ValueError, match=words):
        CocoData(root, **{**PLAIN, **settings})


def test_samples_do_not_depend_on_workers(root):
    augmentation = Augmentation(
        sizes=(20, 30, 40), crop_prob=0.5, crop_resize=(30,), crop_size=(10, 30), color_jitter=0.3
    )
    settings = {**PLAIN, "augmentation": augmentation, "masks": True, "batch_size": 1, "max_size": 80}
    here = batches(CocoData(root, **settings))
    there = batches(CocoData(root, **{**settings, "num_workers": 2}))
    other = batches(CocoData(root, **settings, seed=1))
    assert [batch.image_ids for batch in here] == [batch.image_ids for batch in there]
    for one, two in zip(here, there, strict=True):
        assert torch.equal(one.images[0], two.images[0])
        assert {key: value.tolist() for key, value in one.targets[0].items()} == {
            key: value.tolist() for key, value in two.targets[0].items()
        }
    assert any(one.images[0].shape != two.images[0].shape for one, two in zip(here, other, strict=True))


def test_builtin_scenes(tmp_path):
    write_coco(tmp_path / "scenes", num_train=24, num_val=10, seed=1)
    settings = {**PLAIN, "min_size": 64, "max_size": 128, "masks": True, "augmentation": Augmentation()}
    data = CocoData(tmp_path / "scenes", **settings, builtin="digit_scenes", batch_size=4)
    assert data.num_classes == 10
    assert (len(data.train_dataset), len(data.val_dataset)) == (24, 10)
    assert data.train_annotations.problem_counts == {}
    objects = 0
    for batch in batches(data):
        assert batch.unreadable == []
        for image, target in zip(batch.images, batch.targets, strict=True):
            assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
            assert target["masks"].shape[1:] == image.shape[1:]
            # every mask lies in its box, and fills a part of it
            for sides, mask in zip(target["boxes"], target["masks"], strict=True):
                rows, columns = mask.nonzero(as_tuple=True)
                assert rows.min() >= sides[1] - 1.5
                assert rows.max() <= sides[3] + 0.5
                assert columns.min() >= sides[0] - 1.5
                assert columns.max() <= sides[2] + 0.5
                objects += 1
    assert objects > 24
    assert data.val_annotations.crowd.any() or data.train_annotations.crowd.any()


def test_builtin_scenes_are_written_where_nothing_is(tmp_path, monkeypatch):
    from scalablevit.data.builtin import scene_folders

    def write_few(root: Path) -> None:
        write_coco(root, num_train=4, num_val=2)

    monkeypatch.setattr(scene_folders, "write_coco", write_few)
    for _ in range(2):
        data = CocoData(tmp_path / "new", **PLAIN, builtin="digit_scenes")
        assert len(data.train_dataset) == 4


def test_values_of_12_bits_are_told_and_read_in_their_range(root, caplog):
    pixels = np.linspace(0, 4095, 30 * 40).reshape(30, 40).astype(np.uint16)
    for name in ("train/1.png", "train/2.png", "train/3.png"):
        Image.fromarray(pixels).save(root / name)
    with caplog.at_level(logging.WARNING):
        CocoData(root, **PLAIN)
    assert "16-bit grayscale with values up to 4,095 of 65,535" in caplog.text
    assert "set data.value_range [0, 4095]" in caplog.text
    Image.fromarray(pixels[:20, :20].repeat(3, axis=1)[:, :50]).save(root / "val/5.png")
    caplog.clear()
    data = CocoData(root, **PLAIN, value_range=(0, 4095), batch_size=1)
    assert "16-bit" not in caplog.text
    assert data.preprocessing.value_range == (0, 4095)
    assert float(by_image(data)[10][0].max()) > 0.99
    (batch,) = batches(data, "val")
    assert int(batch.images[0].max()) > 100
    with pytest.raises(ValueError, match="value_range must be"):
        CocoData(root, **PLAIN, value_range=(5, 5))
