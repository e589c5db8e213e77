"""Data that a trained network is evaluated on: elsewhere, with some of its classes, in another order."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalablevit.data.split import settings_for_evaluation
from scalablevit.detection import CocoData

TRAINED = ["ant", "bee", "wasp"]


def write(root: Path, names: dict[int, str], number: int = 10, *, file: str = "labels.json") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(1, number + 1):
        pixels = np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 40, "height": 30})
        category = list(names)[i % len(names)]
        annotations.append({"id": i, "image_id": i, "category_id": category, "bbox": [i, 2, 10, 4 + i % 3]})
    categories = [{"id": i, "name": name} for i, name in names.items()]
    (root / file).write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root / file


def evaluated(root: Path, **settings: Any) -> CocoData:
    settings = {"min_size": 32, "max_size": 64, "num_workers": 0, **settings}
    return CocoData(root, trained_class_names=TRAINED, **settings)


def test_all_images_of_new_data_are_measured_with_the_networks_classes(tmp_path: Path) -> None:
    write(tmp_path, {3: "wasp", 9: "ant"})
    data = evaluated(tmp_path, val_fraction=1.0)
    assert data.class_names == TRAINED
    assert len(data.val_dataset) == 10
    assert not data.is_split
    assert "validation  10 images with 10 objects (labels.json)" in data.summary()
    assert "training" not in data.summary()
    ids = dict(zip(data.class_names, data.val_annotations.category_ids, strict=True))
    assert (ids["ant"], ids["wasp"]) == (9, 3)
    assert sum(len(batch.images) for batch in data.val_dataloader()) == 10


def test_the_share_that_was_set_aside_stays_the_one_that_is_measured(tmp_path: Path) -> None:
    write(tmp_path, dict(enumerate(TRAINED)))
    trained = CocoData(tmp_path, min_size=32, max_size=64, num_workers=0, val_fraction=0.3)
    again = evaluated(tmp_path, val_fraction=0.3)
    assert again.is_split
    assert again.val_dataset.indices.tolist() == trained.val_dataset.indices.tolist()
    with pytest.raises(ValueError, match="val_fraction must be between 0 and 1"):
        CocoData(tmp_path, val_fraction=1.0)


def test_the_training_data_may_be_gone(tmp_path: Path) -> None:
    file = write(tmp_path / "test" / "images", {1: "bee"}, file="some.json")
    data = evaluated(
        tmp_path / "gone",
        train_annotations="instances_train.json",
        train_images="train",
        val_annotations=str(file),
        val_images=str(file.parent),
    )
    assert len(data.val_dataset) == 10
    assert data.class_names == TRAINED


def test_a_class_that_the_network_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path, {1: "ant", 2: "moth"})
    with pytest.raises(ValueError, match=r"boxes of 1 categories that the network lacks: 'moth'"):
        evaluated(tmp_path, val_fraction=1.0)


def test_a_folder_with_a_validation_part_only(tmp_path: Path) -> None:
    write(tmp_path / "val", {1: "ant"}, file="_annotations.coco.json")
    assert len(evaluated(tmp_path).val_dataset) == 10


def test_settings_of_boxes_are_compared_with_those_of_training() -> None:
    own = {"root": "a", "masks": True, "train_annotations": ["x.json", "y.json"], "trained_class_names": None}
    own |= {"val_annotations": None, "val_fraction": 0.1}
    same = settings_for_evaluation(own, dict(own), class_names=TRAINED)
    assert same == {"trained_class_names": TRAINED}
    other = settings_for_evaluation({**own, "val_annotations": "z.json"}, own, class_names=TRAINED)
    assert other == {"trained_class_names": TRAINED, "val_fraction": 1.0}
