"""Labels become class indices exactly once, and names of classes are read from every known file."""

import json
import tracemalloc
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from scalablevit.segmentation.class_names import find_class_file, read_class_names
from scalablevit.segmentation.label_map import LabelMap, OutsideLabelsError
from scalablevit.segmentation.labels import IGNORED, count_labels, names_of_labels

DTYPES = [np.uint8, np.uint16, np.int32]


@pytest.mark.parametrize("dtype", DTYPES)
def test_ade20k_labels_are_reduced_once(dtype):
    label_map = LabelMap(150, reduce_zero_label=True)
    labels = np.array([[0, 1, 2], [149, 150, 255]], dtype)
    assert label_map.encode(labels).tolist() == [[255, 0, 1], [148, 149, 255]]
    assert label_map.encode(labels).dtype == np.uint8
    assert labels.tolist() == [[0, 1, 2], [149, 150, 255]]  # what was given is as it was


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_labels_stay_as_they_are(dtype):
    labels = np.array([[0, 1, 149, 255]], dtype)
    assert LabelMap(150).encode(labels).tolist() == [[0, 1, 149, 255]]


def test_labels_to_be_ignored():
    label_map = LabelMap(3, ignore_labels=(255, 65535, 7))
    assert label_map.encode(np.array([[0, 2, 7, 65535]], np.uint16)).tolist() == [[0, 2, 255, 255]]
    inner = LabelMap(3, ignore_labels=(1,))
    assert inner.encode(np.array([[0, 1, 2]], np.uint8)).tolist() == [[0, 255, 2]]
    assert LabelMap(2, ignore_labels=(-1,)).encode(np.array([[-1, 1]], np.int32)).tolist() == [[255, 1]]


@pytest.mark.parametrize(
    ("label_map", "label", "words"),
    [
        (LabelMap(150, reduce_zero_label=True), 151, "labels 1 to 150 are classes and 0, 255 ignored"),
        (LabelMap(150), 150, "labels 0 to 149 are classes and 255 ignored"),
        (LabelMap(150), 254, "label 254"),
        (LabelMap(3, ignore_labels=()), 255, "labels 0 to 2 are classes$"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_outside_the_classes_are_named(label_map, label, words, dtype):
    with pytest.raises(OutsideLabelsError, match=words) as caught:
        label_map.encode(np.array([[1, label]], dtype))
    assert caught.value.labels == [label]


@pytest.mark.parametrize("label", [-1, 70000])
def test_labels_beyond_16_bits_are_outside_too(label):
    with pytest.raises(OutsideLabelsError, match=f"label {label}"):
        LabelMap(3).encode(np.array([[0, label]], np.int32))


@pytest.mark.parametrize(
    ("entry", "in_colours"), [((-1, 0), False), ((65536, 0), False), ((2**24, 0), True), ((-1, 0), True)]
)
def test_labels_that_no_mask_can_have_are_refused(entry, in_colours):
    with pytest.raises(ValueError, match=f"the label map has the label {entry[0]}.*0 to "):
        LabelMap(1, entries=(entry,), in_colours=in_colours)
    LabelMap(1, entries=((0, 0), (-1, IGNORED)))  # as that of number plates in Cityscapes


@pytest.mark.parametrize("count", [0, 256])
def test_class_indices_leave_room_for_ignored(count):
    with pytest.raises(ValueError, match=f"1 to 255 classes.*got {count}"):
        LabelMap(count)
    assert LabelMap(255).encode(np.array([[254]], np.uint8)).tolist() == [[254]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_count_labels(dtype, monkeypatch):
    monkeypatch.setattr("scalablevit.segmentation.labels._PIXELS_AT_ONCE", 2)
    assert count_labels(np.array([[0, 3, 3], [255, 0, 3]], dtype)) == {0: 2, 3: 3, 255: 1}


def test_classes_are_numbered_after_the_labels_found():
    assert names_of_labels({0, 2, 255}) == ["class 0", "class 1", "class 2"]
    assert names_of_labels({0, 2, 255}, reduce_zero_label=True, ignore_labels=()) == [f"class {i}" for i in range(255)]
    assert names_of_labels({0, 1, 2}, reduce_zero_label=True) == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("found", "options", "words"),
    [
        ({0, 255}, {}, "look like black-and-white masks; rewrite 255 as 1: .*255 is not among them"),
        ({0, 255}, {"ignore_labels": ()}, "rewrite 255 as 1: "),
        ({0, 255}, {"reduce_zero_label": True}, "rewrite 255 as 1 and set reduce_zero_label to false"),
        (
            {0, 7, 255},
            {"ignore_labels": (7, 255)},
            "only the label 0 beside the ignored ones .7, 255.*change ignore_labels",
        ),
        ({0, 1}, {"reduce_zero_label": True}, "only the label 1"),
        ({255}, {}, "no label"),
        ({-1, 0, 1}, {}, "label -1"),
        ({0, 300}, {}, "up to 300, but there can be 255"),
    ],
)
def test_labels_that_make_no_classes(found, options, words):
    with pytest.raises(ValueError, match=words):
        names_of_labels(found, **options)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "road\ncar\n\ntraffic light\n"),
        ("classes.txt", "\ufeffroad\r\ncar\r\ntraffic light"),
        ("classes.txt", "0 road\n1 car\n2 traffic light\n"),
        ("classes.txt", "2: traffic light\n0: road\n1: car"),
        ("classes.json", ["road", "car", "traffic light"]),
        ("classes.json", {"0": "road", "2": "traffic light", "1": "car", "255": "void"}),
        ("classes.json", {"road": 0, "traffic light": 2, "car": 1}),
    ],
)
def test_forms_of_class_files(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert find_class_file(tmp_path) == path
    assert read_class_names(path) == ["road", "car", "traffic light"]


OBJECT_INFO = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t11\t2\t1\twall\n2\t0.1\t6\t3\t1\tbuilding, edifice\n"


def test_object_info_numbers_labels_from_1(tmp_path):
    path = write(tmp_path / "objectInfo150.txt", OBJECT_INFO)
    assert read_class_names(path, reduce_zero_label=True) == ["wall", "building"]
    assert read_class_names(path) == ["other", "wall", "building"]
    comma = write(tmp_path / "x.csv", OBJECT_INFO.replace(", ", ";").replace("\t", ","))
    assert read_class_names(comma, reduce_zero_label=True) == ["wall", "building"]


def test_synonyms_stay_where_the_first_is_shared(tmp_path):
    path = write(tmp_path / "o.txt", OBJECT_INFO + "3\t0.1\t6\t3\t1\twall, bulwark\n")
    assert read_class_names(path, reduce_zero_label=True) == ["wall", "building", "wall, bulwark"]


def test_numbered_files_follow_the_labels_and_lists_the_classes(tmp_path):
    numbered = write(tmp_path / "n.json", {"0": "nothing", "1": "cat", "3": "dog"})
    assert read_class_names(numbered, reduce_zero_label=True) == ["cat", "class 1", "dog"]
    assert read_class_names(numbered) == ["nothing", "cat", "class 2", "dog"]
    listed = write(tmp_path / "l.json", ["cat", "dog"])
    assert read_class_names(listed, reduce_zero_label=True) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.txt", "", "names 0 classes"),
        ("c.txt", "only", "names 1 classes"),
        ("c.txt", "\n".join(map(str, range(300))), "names 300 classes"),
        ("c.txt", "a\nb\na", "'a' more than once"),
        ("c.json", "{", "not valid JSON"),
        ("c.json", {"a": "b"}, "JSON list of names"),
        ("c.json", [1, 2], "JSON list of names"),
        ("c.json", {"a": True}, "JSON list of names"),
        ("o.txt", OBJECT_INFO + "three\n", "the line 'three'"),
    ],
)
def test_faulty_class_files_are_named(tmp_path, name, content, words):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=words) as caught:
        read_class_names(path)
    assert str(path) in str(caught.value)


