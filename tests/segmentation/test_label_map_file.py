"""Label maps: which colours and numbers are which class, read from every known form and written back."""

import json

import numpy as np
import pytest

from scalablevit.segmentation.label_map import LabelMap, pack_colours
from scalablevit.segmentation.label_map_file import find_label_map, read_label_map

CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:10,20,30::\nignored:255,255,255::\n"
COLOURS = ((0, 0), (10 << 16 | 20 << 8 | 30, 1), (0xFFFFFF, 255))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", CVAT),
        ("labelmap.txt", CVAT.replace("\n", "\r\n")),
        ("camvid.txt", "0 0 0\tbackground\n10 20 30\t\tcar\n255 255 255\tIgnored\n"),
        ("dict.csv", "name,r,g,b\nbackground,0,0,0\ncar,10,20,30\nignore,255,255,255\n"),
        ("hex.txt", "#000000 background\n#0a141e car\n#ffffff ignored\n"),
        ("map.json", json.dumps({"background": [0, 0, 0], "car": [10, 20, 30], "ignored": "#ffffff"})),
        ("map.json", json.dumps({"#000000": "background", "10,20,30": "car", "#FFFFFF": None})),
        ("map.yaml", "background: '#000000'\ncar: [10, 20, 30]\nignored: [[255, 255, 255]]\n"),
    ],
)
def test_colours_of_classes(tmp_path, name, text):
    found = read_label_map(write(tmp_path / name, text))
    assert found.entries == COLOURS
    assert found.class_names == ["background", "car"]
    assert found.in_colours


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.txt", "7 road\n8: sidewalk\n26 car\n27 car\n0 ignored\n"),
        ("ids.json", json.dumps({"road": 7, "sidewalk": [8], "car": [26, 27], "ignored": [0]})),
        ("ids.json", json.dumps({"7": "road", "8": "sidewalk", "26": "car", "27": "car", "0": None})),
        ("ids.yml", "7: road\n8: sidewalk\n26: car\n27: car\n0: ignored\n"),
    ],
)
def test_numbers_of_classes(tmp_path, name, text):
    found = read_label_map(write(tmp_path / name, text))
    assert found.entries == ((7, 0), (8, 1), (26, 2), (27, 2), (0, 255))
    assert found.class_names == ["road", "sidewalk", "car"]
    assert not found.in_colours


@pytest.mark.parametrize("text", ["7 0\n8 1\n-1 255\n0 255\n", None])
def test_numbers_to_class_indices_as_cityscapes_has_them(tmp_path, text):
    path = tmp_path / ("ids.txt" if text else "ids.json")
    found = read_label_map(write(path, text or json.dumps({"7": 0, "8": 1, "-1": 255, "0": -1})))
    assert found.class_names is None
    assert found.num_classes == 2
    assert found.label_map().encode(np.array([[7, 8, 0]], np.uint8)).tolist() == [[0, 1, 255]]


def test_a_utf_16_file_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "labelmap.txt"
    path.write_bytes("grün:0,0,0::\nblau:1,1,1::\n".encode("utf-16"))
    assert read_label_map(path).class_names == ["grün", "blau"]


def test_labels_come_back_as_they_were(tmp_path):
    label_map = read_label_map(write(tmp_path / "labelmap.txt", CVAT)).label_map()
    pixels = np.array([[[10, 20, 30], [0, 0, 0]]], np.uint8)
    classes = label_map.encode(pack_colours(pixels))
    assert classes.tolist() == [[1, 0]]
    assert np.array_equal(label_map.decode(classes), pixels)
    numbers = read_label_map(write(tmp_path / "ids.txt", "300 a\n7 b\n8 b\n")).label_map()
    assert numbers.decode(np.array([[0, 1]], np.uint8)).tolist() == [[300, 7]]
    assert numbers.decode(np.array([[0]], np.uint8)).dtype == np.uint16


def test_maps_travel_as_json(tmp_path):
    for label_map in (
        LabelMap(3, reduce_zero_label=True, ignore_labels=(255, 7)),
        read_label_map(write(tmp_path / "labelmap.txt", CVAT)).label_map(),
    ):
        assert LabelMap.from_dict(json.loads(json.dumps(label_map.to_dict()))) == label_map


def test_another_order_of_the_same_names(tmp_path):
    found = read_label_map(write(tmp_path / "labelmap.txt", CVAT))
    assert found.ordered_as(["car", "background"]).encode(np.array([[0, 0x0A141E]], np.int32)).tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="'bus' is not in the label map"):
        found.ordered_as(["car", "background", "bus"])


def test_colours_outside_the_map_are_shown_as_colours(tmp_path):
    label_map = read_label_map(write(tmp_path / "labelmap.txt", CVAT)).label_map()
    with pytest.raises(
        ValueError, match=r"colour #0a141f, but colours #000000, #0a141e are classes and #ffffff ignored"
    ):
        label_map.encode(np.array([[0x0A141F]], np.int32))


def test_only_cvats_own_form_is_found_by_itself(tmp_path):
    assert find_label_map(tmp_path) is None
    write(tmp_path / "labelmap.txt", "road\ncar\n")
    assert find_label_map(tmp_path) is None
    assert find_label_map(write(tmp_path / "labelmap.txt", CVAT).parent) == tmp_path / "labelmap.txt"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "", "cannot be understood"),
        ("a.txt", "road\ncar\n", "cannot be understood at 'road'"),
        ("a.txt", "0 0 0 a\n0 0 0 b\n", "the colour #000000 more than once"),
        ("a.txt", "1 a\n1 b\n", "the label 1 more than once"),
        ("a.txt", "1 a\n", "names 1 classes"),
        ("a.txt", "0 a\n999999999 b\n", "label 999,999,999"),
        ("a.txt", "a:1,2,999::\nb:1,2,3::\n", "channels are 0 to 255"),
        ("a.txt", "7 0\n8 2\n", "without gaps"),
        ("a.txt", "7 0\n8 car\n", "both names and class indices"),
        ("a.json", "[1, 2]", "cannot be understood"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", '{"a": ' + "9" * 5000 + ', "b": 1}', "not valid JSON"),
        ("a.json", '{"a": 1, "b": "#000000"}', "both colours and numbers"),
        ("a.json", '{"a": [], "b": {"c": 1}}', "cannot be understood"),
        ("a.json", '{"a": [], "b": []}', "cannot be understood"),
        ("a.yaml", "a: 1\n" + "b: 2 # long\n" * 20_000, "characters of YAML"),
        ("a.yaml", "a: &x [1, 2]\nb: *x\n", "anchors"),
        ("a.yaml", "a: [1\n", "not valid YAML"),
    ],
)
def test_other_files_are_refused_in_one_message(tmp_path, name, text, words):
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=words) as told:
        read_label_map(path)
    assert str(told.value).startswith(f"{path}: label_map")
    assert len(str(told.value)) < 500
