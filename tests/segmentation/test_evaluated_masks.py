"""A trained network is evaluated on other masks: all of them, with classes matched by name."""

import logging

import numpy as np
import pytest
from mask_folders import write_folder, write_image, write_mask
from PIL import Image

from scalablevit.data.split import settings_for_evaluation
from scalablevit.segmentation import survey
from scalablevit.segmentation.data import MaskFolderData
from scalablevit.segmentation.label_map import LabelMap

TRAINED = ["sky", "sea", "sand"]
SETTINGS = {"crop_size": [16, 24], "short_side": None, "long_side": None, "num_workers": 0, "augmentation": None}


def data(root, **settings):
    return MaskFolderData(root, **{**SETTINGS, "trained_class_names": TRAINED, "val_fraction": 1.0, **settings})


def write_pairs(root, count=5):
    for i in range(count):
        write_image(root / f"images/{i}.png", seed=i)
        write_mask(root / f"masks/{i}.png")


def classes_of(made):
    return made.val_dataset[0].mask[0, :3].tolist()


def test_all_of_a_folder_without_parts_is_measured(tmp_path):
    write_pairs(tmp_path)
    made = data(tmp_path)
    assert (len(made.train_dataset), len(made.val_dataset)) == (0, 5)
    assert "validation  5 images with masks (all that there are)" in made.summary()
    assert "training " not in made.summary()
    with pytest.raises(ValueError, match="val_fraction must be between 0 and 1"):
        MaskFolderData(tmp_path, val_fraction=1.0, **SETTINGS)


@pytest.mark.parametrize("layout", ["ade", "parts"])
def test_a_validation_part_alone_is_enough(tmp_path, layout):
    write_folder(tmp_path)
    for path in tmp_path.glob("*/training/*"):
        path.unlink()
    for path in tmp_path.glob("*/training"):
        path.rmdir()
    if layout == "parts":
        (tmp_path / "test").mkdir()
        (tmp_path / "images/validation").rename(tmp_path / "test/images")
        (tmp_path / "annotations/validation").rename(tmp_path / "test/masks")
    assert len(data(tmp_path).val_dataset) == 2


def test_classes_in_another_order_are_matched_by_name(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("sand\nsky\nsea\n")
    made = data(tmp_path)
    assert made.class_names == TRAINED
    assert classes_of(made) == [2, 0, 1]


def test_a_set_without_one_class_is_measured_and_told(tmp_path, caplog):
    write_pairs(tmp_path)
    for path in tmp_path.glob("masks/*"):
        write_mask(path, np.arange(24)[None].repeat(16, axis=0) % 2)
    (tmp_path / "classes.txt").write_text("sea\nsky\n")
    with caplog.at_level(logging.WARNING):
        made = data(tmp_path)
    assert classes_of(made) == [1, 0, 1]
    assert "1 of 3 classes never occur: 'sand'" in caplog.text
    assert "training" not in caplog.text


def test_a_class_that_the_network_has_not(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nsea\nsnow\n")
    with pytest.raises(ValueError, match=r"not among the 3 of the network \('sky', 'sea', 'sand'\): 'snow'"):
        data(tmp_path)
    assert classes_of(data(tmp_path, ignore_labels=[2])) == [0, 1, 255]
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\nsnow\n")
    assert classes_of(data(tmp_path)) == [0, 1, 2], "it has no pixels"


def test_numbers_without_names_are_those_of_training(tmp_path):
    write_pairs(tmp_path)
    assert classes_of(data(tmp_path, reduce_zero_label=True)) == [255, 0, 1]


def test_colours_are_matched_by_name_too(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "labelmap.txt").write_text("sand:1,1,1::\nsea:0,0,0::\nsky:2,2,2::\n")
    assert classes_of(data(tmp_path)) == [1, 2, 0]


def test_a_class_that_the_network_has_not_is_never_ignored_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "_MOST_VALIDATION", 1)
    write_pairs(tmp_path)
    for i in range(5):
        write_mask(tmp_path / f"masks/{i}.png", np.full((16, 24), 3 if i == 4 else 0))
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\nsnow\n")
    with pytest.raises(ValueError, match="the label 3, but labels 0, 1, 2 are classes"):
        data(tmp_path)


COLOURS = LabelMap(
    3, ignore_labels=(), entries=((0xFF0000, 2), (0x00FF00, 0), (0x0000FF, 1), (0, 255)), in_colours=True
)


def write_palette_masks(root, palette=(0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255)):
    """Palette indices 0 to 3 in columns, which CVAT numbers by the order of its colours."""
    write_pairs(root)
    for path in root.glob("masks/*"):
        mask = Image.fromarray(np.tile(np.arange(24, dtype=np.uint8) % 4, (16, 1)))
        mask.putpalette(palette)
        mask.save(path)


def test_masks_without_a_label_map_have_the_labels_of_training(tmp_path):
    write_palette_masks(tmp_path)
    made = data(tmp_path, trained_label_map=COLOURS.to_dict())
    assert made.val_dataset[0].mask[0, :4].tolist() == [255, 2, 0, 1]
    assert "colours #ff0000, #00ff00, #0000ff are classes" in made.summary()
    write_pairs(tmp_path)
    numbers = LabelMap(3, ignore_labels=(), entries=((0, 2), (1, 0), (2, 1)))
    assert classes_of(data(tmp_path, trained_label_map=numbers.to_dict())) == [2, 0, 1]


def test_names_of_the_data_come_before_the_labels_of_training(tmp_path):
    write_palette_masks(tmp_path)
    (tmp_path / "labelmap.txt").write_text("sky:255,0,0::\nsea:0,255,0::\nsand:0,0,255::\nignored:0,0,0::\n")
    made = data(tmp_path, trained_label_map=COLOURS.to_dict())
    assert made.val_dataset[0].mask[0, :4].tolist() == [255, 0, 1, 2]
    (tmp_path / "labelmap.txt").unlink()
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("sand\nsky\nsea\n")
    assert classes_of(data(tmp_path, trained_label_map=COLOURS.to_dict())) == [2, 0, 1]


def test_masks_of_class_indices_under_a_network_of_colours_are_told(tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(ValueError, match=r"the colours? #010101.* but colours #ff0000, .* label_map null"):
        data(tmp_path, trained_label_map=COLOURS.to_dict())


def test_what_the_user_says_of_labels_comes_first():
    own = {"root": "a", "label_map": "auto", "trained_class_names": None, "trained_label_map": None}
    other = {**own, "root": "b"}
    settings = {"class_names": TRAINED, "label_map": COLOURS.to_dict()}
    assert settings_for_evaluation(other, own, **settings)["trained_label_map"] == COLOURS.to_dict()
    assert "trained_label_map" in settings_for_evaluation(other, own, given={"label_map"}, **settings)
    numbered = {**other, "label_map": None}
    assert "trained_label_map" not in settings_for_evaluation(numbered, own, given={"label_map"}, **settings)
    assert "trained_label_map" not in settings_for_evaluation(other, own, given={"ignore_labels"}, **settings)


@pytest.mark.parametrize("found", [{}, {**COLOURS.to_dict(), "entries": 5}, LabelMap(2).to_dict()])
def test_a_damaged_label_map_of_a_checkpoint_is_told(tmp_path, found):
    write_pairs(tmp_path)
    with pytest.raises(ValueError, match=r"trained_label_map .* take another checkpoint"):
        data(tmp_path, trained_label_map=found)