def test_a_missing_class_file(tmp_path):
    with pytest.raises(ValueError, match=r"none.txt: class_names_file cannot be read"):
        read_class_names(tmp_path / "none.txt")
    assert find_class_file(tmp_path) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_every_encoding_and_form_of_accents(tmp_path, encoding, form):
    text = unicodedata.normalize(form, "grün\r\nstraße\r\ncafé\r\n")
    (tmp_path / "classes.txt").write_bytes(text.encode(encoding))
    assert read_class_names(tmp_path / "classes.txt") == ["grün", "straße", "café"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "0 sky\n999999999 sea\n"),
        ("classes.json", '{"0": "sky", "999999999": "sea"}'),
        ("classes.json", '{"sky": 0, "sea": 999999999999}'),
        ("objectInfo150.csv", "Idx,Name\n0,sky\n999999999,sea\n"),
    ],
)
def test_a_large_number_of_a_class_is_refused_before_it_fills_the_memory(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"numbers a class 999,999,999.*ignore the label"):
            read_class_names(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    if name != "classes.json" or '"sea": 9' not in text:
        with pytest.raises(ValueError, match="names 1 classes"):
            read_class_names(tmp_path / name, ignore_labels=[999_999_999])


def test_class_names_of_roboflows_masks(tmp_path):
    (tmp_path / "train").mkdir()
    table = tmp_path / "train" / "_classes.csv"
    table.write_text("Pixel Value, Class\n0, background\n1, cat\n2, dog, small\n")
    assert find_class_file(tmp_path) == table
    assert read_class_names(table) == ["background", "cat", "dog, small"]
    table.write_text("filename, cat, dog\na.jpg, 1, 0\n")  # labels of images
    assert find_class_file(tmp_path) is None
