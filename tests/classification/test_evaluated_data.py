"""A trained network is evaluated on all images of a folder, with its own classes, matched by name."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit.classification import ImageFolderData
from scalablevit.data.split import settings_for_evaluation
from scalablevit.data.text_file import normalised

PLAIN = {"image_size": 8, "batch_size": 2, "num_workers": 0, "augmentation": None}
CLASSES = ["ant", "bee", "fly"]


def write(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(root / name / f"{i}.png")
    return root


def evaluated(root: Path, **settings: object) -> ImageFolderData:
    return ImageFolderData(root, **PLAIN, trained_class_names=CLASSES, **settings)


def test_all_images_are_measured_where_nothing_is_set_aside(tmp_path):
    data = evaluated(write(tmp_path / "test", ant=10, bee=10, fly=10), val_fraction=1.0)
    assert len(data.val_dataset) == 30
    assert f"validation  30 images (all of {tmp_path / 'test'}" in data.summary()


def test_of_data_of_ones_own_the_part_that_was_set_aside_is_measured(tmp_path):
    root = write(tmp_path / "data", ant=10, bee=10, fly=10)
    trained = ImageFolderData(root, **PLAIN, val_fraction=0.2)
    again = evaluated(root, val_fraction=0.2)
    assert [again.val_dataset.path(i) for i in range(6)] == [trained.val_dataset.path(i) for i in range(6)]
    assert len(again.val_dataset) == 6


def test_a_validation_folder_needs_no_training_folder(tmp_path):
    write(tmp_path / "val", ant=2, bee=1)
    assert len(evaluated(tmp_path).val_dataset) == 3


def test_classes_are_those_of_the_network_whatever_the_folder_has(tmp_path, caplog):
    data = evaluated(write(tmp_path / "test", fly=2, bee=3), val_fraction=1.0)
    assert data.class_names == CLASSES
    assert data.val_dataset.targets.tolist() == [1, 1, 1, 2, 2]
    assert "1 of 3 classes have no images: 'ant'" in caplog.text


def test_one_class_alone_can_be_measured(tmp_path):
    assert evaluated(write(tmp_path / "test", bee=3), val_fraction=1.0).val_dataset.targets.tolist() == [1, 1, 1]


def test_a_class_that_the_network_has_not_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"1 classes are not among the 3 of the network .*'wasp'; rename"):
        evaluated(write(tmp_path / "test", bee=3, wasp=1), val_fraction=1.0)


def test_human_names_are_matched_too(tmp_path):
    write(tmp_path / "test", n1=1, n2=1, n3=1)
    (tmp_path / "names.txt").write_text("n1 fly\nn2 ant\nn3 bee\n")
    data = evaluated(tmp_path / "test", val_fraction=1.0, class_names_file=tmp_path / "names.txt")
    assert data.val_dataset.targets.tolist() == [0, 1, 2]
    assert data.val_dataset.path(0).parent.name == "n2"


def test_one_name_in_two_forms_of_accents_is_one_class(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write(tmp_path / "d" / "train", **{composed: 4, "tea": 4})
    write(tmp_path / "d" / "val", **{apart: 2, "tea": 2})
    data = ImageFolderData(tmp_path / "d", **PLAIN)
    assert data.class_names == [composed, "tea"]
    assert len(data.val_dataset) == 4
    data = ImageFolderData(tmp_path / "d", **PLAIN, trained_class_names=[apart, "tea"])
    assert data.val_dataset.targets.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("part", ["", "val"])
def test_every_image_of_a_class_is_measured_though_two_folders_look_the_same(tmp_path, part):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write(tmp_path / "d" / part, **{composed: 3, apart: 4, "tea": 2, "tea ": 1})
    data = ImageFolderData(tmp_path / "d", **PLAIN, trained_class_names=[composed, "tea"], val_fraction=1.0)
    assert np.bincount(data.val_dataset.targets).tolist() == [7, 3]
    assert all(data.val_dataset.path(i).is_file() for i in range(10))


def test_links_that_lead_to_themselves_cost_no_image(tmp_path):
    write(tmp_path / "d", a=4, b=4)
    (tmp_path / "d" / "me").symlink_to("me")
    (tmp_path / "d" / "a" / "me").symlink_to("me")
    data = ImageFolderData(tmp_path / "d", **PLAIN)
    assert len(data.train_dataset) + len(data.val_dataset) == 8


def test_two_folders_of_one_name_in_two_forms_are_refused(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write(tmp_path / "d", **{composed: 4, apart: 4, "tea": 4})
    with pytest.raises(ValueError, match=r"cafe\\u0301' and 'caf\\xe9' look the same; merge"):
        ImageFolderData(tmp_path / "d", **PLAIN)


def test_letters_are_the_same_in_a_locale_that_has_none():
    assert normalised("caf\udcc3\udca9") == normalised("cafe\u0301") == "café"  # as Python reads it under LC_ALL=C
    assert normalised("\ud800") == "\\ud800"


def test_names_that_are_no_text_become_text(tmp_path):
    write(tmp_path / "d", **{"caf\udce9": 4, "tea": 4})
    assert ImageFolderData(tmp_path / "d", **PLAIN).class_names == ["caf\\xe9", "tea"]


def test_only_data_elsewhere_are_measured_in_whole(tmp_path):
    own = {"root": str(tmp_path), "val_fraction": 0.1, "trained_class_names": None, "val": "auto"}
    change = settings_for_evaluation(own, own, class_names=["a"])
    assert change == {"trained_class_names": ["a"]}
    (tmp_path / "link").symlink_to(tmp_path)
    assert settings_for_evaluation({**own, "root": str(tmp_path / "link")}, own, class_names=["a"]) == change
    other = {**own, "root": str(tmp_path / "other")}
    assert settings_for_evaluation(other, own, class_names=["a"]) == {**change, "val_fraction": 1.0}
    assert settings_for_evaluation(other, own, class_names=["a"], given={"val_fraction"}) == change
    assert settings_for_evaluation({"root": "x"}, own, class_names=["a"]) == {}


def test_links_and_unused_parts_are_told(tmp_path, caplog):
    write(tmp_path / "train", ant=4, bee=4)
    write(tmp_path / "testing", ant=1, bee=1)
    (tmp_path / "train" / "ant" / "again").symlink_to(".")
    data = ImageFolderData(tmp_path, **PLAIN)
    assert len(data.train_dataset) + len(data.val_dataset) == 8
    assert "links to folders that are searched already" in caplog.text
    assert "'testing' is not used; name it with --data.val testing" in caplog.text


def test_images_shared_by_link_between_the_parts_are_told(tmp_path, caplog):
    write(tmp_path / "train", ant=4, bee=4)
    (tmp_path / "val").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "val" / name).symlink_to(tmp_path / "train" / name)
    ImageFolderData(tmp_path, **PLAIN)
    assert "the same images are in training and validation" in caplog.text


def test_fit_tells_what_it_leaves_out(tmp_path, caplog):
    root = write(tmp_path / "d", cat=3, dog=3)
    for i in range(40):
        (root / "cat" / f"IMG_{i}.XYZ").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    data = ImageFolderData(root, **PLAIN)
    assert "left out    files that are no images by their names: 40 .xyz" in data.summary()
    assert "40 files ending in .xyz are left out, though they look like images" in caplog.text


def test_an_empty_class_tells_what_lies_in_it(tmp_path):
    root = write(tmp_path / "d", dog=3, fox=3, cat=0)
    (root / "cat" / "IMG_1.XYZ").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ValueError, match=r"cat: the class folder has no images, but 1 \.xyz"):
        ImageFolderData(root, **PLAIN)


def test_a_range_of_values_reaches_the_network_and_its_metadata(tmp_path, caplog):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / name / f"{i}.png")
    dark = ImageFolderData(tmp_path, **PLAIN)
    assert "16-bit grayscale with values up to 4,095 of 65,535" in caplog.text
    assert caplog.text.count("16-bit grayscale") == 1
    bright = ImageFolderData(tmp_path, **PLAIN, value_range=[0, 4095])
    assert bright.train_dataset[0].image.mean() > dark.train_dataset[0].image.mean() + 3
    assert bright.preprocessing.to_dict()["value_range"] == [0.0, 4095.0]
    assert "value_range" not in dark.preprocessing.to_dict()
    with pytest.raises(ValueError, match=r"value_range must be .* such as \[0, 4095\], got \[9, 9\]"):
        ImageFolderData(tmp_path, **PLAIN, value_range=[9, 9])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_file_of_names_in_every_encoding_and_form_of_accents(tmp_path, encoding, form):
    write(tmp_path / "d", **{unicodedata.normalize("NFC", "é"): 4, "tea": 4})
    text = unicodedata.normalize(form, "é grün café\r\ntea straße\r\n")
    (tmp_path / "names.txt").write_bytes(text.encode(encoding))
    data = ImageFolderData(tmp_path / "d", **PLAIN, class_names_file=tmp_path / "names.txt")
    assert sorted(data.class_names) == ["grün café", "straße"]


def test_a_class_without_training_images_is_told(tmp_path, caplog):
    write(tmp_path / "train", ant=3, bee=3, fly=0)
    write(tmp_path / "val", ant=1, bee=1, fly=2, wasp=0)
    data = ImageFolderData(tmp_path, **PLAIN)
    assert data.class_names == ["ant", "bee", "fly"]
    assert "1 classes have validation images and no training images: 'fly'; the network" in caplog.text
