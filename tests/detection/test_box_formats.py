"""Data folders of other formats: recognised, read to the same boxes, and their faults named."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalablevit.data import image_file
from scalablevit.data.image_size import size_in_header
from scalablevit.detection.check import check_coco
from scalablevit.detection.coco import AnnotationSource, CocoError
from scalablevit.detection.dataset import CocoDataset
from scalablevit.detection.entry import recognizes
from scalablevit.detection.formats import detect_format
from scalablevit.detection.split import read_split

# image -> (class, left, top, right, bottom)
TRAIN = {"a": [("cat", 10, 20, 50, 60), ("dog", 0, 0, 25, 30)], "b": [("dog", 30, 10, 70, 40)], "c": []}
VAL = {"d": [("cat", 5, 5, 25, 45)]}
NAMES = ["cat", "dog"]


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path)) + ord(path.stem[0])).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def yolo_line(name: str, left: int, top: int, right: int, bottom: int) -> str:
    x, y, w, h = (left + right) / 200, (top + bottom) / 160, (right - left) / 100, (bottom - top) / 80
    return f"{NAMES.index(name)} {x} {y} {w} {h}"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def yolo(root: Path, layout: str = "images/{part}") -> None:
    for part, images in (("train", TRAIN), ("val", VAL)):
        for name, boxes in images.items():
            image = root / layout.format(part=part) / f"{name}.png"
            draw(image)
            if boxes:
                label = root / layout.format(part=part).replace("images", "labels") / f"{name}.txt"
                write(label, "\n".join(yolo_line(*box) for box in boxes) + "\n")
    where = "" if layout == "images/{part}" else "../"
    lines = [f"{part}: {where}{layout.format(part=part)}" for part in ("train", "val")]
    write(root / "data.yaml", "\n".join([*lines, "nc: 2", "names: [cat, dog]"]))


def voc(root: Path) -> None:
    for part, images in (("train", TRAIN), ("val", VAL)):
        write(root / "ImageSets" / "Main" / f"{part}.txt", "\n".join(images))
        for name, boxes in images.items():
            draw(root / "JPEGImages" / f"{name}.png")
            objects = "".join(
                f"<object><name>{label}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
                f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
                for label, left, top, right, bottom in boxes
            )
            size = "<size><width>100</width><height>80</height><depth>3</depth></size>"
            text = f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
            write(root / "Annotations" / f"{name}.xml", text)


def csv(root: Path) -> None:
    for part, images in (("train", TRAIN), ("val", VAL)):
        lines = ["path,x1,y1,x2,y2,class"]
        for name, boxes in images.items():
            draw(root / "images" / f"{name}.png")
            lines += [
                f"images/{name}.png,{left},{top},{right},{bottom},{label}" for label, left, top, right, bottom in boxes
            ]
            lines += [f"images/{name}.png,,,,,"] if not boxes else []
        write(root / f"{part}.csv", "\n".join(lines))


WRITERS: dict[str, Any] = {
    "yolo": yolo,
    "yolo of Roboflow": lambda root: yolo(root, "{part}/images"),
    "voc": voc,
    "csv": csv,
}


def boxes_of(annotations: Any) -> dict[str, list[tuple[str, float, float, float, float]]]:
    found = {}
    for i in range(len(annotations)):
        rows = annotations.rows(i)
        corners = annotations.boxes_xyxy(rows).round(6).tolist()
        names = [annotations.class_names[k] for k in annotations.labels[rows]]
        found[Path(annotations.file_name(i)).stem] = [(n, *c) for n, c in zip(names, corners, strict=True)]
    return found


@pytest.mark.parametrize("written", WRITERS)
def test_every_format_reads_to_the_same_boxes(tmp_path: Path, written: str) -> None:
    WRITERS[written](tmp_path)
    assert detect_format(tmp_path, AnnotationSource()) == written.split()[0]
    assert recognizes(tmp_path, {})
    split = read_split(tmp_path, AnnotationSource())
    assert split.train.class_names == NAMES
    assert boxes_of(split.train) == TRAIN
    assert boxes_of(split.val) == VAL
    assert split.train.present.all()
    report = check_coco(tmp_path)
    assert report.ok, report.to_text()
    assert (report.num_train, report.num_val, report.num_empty) == (3, 1, 1)
    assert report.classes == {"cat": (1, 1), "dog": (2, 0)}
    named = read_split(tmp_path, AnnotationSource(format=detect_format(tmp_path, AnnotationSource())))
    assert boxes_of(named.train) == TRAIN


def test_outlines_of_yolo_are_masks(tmp_path: Path) -> None:
    yolo(tmp_path)
    write(tmp_path / "labels" / "train" / "a.txt", "1 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75\n")
    train = read_split(tmp_path, AnnotationSource(masks=True)).train
    assert train.boxes_xyxy(train.rows(0)).tolist() == [[10, 20, 50, 60]]
    assert train.mask(0).sum() == 40 * 40
    assert train.has_mask(np.array([0, 1])).tolist() == [True, False]


def test_yolo_without_a_yaml_and_without_a_validation_part(tmp_path: Path) -> None:
    yolo(tmp_path, "images")
    (tmp_path / "data.yaml").unlink()
    split = read_split(tmp_path, AnnotationSource(val_fraction=0.3))
    assert split.is_split
    assert len(split.train) == 4
    assert split.train.class_names == ["0", "1"]
    write(tmp_path / "labels" / "classes.txt", "cat\ndog\n")
    assert read_split(tmp_path, AnnotationSource()).train.class_names == NAMES


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("7 0.5 0.5 0.1 0.1", "unknown-category"),
        ("0.5 0.5 0.5 0.1 0.1", "unknown-category"),
        ("0 0.5 0.5 0.1", "bad-box"),
        ("cat 0.5 0.5 0.1 0.1", "bad-box"),
        ("0 nan 0.5 0.1 0.1", "bad-box"),
        ("0 1e400 0.5 0.1 0.1", "bad-box"),
        ("0 0.5 0.5 0 0.1", "empty-box"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path: Path, line: str, kind: str) -> None:
    yolo(tmp_path)
    write(tmp_path / "labels" / "train" / "b.txt", f"1 0.5 0.5 0.2 0.2\n{line}\n")
    train = read_split(tmp_path, AnnotationSource()).train
    assert train.problem_counts == {kind: 1}
    assert "labels/train/b.txt:2" in train.problems[0].message


def test_pixels_in_the_place_of_fractions(tmp_path: Path) -> None:
    yolo(tmp_path)
    for name in TRAIN:
        write(tmp_path / "labels" / "train" / f"{name}.txt", "0 50 40 20 20\n")
    with pytest.raises(CocoError, match=r"3 of 3 lines have numbers above 1.*divide pixels"):
        read_split(tmp_path, AnnotationSource())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: [cat\n", "cannot be read"),
        ("names: &a [x, *a]\n", "aliases"),
        ("names: 3\n", "no training part was found"),
    ],
)
def test_a_bad_yaml_is_one_message(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path / "data.yaml", text)
    (tmp_path / "images").mkdir()
    with pytest.raises(CocoError, match=words):
        read_split(tmp_path, AnnotationSource())


BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><filename>a.png</filename><object><name>&b;</name></object></annotation>"""


@pytest.mark.parametrize("text", [BOMB, "<annotation>", "", "<a/>" * 2, "\x00"])
def test_an_xml_file_that_cannot_be_used_is_reported_and_never_expanded(tmp_path: Path, text: str) -> None:
    voc(tmp_path)
    write(tmp_path / "Annotations" / "b.xml", text)
    train = read_split(tmp_path, AnnotationSource()).train
    assert train.problem_counts["bad-label-file"] == 1
    assert "b.xml: it" in train.problems[0].message
    assert sorted(boxes_of(train)) == ["a", "c"]
    for name in TRAIN:
        write(tmp_path / "Annotations" / f"{name}.xml", text)
    with pytest.raises(CocoError, match="none of the 3 XML files can be read"):
        read_split(tmp_path, AnnotationSource())


def test_voc_corners_that_count_from_0(tmp_path: Path) -> None:
    voc(tmp_path)
    file = tmp_path / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("<xmin>1</xmin>", "<xmin>0</xmin>"))
    train = read_split(tmp_path, AnnotationSource()).train
    assert train.boxes_xyxy(train.rows(0))[1].tolist() == [0, 1, 25, 30]


def test_a_table_without_its_columns_and_lines_that_are_no_boxes(tmp_path: Path) -> None:
    csv(tmp_path)
    table = tmp_path / "train.csv"
    table.write_text(table.read_text() + "images/a.png,1,2,x,4,cat\n\nimages/zz.png,1,2,3,4,cat\nimages/a.png,1\n")
    train = read_split(tmp_path, AnnotationSource()).train
    assert train.problem_counts["bad-box"] == 1
    assert train.problem_counts["missing-file"] == 1
    write(tmp_path / "train.csv", "a,b\n1,2\n")
    with pytest.raises(CocoError, match="must name the columns path, x1"):
        read_split(tmp_path, AnnotationSource(train_annotations="train.csv"))


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format must be one of auto, coco, yolo, voc, csv, got 'x'"):
        AnnotationSource(format="x")  # type: ignore[arg-type]


def test_links_and_pipes_among_labels_do_not_hang(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").unlink()
    os.mkfifo(tmp_path / "labels" / "train" / "a.txt")
    assert boxes_of(read_split(tmp_path, AnnotationSource()).train)["a"] == []


def test_sizes_of_images_that_a_package_reads(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    Image.new("RGB", (100, 80), "red").save(tmp_path / "1.heic")
    Image.OPEN.pop("HEIF")  # as in a process that has not read one yet
    image_file._formats.cache_clear()
    assert size_in_header(tmp_path / "1.heic", upright=False) == (100, 80)


@pytest.mark.parametrize("changed", ["a", "d"])
def test_what_voc_corners_count_from_is_the_same_for_both_parts(tmp_path: Path, changed: str) -> None:
    voc(tmp_path)
    file = tmp_path / "Annotations" / f"{changed}.xml"
    file.write_text(re.sub(r"<xmin>\d+<", "<xmin>0<", file.read_text(), count=1))
    split = read_split(tmp_path, AnnotationSource())
    assert boxes_of(split.train)["b"] == [("dog", 31, 11, 70, 40)]
    if changed == "a":
        assert boxes_of(split.val)["d"] == [("cat", 6, 6, 25, 45)]
    evaluated = read_split(tmp_path, AnnotationSource(trained_class_names=NAMES))
    assert boxes_of(evaluated.val) == boxes_of(split.val)


def test_voc_corners_with_fractions_are_edges_that_count_from_0(tmp_path: Path) -> None:
    voc(tmp_path)
    for file in (tmp_path / "Annotations").glob("*.xml"):
        file.write_text(re.sub(r"<(x|y)(min|max)>(\d+)<", r"<\1\2>\3.25<", file.read_text()))
    train = read_split(tmp_path, AnnotationSource()).train
    assert boxes_of(train)["b"] == [("dog", 31.25, 11.25, 70.25, 40.25)]


CAFE, CAFE_APART = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("written", ["yolo", "voc", "csv"])
def test_accents_in_either_form_are_one_class(tmp_path: Path, written: str) -> None:
    WRITERS[written](tmp_path)
    for number, file in enumerate(sorted(tmp_path.rglob("*"))):
        if file.suffix in (".yaml", ".xml", ".csv"):
            name = CAFE_APART if number % 2 or written == "yolo" else CAFE
            file.write_text(file.read_text().replace("cat", name), encoding="utf-8")
    split = read_split(tmp_path, AnnotationSource())
    assert sorted(split.train.class_names) == [CAFE, "dog"]
    evaluated = read_split(tmp_path, AnnotationSource(trained_class_names=["dog", CAFE_APART]))
    assert evaluated.val.class_names == ["dog", CAFE_APART]
    assert evaluated.val.labels.tolist() == [1]


def beside(root: Path) -> None:
    """As labelImg writes it: label files among the images."""
    for part, images in (("train", TRAIN), ("val", VAL)):
        for name, boxes in images.items():
            draw(root / part / f"{name}.png")
            write(root / part / f"{name}.txt", "\n".join(yolo_line(*box) for box in boxes))
    write(root / "classes.txt", "cat\ndog\n")


def darknet(root: Path) -> None:
    """As CVAT exports it: paths start from a folder "data" that is not there."""
    lists: dict[str, list[str]] = {"train": [], "valid": []}
    for part, images in (("train", TRAIN), ("valid", VAL)):
        for name, boxes in images.items():
            draw(root / f"obj_{part}_data" / f"{name}.png")
            write(root / f"obj_{part}_data" / f"{name}.txt", "\n".join(yolo_line(*box) for box in boxes))
            lists[part].append(f"data/obj_{part}_data/{name}.png\n")
        write(root / f"{part}.txt", "".join(lists[part]))
    write(root / "obj.names", "cat\ndog\n")
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    write(root / "obj.data", text)


@pytest.mark.parametrize("layout", [beside, darknet])
def test_yolo_labels_among_the_images(tmp_path: Path, layout: Any) -> None:
    layout(tmp_path)
    assert recognizes(tmp_path, {})
    split = read_split(tmp_path, AnnotationSource())
    assert split.train.class_names == NAMES
    assert (boxes_of(split.train), boxes_of(split.val)) == (TRAIN, VAL)


def test_texts_among_images_that_are_no_boxes_are_not_yolo(tmp_path: Path) -> None:
    for name in "abc":
        draw(tmp_path / f"{name}.png")
        write(tmp_path / f"{name}.txt", "a photo of a cat\n")
    assert detect_format(tmp_path, AnnotationSource()) == "coco"


def test_notes_of_label_studio_are_no_annotations(tmp_path: Path) -> None:
    yolo(tmp_path)
    write(tmp_path / "notes.json", '{"categories": [{"id": 0, "name": "cat"}], "info": {}}')
    assert boxes_of(read_split(tmp_path, AnnotationSource()).train) == TRAIN


@pytest.mark.parametrize("names", ["[no, 007]", "{0: no, 1: 007}", "\n  0: no\n  1: 007"])
def test_class_names_that_yaml_takes_for_other_things(tmp_path: Path, names: str) -> None:
    yolo(tmp_path)
    file = tmp_path / "data.yaml"
    file.write_text(file.read_text().replace("[cat, dog]", names))
    assert read_split(tmp_path, AnnotationSource()).train.class_names == ["no", "007"]


def test_keypoints_behind_a_box_are_no_outline(tmp_path: Path) -> None:
    yolo(tmp_path)
    for file in (tmp_path / "labels").rglob("*.txt"):
        file.write_text("".join(f"{line} 0.9 0.9 0.1 0.1\n" for line in file.read_text().splitlines()))
    write(tmp_path / "data.yaml", (tmp_path / "data.yaml").read_text() + "\nkpt_shape: [2, 2]\n")
    assert boxes_of(read_split(tmp_path, AnnotationSource(masks=True)).train) == TRAIN


def test_voc_names_with_spaces_in_a_list(tmp_path: Path) -> None:
    voc(tmp_path)
    for folder in ("JPEGImages", "Annotations"):
        for file in (tmp_path / folder).iterdir():
            file.rename(file.with_name(f"my {file.name}"))
    for file in (tmp_path / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<filename>", "<filename>my "))
    main = tmp_path / "ImageSets" / "Main"
    write(main / "train.txt", "my a\nmy b\nmy c\n")
    write(main / "val.txt", "my d\n")
    split = read_split(tmp_path, AnnotationSource())
    assert (len(split.train_indices), len(split.val_indices)) == (3, 1)
    assert boxes_of(split.train)["my a"] == TRAIN["a"]
    write(main / "train.txt", "my a  1\nmy b -1\n")
    with pytest.raises(CocoError, match="my"):
        read_split(tmp_path, AnnotationSource())


@pytest.mark.parametrize("name", ["", "000001", "{stem}.jpg", "C:\\images\\{stem}.jpg"])
def test_an_image_that_the_xml_calls_otherwise_is_found_by_the_name_of_the_xml(tmp_path: Path, name: str) -> None:
    voc(tmp_path)
    for file in (tmp_path / "Annotations").iterdir():
        wrong = name.format(stem=file.stem)
        file.write_text(file.read_text().replace(f"<filename>{file.stem}.png", f"<filename>{wrong}"))
    split = read_split(tmp_path, AnnotationSource())
    assert (boxes_of(split.train), boxes_of(split.val)) == (TRAIN, VAL)


def test_xml_files_of_one_name_in_folders_of_their_own(tmp_path: Path) -> None:
    voc(tmp_path / "source")
    for camera in ("one", "two"):
        for name in ("a", "b", "c"):
            draw(tmp_path / "JPEGImages" / camera / f"{name}.png")
            text = (tmp_path / "source" / "Annotations" / f"{name}.xml").read_text()
            write(tmp_path / "Annotations" / camera / f"{name}.XML", text)
    split = read_split(tmp_path, AnnotationSource(format="voc"))
    assert sorted(split.train.file_name(i) for i in range(6)) == [f"{c}/{n}.png" for c in ("one", "two") for n in "abc"]
    assert split.train.problem_counts == {}
    assert detect_format(tmp_path, AnnotationSource()) == "voc"


@pytest.mark.parametrize("form", ["in folders", "semicolons", "tabs", "no header"])
def test_tables_as_other_tools_write_them(tmp_path: Path, form: str) -> None:
    csv(tmp_path)
    for part in ("train", "val"):
        table = tmp_path / f"{part}.csv"
        text = table.read_text()
        if form == "no header":
            text = text.partition("\n")[2]
        text = text.replace(",", {"semicolons": ";", "tabs": "\t"}.get(form, ","))
        table.write_text(text)
        if form == "in folders":  # Roboflow's
            write(tmp_path / part / "_annotations.csv", text.replace("images/", ""))
            table.unlink()
            for name in TRAIN if part == "train" else VAL:
                (tmp_path / "images" / f"{name}.png").rename(tmp_path / part / f"{name}.png")
    assert detect_format(tmp_path, AnnotationSource()) == "csv"
    split = read_split(tmp_path, AnnotationSource())
    assert (boxes_of(split.train), boxes_of(split.val)) == (TRAIN, VAL)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("frame", ["auto", "stored", "upright"])
def test_boxes_of_yolo_count_in_upright_images_unless_told_otherwise(
    tmp_path: Path, orientation: int, frame: Any
) -> None:
    yolo(tmp_path)
    path = tmp_path / "images" / "train" / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save(path, exif=exif)
    train = read_split(tmp_path, AnnotationSource(annotation_frame=frame)).train
    sample = CocoDataset(train, np.array([0]), transform=None, max_substitutes=0, annotation_frame=frame)[0]
    assert sample.readable
    assert sample.orientation == (orientation if frame == "stored" else 1)
    is_turned = orientation == 6 and frame != "stored"
    assert train.sizes[0].tolist() == ([80, 100] if is_turned else [100, 80])
    assert "orientation-unclear" not in check_coco(tmp_path, annotation_frame=frame, num_workers=0).counts


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_part_that_the_yaml_names_and_is_not_there_is_an_error(tmp_path: Path, part: str) -> None:
    yolo(tmp_path)
    file = tmp_path / "data.yaml"
    file.write_text(file.read_text().replace(f"images/{part}", "elsewhere/images"))
    with pytest.raises(CocoError, match=f"the part '{part}' is said to be 'elsewhere/images', which is not there"):
        read_split(tmp_path, AnnotationSource())
    given: Any = {f"{part}_images": f"images/{part}"}
    assert boxes_of(read_split(tmp_path, AnnotationSource(**given)).train) == TRAIN
    if part == "train":  # a network is evaluated where there are no training data
        assert boxes_of(read_split(tmp_path, AnnotationSource(trained_class_names=NAMES)).val) == VAL


def test_yolo_without_labels_says_where_they_are_looked_for(tmp_path: Path) -> None:
    yolo(tmp_path)
    for file in (tmp_path / "labels" / "train").iterdir():
        file.unlink()
    with pytest.raises(CocoError, match=r"none of 3 images has an object.*labels/train/a\.txt"):
        read_split(tmp_path, AnnotationSource())


def test_yolo_labels_in_upper_case(tmp_path: Path) -> None:
    yolo(tmp_path)
    for file in (tmp_path / "labels" / "train").iterdir():
        file.rename(file.with_suffix(".TXT"))
    (tmp_path / "labels").rename(tmp_path / "Labels")
    assert boxes_of(read_split(tmp_path, AnnotationSource()).train) == TRAIN


def test_of_several_yamls_the_one_with_the_data_is_taken(tmp_path: Path) -> None:
    yolo(tmp_path)
    write(tmp_path / "a.yaml", "names: [x]\n")
    write(tmp_path / "b.yaml", "train: images/val\nnames: [x]\n")
    assert boxes_of(read_split(tmp_path, AnnotationSource()).train) == TRAIN


@pytest.mark.parametrize("written", WRITERS)
def test_a_root_that_is_one_folder_too_high_is_told(tmp_path: Path, written: str) -> None:
    WRITERS[written](tmp_path / "data set")
    (tmp_path / "notes").mkdir()
    with pytest.raises(CocoError, match="data set seems to have them: give that folder as root"):
        read_split(tmp_path, AnnotationSource())


def test_lists_of_voc_with_paths_of_images(tmp_path: Path) -> None:
    voc(tmp_path)
    for part, images in (("train", TRAIN), ("val", VAL)):
        lines = [f"JPEGImages/{name}.png" if part == "train" else f"C:\\set\\{name}.png" for name in images]
        write(tmp_path / "ImageSets" / "Main" / f"{part}.txt", "\n".join(lines))
    split = read_split(tmp_path, AnnotationSource())
    assert (boxes_of(split.train), boxes_of(split.val)) == (TRAIN, VAL)


def test_xml_files_of_a_list_that_are_not_there_are_told(tmp_path: Path) -> None:
    voc(tmp_path)
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "a\nlost\nb\nc")
    train = read_split(tmp_path, AnnotationSource()).train
    assert train.problem_counts == {"bad-label-file": 1}
    assert "lost.xml: there is no such file" in train.problems[0].message


def test_xml_of_something_else_is_no_image_without_objects(tmp_path: Path) -> None:
    voc(tmp_path)
    write(tmp_path / "Annotations" / "c.xml", "<settings><size><width>100</width></size></settings>")
    train = read_split(tmp_path, AnnotationSource()).train
    assert train.problem_counts["bad-label-file"] == 1
    assert "its root is <settings>" in train.problems[0].message


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ("images/{}.png,0.1,0.2,0.5,0.6,cat", "fraction-boxes", "corners are in pixels here; multiply x by the width"),
        ("images/{}.png,60,50,30,20,cat", "no-annotations", "negative width or height: swap the corners, or add left"),
        ("{},10,20,30,40,cat", "missing-images", "a.png, with another ending: correct file_name"),
    ],
)
def test_tables_with_other_numbers_are_told_in_their_own_terms(tmp_path: Path, row: str, kind: str, words: str) -> None:
    csv(tmp_path)
    lines = [row.format(name) for name in ("a", "b", "c", "a")]
    write(tmp_path / "train.csv", "\n".join(["path,x1,y1,x2,y2,class", *lines]))
    with pytest.raises(CocoError) as caught:
        read_split(tmp_path, AnnotationSource())
    assert caught.value.kind == kind
    assert words in str(caught.value)


def test_a_table_of_boxes_with_other_columns_is_told(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "a.png")
    write(tmp_path / "train.csv", "filename,x,y,w,h,label\na.png,1,2,3,4,cat\n")
    with pytest.raises(CocoError, match="needs the columns path, x1, y1, x2, y2, class"):
        read_split(tmp_path, AnnotationSource())
